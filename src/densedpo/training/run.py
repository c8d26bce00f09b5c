"""The stage ``train``: settings, labels and a base model in; a run folder with a LoRA in diffusers' layout out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densedpo.config import Settings, dump_settings
from densedpo.errors import LabelError, ProjectError
from densedpo.keys import content_id
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.models.base import VideoModel
from densedpo.models.load import hub_revision
from densedpo.models.lora import FILE_NAME
from densedpo.observe import read_jsonl, say
from densedpo.store.files import write_json, write_text
from densedpo.store.project import Project
from densedpo.training.card import model_card, update_card
from densedpo.training.data import load_items, split_by_source
from densedpo.training.options import FREE, DenseDPOConfig
from densedpo.training.trainer import DenseDPOTrainer

_LAST_STEPS = 20  # that the metrics of a run's end are averaged over


@dataclass(frozen=True)
class TrainSummary:
    """What a run did."""

    run: str
    folder: str
    saved: str
    lora: str | None
    method: str
    steps: int
    stopped: str | None
    resumed_from: int
    pairs: int
    held_out_pairs: int
    snapshot: str
    final: dict[str, float]


def train(project: Project, model: VideoModel, settings: Settings, name: str, snapshot: Path | None) -> TrainSummary:
    """Train run ``name``; a finished run is returned as it is, an interrupted one goes on.

    Args:
        project: the project.
        model: the base, loaded and without adapter.
        settings: resolved settings.
        name: the run's folder below ``runs/``.
        snapshot: frozen labels; the latest of the project if None.

    Raises:
        LabelError: if there are no frozen labels, or they are damaged.
        TrainingError: if there is nothing to learn from, or a number is not finite.
        CheckpointError: if the folder holds another run.
    """
    folder = project.run(name)
    path = snapshot or latest_snapshot(project)
    if not path.is_file():
        raise LabelError(f"{path}: no such snapshot; run `densedpo label freeze` first")
    labels = load_snapshot(path)
    chosen = settings.train
    mode = chosen.pairs if chosen.pairs != "auto" else "independent" if chosen.method == "vanilla" else "guided"
    items = load_items(project, labels, chosen, mode, model)
    learning, held_out = split_by_source(items, chosen.eval_share)
    identity = content_id(
        "run", chosen.model_dump(mode="json", exclude=set(FREE)), settings.seed, labels.id, model.fingerprint
    )
    say(f"training {name}: {chosen.method}, {len(learning)} {mode} pairs, {len(held_out)} held out, labels {labels.id}")
    config = DenseDPOConfig(
        output_dir=folder, cache_dir=project.cache, seed=settings.seed, **chosen.model_dump(exclude_unset=True)
    )
    trainer = DenseDPOTrainer(model, config, learning, held_out, identity=identity)
    if trainer.parallel.is_main:
        write_text(folder / "config.yaml", dump_settings(settings))
    output = trainer.train()
    rows = read_jsonl(folder / "metrics.jsonl")
    facts = {
        "run": name,
        "method": chosen.method,
        "pair_mode": mode,
        "pairs": len(learning),
        "held_out_pairs": len(held_out),
        "snapshot": labels.id,
        "base": model.name,
        "base_revision": hub_revision(model.folder),
        "base_fingerprint": model.fingerprint,
        "identity": identity,
        "steps": output.steps,
        "stopped": output.stopped,
    }
    if trainer.parallel.is_main:
        card = model_card(facts, settings, rows, labels=labels, learning=learning, held_out=held_out)
        write_text(folder / "README.md", card)
        write_json(folder / "run.json", facts)
        update_card(project, name)
    trainer.parallel.wait()
    return TrainSummary(
        run=name,
        folder=str(folder),
        saved=str(output.saved),
        lora=str(output.saved / FILE_NAME) if chosen.tuning == "lora" else None,
        method=chosen.method,
        steps=output.steps,
        stopped=output.stopped,
        resumed_from=output.resumed_from,
        pairs=len(learning),
        held_out_pairs=len(held_out),
        snapshot=labels.id,
        final=final_metrics(rows),
    )


def final_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the last 20 steps that have it; of what is measured now and then, the last.

    The latter are ``eval/...`` and ``probe/...``: 20 of them may be a whole run.
    """
    names = sorted({name for row in rows for name in row} - {"step"})
    final = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        recent = values[-1:] if name.startswith(("eval/", "probe/")) else values[-_LAST_STEPS:]
        final[name] = sum(recent) / len(recent)
    return final


def finished_runs(project: Project) -> list[str]:
    """Return the names of the finished runs, sorted.

    Raises:
        ProjectError: if there is none.
    """
    runs = sorted(path.parent.name for path in project.runs.glob("*/run.json"))
    if not runs:
        raise ProjectError(f"{project.runs}: no finished run; run `densedpo train` first")
    return runs
