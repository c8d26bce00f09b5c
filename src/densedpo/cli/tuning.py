"""Verbs for training, sampling and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import app
from densedpo.cli.verb import Call, verb


@verb(
    app,
    "train",
    example="densedpo train --method dense --max-steps 100 --project my-project",
    sections=("", "train"),
    preset=True,
    then="evaluate",
)
def train(
    call: Call,
    name: Annotated[str | None, typer.Option(help="Name of the run; the method's by default.")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Frozen labels; the latest by default.")] = None,
) -> Any:
    """Train a LoRA, or the whole denoiser, from frozen labels.

    dense: one logistic a latent frame (the default). dense_sum: the paper's Eq. 7. vanilla, structural: one label a
    clip. sft: the real clips alone. The base model is the reference; the LoRA lands in runs/NAME/lora. On several GPUs:
    torchrun --nproc-per-node N -m densedpo train ...
    """
    from densedpo.models.load import load_model
    from densedpo.training.parallel import local_device
    from densedpo.training.run import train as run_training

    settings = call.settings
    # whole tuning keeps its weights in float32 and computes in dtype
    dtype = "float32" if settings.train.tuning == "full" else settings.train.dtype
    device = str(local_device(settings.device))
    model = load_model(settings.model, revision=settings.revision, device=device, dtype=dtype)
    return run_training(call.project, model, settings, name or settings.train.method, snapshot)


@verb(
    app,
    "sample",
    example='densedpo sample --prompt "a dog runs along the beach" --run dense --project my-project',
    sections=("", "sample"),
)
def sample(
    call: Call,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; repeat for several.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompt file, or a set from `prompts list`.")] = None,
    run: Annotated[str | None, typer.Option(help="Run whose weights are used; the base model by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the videos.", show_default="PROJECT/samples/RUN")] = None,
) -> Any:
    """Sample videos for prompts, from the base model or a run."""
    from densedpo.errors import ConfigError
    from densedpo.evaluation.prompts import find_prompts, make_prompts
    from densedpo.evaluation.sampling import resolve_sampling, sample_videos
    from densedpo.models.load import load_tuned

    chosen = make_prompts(prompt or []) + (find_prompts(prompts)[0] if prompts else [])
    if not chosen:
        raise ConfigError("no prompt; give --prompt TEXT or --prompts FILE")
    settings, name = call.settings, run or "base"
    tuned = call.project.need(call.project.run(run), f"densedpo train --name {run}") if run else None
    model = load_tuned(
        settings.model, tuned, revision=settings.revision, device=settings.device, dtype=settings.sample.dtype
    )
    folder = out or call.project.samples / name
    recipe = resolve_sampling(settings.sample, model.defaults)
    videos = sample_videos(model, chosen, recipe, folder, name)
    return {"folder": str(folder), "videos": [str(video.path) for video in videos], "count": len(videos)}


@verb(app, "report", example="densedpo report --project my-project", summary=False)
def report(call: Call) -> Any:
    """Write the report: one folder that opens from disk."""
    from densedpo.report.build import build_report

    return {"report": str(build_report(call.project).resolve())}
