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


@verb(
    clips_app,
    "add",
    example="densedpo clips add videos --captions captions.csv --project my-project",
    sections=("", "clips"),
    writes_settings=True,
    then="clips filter",
)
def clips_add(
    call: Call,
    sources: Annotated[list[Path], typer.Argument(help="Video files or folders of them.", metavar="PATH")],
    captions: Annotated[Path | None, typer.Option(help="CSV, JSONL or Parquet with columns path, caption.")] = None,
) -> Any:
    """Add real videos with captions, as clips of the model's size.

    They are split at cuts and brought to the model's clip length, rate and size. Captions come from --captions, from
    captions.csv in the folder, or from NAME.txt beside each file. A file that cannot be used is named and counted; the
    rest goes on.
    """
    from densedpo.clips.add import add_clips
    from densedpo.models.load import load_geometry

    settings = call.settings
    geometry = load_geometry(settings.model, revision=settings.revision)
    return add_clips(call.project, sources, captions, geometry, settings.clips, settings.label.segment_s)


@verb(
    clips_app,
    "filter",
    example="densedpo clips filter --max-camera-px-s 40 --project my-project",
    sections=("filter",),
    then="pairs make",
)
def clips_filter(call: Call) -> Any:
    """Decide which clips pairs are made of.

    Resolution, duration, aspect, cuts, motion without the camera's, and captions count. Nothing is deleted: a clip that
    is left out comes back when the command is repeated with other limits. The picture clips/filter.png shows each
    distribution with its limits. Captions count once --caption-endpoint is given.
    """
    from densedpo.clips.filter import filter_clips

    return filter_clips(call.project, call.settings.filter)


@verb(
    pairs_app,
    "make",
    example="densedpo pairs make --limit 200 --project my-project\ndensedpo pairs make --mode independent",
    sections=("", "pairs"),
    writes_settings=True,
    then="label serve",
)
def pairs_make(call: Call, limit: Limit = None) -> Any:
    """Make pairs of videos from the clips.

    Both sides of a guided pair are denoised from partly noised copies of one real clip, so they share its motion and
    differ in detail; eta is the noise level they start from. --mode independent starts from pure noise instead: the
    pairs of vanilla DPO.
    """
    from densedpo.pairs.make import make_pairs

    return make_pairs(call.project, _model(call.settings), call.settings, limit=limit)


@verb(
    pairs_app,
    "calibrate",
    example="densedpo pairs calibrate --project my-project",
    sections=("", "pairs"),
)
def pairs_calibrate(
    call: Call,
    clips: Annotated[int, typer.Option(min=1, help="Clips to try.")] = 8,
) -> Any:
    """Find the noise levels that keep the motion.

    What a level keeps depends on the model and the clips. The range found keeps the motion and still changes the
    detail; the picture pairs/calibration.png shows every level tried. Set --eta-low and --eta-high by it.
    """
    from densedpo.observe import say
    from densedpo.pairs.calibrate import calibrate, calibration_lines

    found = calibrate(call.project, _model(call.settings), call.settings, num_clips=clips)
    for line in calibration_lines(found):
        say(line)
    return found


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
