"""The demo: the whole loop in miniature, through the same stages that serve full-size models.

drawn clips -> clips add -> pairs make (independent, guided) -> simulated labels -> audit -> freeze -> train dense
    -> evaluate on captions no training set has held -> report
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from densedpo.clips.add import add_clips
from densedpo.config import Settings, parse_settings
from densedpo.errors import ConfigError
from densedpo.evaluation.run import BASE, evaluate
from densedpo.labels.audit import audit
from densedpo.labels.snapshot import freeze
from densedpo.miniworld.annotators import SimulatedAnnotator
from densedpo.miniworld.labelling import label_pairs
from densedpo.miniworld.scorer import ExaminerScorer
from densedpo.miniworld.world_clips import HELD_OUT, held_out_prompts, write_world_clips
from densedpo.models.load import load_model
from densedpo.observe import say
from densedpo.pairs.make import make_pairs
from densedpo.report.build import build_report
from densedpo.store.files import read_json, write_json
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.run import train

RUN = "dense"
EVALUATION = "demo"


@dataclass(frozen=True)
class DemoSize:
    """How much the demo makes; the default fills its five minutes on two CPU cores."""

    clips: int = 96
    independent_pairs: int = 64
    guided_per_clip: int = 3
    train_steps: int = 100
    seeds: int = 4


def run_demo(project: Project, seed: int, device: str, size: DemoSize) -> dict[str, Any]:
    """Run every stage and return the numbers; repeating it resumes where it was stopped."""
    start = time.monotonic()
    _claim(project, seed, size)
    base = {"seed": seed, "device": device}
    settings = parse_settings(
        base
        | {
            "pairs": {"batch_size": 16, "pairs_per_clip": size.guided_per_clip},
            # the paper's plain loss: so few steps of the protected default move too little to be seen
            "train": {"method": "dense", "max_steps": size.train_steps, "dpop_lambda": 0.0},
            "sample": {"seeds": size.seeds, "batch_size": 16},
        }
    )
    say("1/7 real clips: drawing a small world and adding its files as if they were footage")
    model = load_model(settings.model, device=settings.device)
    source = project.root / "source"
    world = write_world_clips(source, size.clips, seed)
    add_clips(project, [source], source / "captions.csv", model.geometry, settings.clips, settings.label.segment_s)
    say("2/7 pairs: two videos a clip, from independent noise and from the same partly noised clip")
    for mode, limit in (("independent", size.independent_pairs), ("guided", None)):
        chosen = settings.model_copy(update={"pairs": settings.pairs.model_copy(update={"mode": mode})})
        make_pairs(project, model, chosen, limit=limit)
    say("3/7 labels: simulated annotators look at quality alone, second by second")
    label_pairs(project, SimulatedAnnotator(name="simulated", seed=seed), settings.label.segment_s)
    say("4/7 audit: what do these labels secretly prefer?")
    found = audit(project, "simulated", settings.label.segment_s)
    snapshot = freeze(project, "simulated", settings.label.segment_s)
    say("5/7 training: DenseDPO, a LoRA on the miniature")
    train(project, model, settings, RUN, snapshot.path)
    say("6/7 evaluation: captions that no training set has held, base against tuned from the same noise")
    summary = evaluate(project, settings, [RUN], held_out_prompts(), ExaminerScorer(), EVALUATION, prompt_set=HELD_OUT)
    say("7/7 report")
    report = build_report(project)
    seconds = time.monotonic() - start
    for line in headlines(found, summary):
        say(line)
    say(f"open {report} in a browser")
    return {
        "report": str(report),
        "seconds": round(seconds, 1),
        "clips": world.clips,
        "pairs": len(read_table(project.pairs_table)),
        "segments": snapshot.segments,
        "non_tie_segments": snapshot.non_tie_segments,
        "snapshot": snapshot.id,
        "audit": slower_shares(found),
        "scores": {"base": _means(summary, BASE), "tuned": _means(summary, RUN)},
        "differences": summary["differences"][RUN],
        "ratios": summary["ratios"][RUN],
        "held_out_prompts": len(summary["prompts"]),
        "settings": settings_used(settings),
    }


def headlines(found: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """Say what the run showed, each number with its 95 % interval."""
    lines = []
    for mode, shares in slower_shares(found).items():
        if share := shares["segments"]:
            lines.append(
                f"{mode} pairs: {100 * share['mean']:.0f} % [{100 * share['low']:.0f}, {100 * share['high']:.0f}] "
                f"of the preferred segments are the slower ones"
            )
    for score, change in summary["differences"][RUN].items():
        label = summary["score_info"][score]["label"]
        lines.append(f"{label}, tuned - base: {change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]")
    return lines


def _claim(project: Project, seed: int, size: DemoSize) -> None:
    """Remember what this folder's demo is, and refuse to mix it with another.

    Raises:
        ConfigError: if the folder holds a demo of another seed or size.
    """
    path, wanted = project.root / "demo.json", {"seed": seed, **asdict(size)}
    if path.exists() and read_json(path) != wanted:
        raise ConfigError(f"{project.root}: holds a demo with {read_json(path)}; choose another --project or remove it")
    write_json(path, wanted)


def slower_shares(found: dict[str, Any]) -> dict[str, Any]:
    """Return, by pair mode, the share of non-tie answers that went to the slower side, for segments and clips."""
    return {
        mode: {level: group[level]["preferences"]["slower"]["share"] for level in ("segments", "clips")}
        for mode, group in found["groups"].items()
        if mode != "all"
    }


def _means(summary: dict[str, Any], model: str) -> dict[str, float]:
    return {score: interval["mean"] for score, interval in summary["scores"][model].items()}


def settings_used(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from the defaults."""
    return settings.model_dump(mode="json", exclude_defaults=True)
