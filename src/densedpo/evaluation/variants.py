"""Which models an evaluation compares: the base, runs, a run's LoRA at other strengths, and its checkpoints.

Names: ``base``, ``RUN``, ``RUN@0.5`` (LoRA scale), ``RUN#step-50`` (checkpoint). Scale 0 is the base, bit for bit, and
is not listed again; scale 1 is the run itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from densedpo.evaluation.paired import BASE


@dataclass(frozen=True)
class Variant:
    """One model of an evaluation; ``source`` is what was tuned: a run's folder, or one checkpoint of it."""

    name: str
    run: str | None = None
    lora_scale: float = 0.0
    step: int | None = None
    source: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``summary.json`` says of it."""
        return {"name": self.name, "run": self.run, "lora_scale": self.lora_scale, "step": self.step}


@dataclass(frozen=True)
class Line:
    """A curve: the base and the variants of one run, by LoRA scale or by training step."""

    name: str
    run: str
    by: Literal["scale", "step"]
    models: tuple[str, ...]


def list_variants(
    runs: dict[str, Path], scales: Sequence[float] | None, checkpoints: dict[str, dict[int, Path]]
) -> list[Variant]:
    """Return the base and all variants of the runs, each once.

    Args:
        runs: folder by name.
        scales: LoRA scales; None means each run as it was trained.
        checkpoints: for each run, checkpoint folder by step.
    """
    assert BASE not in runs
    variants = [Variant(BASE)]
    for run, folder in runs.items():
        for scale in sorted({1.0} if scales is None else set(scales) - {0.0}):
            variants.append(Variant(run if scale == 1 else f"{run}@{scale:g}", run, scale, None, folder))
        for step, place in sorted(checkpoints.get(run, {}).items()):
            variants.append(Variant(f"{run}#step-{step}", run, 1.0, step, place))
    return variants


def list_lines(variants: Sequence[Variant]) -> list[Line]:
    """Return the curves: runs with at least two points besides the base, by scale and by step."""
    lines = []
    for run, group in groupby(variants[1:], key=lambda variant: variant.run):
        own = list(group)
        assert run is not None
        scaled = [variant.name for variant in own if variant.step is None]
        steps = [variant.name for variant in own if variant.step is not None]
        # the finished run is the end of its training, if it is here as trained
        steps += [variant.name for variant in own if variant.name == run] if steps else []
        if len(scaled) > 1:
            lines.append(Line(run, run, "scale", (BASE, *scaled)))
        if len(steps) > 1:
            lines.append(Line(f"{run}, by step", run, "step", (BASE, *steps)))
    return lines
