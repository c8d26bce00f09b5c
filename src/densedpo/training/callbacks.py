"""What a run tells whoever wants to listen: trackers, progress pages, tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from densedpo.training.guards import Alarm


class Callback:
    """Override what is wanted; called on the main process only, in the order given to the trainer."""

    def on_step(self, row: Mapping[str, float]) -> None:
        """``row`` was written to ``metrics.jsonl``; measurements made at this step are in it."""

    def on_alarm(self, alarm: Alarm) -> None:
        """A guard spoke up."""

    def on_save(self, checkpoint: Path) -> None:
        """A checkpoint is complete."""

    def on_end(self) -> None:
        """The run is over, by whatever cause."""
