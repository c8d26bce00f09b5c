"""Experiment trackers by name, beside ``metrics.jsonl``, which is always written and always complete.

Each package is imported only when it is asked for. What they print goes to standard error: ``--json`` owns the other.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from densedpo.errors import ConfigError
from densedpo.keys import content_id
from densedpo.store.files import read_object, write_json
from densedpo.training.callbacks import Callback

PROJECT = "densedpo"
_RUN_FILE = "trackers.json"  # the run's name in services that know it by name: kept, so that a resumed run goes on


@dataclass(frozen=True)
class _Run:
    folder: Path
    name: str
    config: dict[str, Any]
    resumed_from: int


@dataclass(frozen=True)
class _Sink:
    log: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


class Tracker(Callback):
    """Tells every tracker that was asked for about every step; on the main process only."""

    def __init__(self, sinks: Sequence[_Sink]) -> None:
        self._sinks = sinks

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Record the numbers of one step."""
        values = {name: float(value) for name, value in row.items() if name != "step"}
        for sink in self._sinks:
            sink.log(values, step)

    def close(self) -> None:
        """Send what is left; nothing is recorded afterwards."""
        with contextlib.redirect_stdout(sys.stderr):
            for sink in self._sinks:
                sink.close()

    def on_step(self, row: Mapping[str, float]) -> None:
        """Record a row of ``metrics.jsonl``."""
        self.log(row, int(row["step"]))

    def on_end(self) -> None:
        """Close."""
        self.close()


def make_trackers(
    report_to: Sequence[str], folder: Path, config: Mapping[str, Any], *, resumed_from: int = 0
) -> Tracker:
    """Start the named trackers; call it on the main process only, once the step that is resumed from is known.

    TensorBoard's files go to ``folder/tensorboard``, W&B's to ``folder/wandb`` and its service, Trackio's to its own
    place on this machine. A resumed run goes on in the same curves.

    Args:
        report_to: ``tensorboard``, ``wandb``, ``trackio``.
        folder: the run's folder; its name is part of the run's name.
        config: settings to show beside the curves.
        resumed_from: steps that an earlier part of this run has done.

    Raises:
        ConfigError: if a name is unknown, its package is missing, or the tracker refuses to start.
    """
    for name in report_to:
        if name not in _STARTERS:
            raise ConfigError(f"report_to: {name!r} is unknown; choose from {', '.join(_STARTERS)}")
        if find_spec(name) is None:
            raise ConfigError(f"report_to: {name} is not installed; pip install 'densedpo[{name}]'")
    if not report_to:
        return Tracker([])
    run = _Run(folder, _run_name(folder, resumed_from), dict(config), resumed_from)
    with contextlib.redirect_stdout(sys.stderr):
        return Tracker([_STARTERS[name](run) for name in report_to])


def _tensorboard(run: _Run) -> _Sink:
    from torch.utils.tensorboard import SummaryWriter

    # what the interrupted part drew after its checkpoint comes again
    purge = run.resumed_from + 1 if run.resumed_from else None
    writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
    if not run.resumed_from:
        writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in run.config.items()), 0)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return _Sink(log, writer.close)


def _wandb(run: _Run) -> _Sink:
    import wandb

    try:
        started = wandb.init(
            project=PROJECT, name=run.folder.name, id=run.name, dir=str(run.folder), config=run.config, resume="allow"
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        remedy = "run `wandb login`, or set WANDB_MODE=offline"
        raise ConfigError(f"report_to: wandb cannot start ({reason}); {remedy}") from None
    return _Sink(lambda values, step: started.log(values, step=step), started.finish)


def _trackio(run: _Run) -> _Sink:
    import trackio

    started = trackio.init(project=PROJECT, name=run.name, config=run.config, resume="allow", embed=False)
    # not the run's own finish: it would be called, and say so, again at exit
    return _Sink(lambda values, step: started.log(values, step=step), trackio.finish)


_STARTERS: dict[str, Callable[[_Run], _Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def _run_name(folder: Path, resumed_from: int) -> str:
    """Return a name that no other run has; a resumed run keeps its own."""
    file = folder / _RUN_FILE
    if not resumed_from or not file.exists():
        write_json(file, {"name": f"{folder.name}-{content_id('tracker', str(folder.resolve()), time.time_ns())}"})
    return str(read_object(file)["name"])
