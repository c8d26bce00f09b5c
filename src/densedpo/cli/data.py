"""Verbs for clips and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densedpo.cli.app import clips_app, pairs_app
from densedpo.cli.verb import Call, verb
from densedpo.config import Settings

if TYPE_CHECKING:
    from densedpo.models.base import VideoModel

Limit = Annotated[int | None, typer.Option(min=1, help="Make at most this many pairs.")]


@verb(clips_app, "add", sections=("", "clips"), writes_settings=True)
def clips_add(
    call: Call,
    sources: Annotated[list[Path], typer.Argument(help="Video files or folders of them.", metavar="PATH...")],
    captions: Annotated[Path | None, typer.Option(help="CSV, JSONL or Parquet with columns path, caption.")] = None,
) -> Any:
    """Add real videos: split at cuts, cut to the model's clip length, rate and size, with captions.

    Captions come from --captions, from captions.csv in the folder, or from NAME.txt beside each file. A file that
    cannot be used is named and counted; the rest goes on.
    """
    from densedpo.clips.add import add_clips
    from densedpo.models.load import load_geometry

    settings = call.settings
    geometry = load_geometry(settings.model, revision=settings.revision)
    return add_clips(call.project, sources, captions, geometry, settings.clips, settings.label.segment_s)


@verb(clips_app, "filter", sections=("filter",))
def clips_filter(call: Call) -> Any:
    """Decide which clips pairs are made of: resolution, duration, aspect, cuts, motion without the camera's, captions.

    Nothing is deleted: a clip that is left out comes back when the command is repeated with other limits. The picture
    clips/filter.png shows each distribution with its limits. Captions count once --caption-endpoint is given.
    """
    from densedpo.clips.filter import filter_clips

    return filter_clips(call.project, call.settings.filter)


@verb(pairs_app, "make", sections=("", "pairs"), writes_settings=True)
def pairs_make(call: Call, limit: Limit = None) -> Any:
    """Make pairs: both videos denoised from partly noised copies of one real clip (or from pure noise).

    Guided pairs share motion and differ in detail; eta is the noise level they start from. --mode independent makes
    the pairs of vanilla DPO.
    """
    from densedpo.pairs.make import make_pairs

    return make_pairs(call.project, _model(call.settings), call.settings, limit=limit)


@verb(pairs_app, "calibrate", sections=("", "pairs"))
def pairs_calibrate(
    call: Call,
    clips: Annotated[int, typer.Option(min=1, help="Clips to try.")] = 8,
) -> Any:
    """Find the eta range that keeps the motion and still changes the detail, for this model and these clips."""
    from densedpo.pairs.calibrate import calibrate

    return calibrate(call.project, _model(call.settings), call.settings, num_clips=clips)


def _model(settings: Settings) -> VideoModel:
    """Load the model as pairs are made with it."""
    from densedpo.models.load import load_model

    return load_model(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.pairs.dtype,
        storage_dtype=settings.pairs.storage_dtype,
    )
