"""Verbs for the demo, the miniature world and the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import app, miniworld_app
from densedpo.cli.verb import Call, verb
from densedpo.config import MAX_SEED

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed.")]


@verb(app, "demo")
def demo(
    call: Call,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything; the same seed gives the same numbers.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    small: Annotated[bool, typer.Option(help="A few pairs and steps only: to see that all works.")] = False,
) -> Any:
    """Run the whole loop in miniature and write its report; about five minutes on two CPU cores."""
    from densedpo.miniworld.demo import DemoSize, run_demo

    size = DemoSize(clips=8, independent_pairs=8, guided_per_clip=1, train_steps=4, seeds=1) if small else DemoSize()
    return run_demo(call.project, seed, device, size)


@verb(miniworld_app, "clips")
def miniworld_clips(
    call: Call,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 96,
    seed: Seed = 0,
) -> Any:
    """Draw clips of the world as MP4 files with captions.csv, ready for `clips add`."""
    from densedpo.miniworld.world_clips import write_world_clips

    return write_world_clips(out, count, seed)


@verb(miniworld_app, "label", sections=("label",))
def miniworld_label(
    call: Call,
    name: Annotated[str, typer.Option(help="Name of the annotator.")] = "simulated",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the annotator's noise.")] = 0,
) -> Any:
    """Label a project's pairs by a simulated annotator who looks at quality alone."""
    from densedpo.miniworld.annotators import SimulatedAnnotator
    from densedpo.miniworld.labelling import label_pairs

    return label_pairs(call.project, SimulatedAnnotator(name=name, seed=seed), call.settings.label.segment_s)


@verb(miniworld_app, "validate")
def miniworld_validate(
    call: Call,
    trials: Annotated[int, typer.Option(min=10, help="Trials a defect.")] = 100,
    seed: Seed = 0,
) -> Any:
    """Validate the ground-truth examiner on clean clips and planted defects."""
    from densedpo.miniworld.validation import validate

    return validate(trials, seed)


@verb(miniworld_app, "sheet", sections=("",))
def miniworld_sheet(
    call: Call,
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    rows: Annotated[int, typer.Option(min=1, help="Training captions.")] = 12,
    held_out_rows: Annotated[int, typer.Option(min=1, help="Held-out captions, marked with a star.")] = 6,
) -> Any:
    """Sample the model on captions of the world into one contact sheet."""
    from densedpo.miniworld.sheet import write_sheet
    from densedpo.models.load import load_model

    settings = call.settings
    model = load_model(settings.model, revision=settings.revision, device=settings.device)
    return write_sheet(model, out, rows, held_out_rows, settings.seed)


@verb(miniworld_app, "train-base")
def miniworld_train_base(
    call: Call,
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("miniature-base"),
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and curves.")] = Path("miniature-training"),
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")] = None,
) -> Any:
    """Train the miniature's base model from nothing: VAE, then text encoder and transformer. Resumes by repeating.

    About 75 minutes on one CPU core; a GPU is used where there is one.
    """
    import torch

    from densedpo.miniworld.train_base import BaseRecipe, train_base

    if threads is not None:
        torch.set_num_threads(threads)
    return train_base(out, work, BaseRecipe(seed=seed))


@verb(app, "doctor", sections=("",), preset=True, fails_on="problems")
def doctor(
    call: Call,
    size: Annotated[
        str | None, typer.Option(help="Clip size, HEIGHTxWIDTHxFRAMES: predict memory and time, say what fits.")
    ] = None,
) -> Any:
    """Look at the environment: versions, devices, video codecs, the model; say what is missing and how to mend it.

    With --size, also predict what making pairs and training take, from the model's configuration files alone and with
    the settings in densedpo.yaml. The exit status is 1 if there is a problem.
    """
    from densedpo.cli.doctor import examine_environment
    from densedpo.cli.fits import examine_fit

    found = examine_environment(call.settings)
    return found if size is None or found["problems"] else found | {"fit": examine_fit(call.settings, size)}
