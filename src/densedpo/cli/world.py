"""Verbs for the demo, the miniature world and the environment."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import app, miniworld_app
from densedpo.cli.verb import Call, verb
from densedpo.config import MAX_SEED

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed.")]


@verb(app, "demo", example="densedpo demo --project demo-project")
def demo(
    call: Call,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything; the same seed gives the same numbers.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    small: Annotated[bool, typer.Option("--small", help="A few pairs and steps only: to see that all works.")] = False,
) -> Any:
    """Run the whole loop in miniature, up to its report.

    About five minutes on two CPU cores; nothing is downloaded.
    """
    from densedpo.miniworld.demo import DemoSize, run_demo

    size = DemoSize(clips=8, independent_pairs=8, guided_per_clip=1, train_steps=4, seeds=1) if small else DemoSize()
    return run_demo(call.project, seed, device, size)


@verb(miniworld_app, "clips", example="densedpo miniworld clips drawn --count 96")
def miniworld_clips(
    call: Call,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 96,
    seed: Seed = 0,
) -> Any:
    """Draw clips of the world, ready for `clips add`.

    They are MP4 files with a captions.csv beside them.
    """
    from densedpo.miniworld.world_clips import write_world_clips

    return write_world_clips(out, count, seed)


@verb(
    miniworld_app,
    "label",
    example="densedpo miniworld label --project my-project",
    sections=("label.segment_s", "label.store_url"),
)
def miniworld_label(
    call: Call,
    name: Annotated[str, typer.Option(help="Name of the annotator.")] = "simulated",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the annotator's noise.")] = 0,
) -> Any:
    """Label pairs by a simulated annotator, who sees quality alone."""
    from densedpo.miniworld.annotators import SimulatedAnnotator
    from densedpo.miniworld.labelling import label_pairs

    return label_pairs(call.project, SimulatedAnnotator(name=name, seed=seed), call.settings.label.segment_s)


class JudgeOrders(StrEnum):
    """In how many orders of the sides a judge is asked."""

    both = "both"
    one = "one"


class JudgeAsk(StrEnum):
    """What a judge is asked about."""

    segments = "segments"
    clip = "clip"


@verb(
    miniworld_app,
    "judge",
    example="densedpo miniworld judge --name biased --position-bias 0.5 --project my-project",
    sections=("label.segment_s", "label.store_url"),
)
def miniworld_judge(
    call: Call,
    name: Annotated[str, typer.Option(help="Name of the judge.")] = "noisy",
    noise: Annotated[float, typer.Option(min=0, help="Error in seeing a side of one second, nats of artifact.")] = 0.3,
    position_bias: Annotated[float, typer.Option(help="How much it favours the first side, nats of artifact.")] = 0.0,
    orders: Annotated[JudgeOrders, typer.Option(help="Ask in both orders, or in one.")] = JudgeOrders.both,
    ask: Annotated[JudgeAsk, typer.Option(help="Ask about each segment, or the whole clip.")] = JudgeAsk.segments,
    seed: Seed = 0,
) -> Any:
    """Let a simulated judge with planted failings answer.

    It is there to see what `label agreement --against simulated` makes of them.
    """
    from densedpo.labels.judges.run import judge_pairs
    from densedpo.miniworld.judges import NoisyJudge

    judge = NoisyJudge(name, noise, position_bias, orders.value, seed=seed)
    return judge_pairs(call.project, judge, call.settings.label.segment_s, ask=ask.value).as_dict()


@verb(miniworld_app, "validate", example="densedpo miniworld validate --trials 100")
def miniworld_validate(
    call: Call,
    trials: Annotated[int, typer.Option(min=10, help="Trials a defect.")] = 100,
    seed: Seed = 0,
) -> Any:
    """Check the examiner on clean clips and planted defects."""
    from densedpo.miniworld.validation import validate

    return validate(trials, seed)


@verb(miniworld_app, "sheet", example="densedpo miniworld sheet samples.png", sections=("",))
def miniworld_sheet(
    call: Call,
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    rows: Annotated[int, typer.Option(min=1, help="Training captions.")] = 12,
    held_out_rows: Annotated[int, typer.Option(min=1, help="Held-out captions, marked with a star.")] = 6,
) -> Any:
    """Sample captions of the world into one contact sheet."""
    from densedpo.miniworld.sheet import write_sheet
    from densedpo.models.load import load_model

    settings = call.settings
    model = load_model(settings.model, revision=settings.revision, device=settings.device)
    return write_sheet(model, out, rows, held_out_rows, settings.seed)


@verb(
    miniworld_app,
    "train-base",
    example="densedpo miniworld train-base --out my-base --work my-training",
)
def miniworld_train_base(
    call: Call,
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("miniature-base"),
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and curves.")] = Path("miniature-training"),
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")] = None,
) -> Any:
    """Train the miniature's base model from nothing.

    First the VAE, then text encoder and transformer. About 75 minutes on one CPU core; a GPU is used where there is
    one.
    """
    import torch

    from densedpo.miniworld.train_base import BaseRecipe, train_base

    if threads is not None:
        torch.set_num_threads(threads)
    return train_base(out, work, BaseRecipe(seed=seed))


@verb(
    app,
    "doctor",
    example="densedpo doctor\ndensedpo doctor --model MODEL --size 480x832x81 --preset paper",
    sections=("",),
    preset=True,
    fails_on="problems",
)
def doctor(
    call: Call,
    size: Annotated[
        str | None, typer.Option(help="Clip size, HEIGHTxWIDTHxFRAMES: predict memory and time, say what fits.")
    ] = None,
    setup: Annotated[
        str | None,
        typer.Option(help="Say how the environment of an outside model is made: a name (see --setup list) or a .yaml."),
    ] = None,
    make: Annotated[
        Path | None,
        typer.Option(help="With --setup: make that environment in this folder; weights stay to be fetched."),
    ] = None,
) -> Any:
    """Look at this machine; say what is missing and how to mend it.

    Versions, devices, video codecs and the model are looked at. With --size, also predict what making pairs and
    training take, from the model's configuration files alone and with the settings in densedpo.yaml. The exit status is
    1 if there is a problem.
    """
    from densedpo.cli.doctor import examine_environment
    from densedpo.cli.fits import examine_fit
    from densedpo.cli.setup import set_up

    if setup is not None or make is not None:
        return {"problems": [], **set_up(setup, make)}
    found = examine_environment(call.settings)
    return found if size is None or found["problems"] else found | {"fit": examine_fit(call.settings, size)}
