"""The stage ``pairs make``: denoise, decode and publish pairs, one whole folder each, resumable by repeating.

clips/ID/clip.mp4 -> latents x -> (1 - eta) x + eta e_a | e_b -> denoise from eta -> decode
    -> pairs/ID/{a.mp4, b.mp4, latents.safetensors, row.json} -> pairs.parquet
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.config import Settings
from densedpo.diffusion.flow import guided_start
from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, MediaError, ProjectError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.sampling import decode_frames, denoise, to_video
from densedpo.models.text import TextCondition
from densedpo.observe import track, warn
from densedpo.pairs.plan import PlannedPair, Recipe, plan_batches, plan_pairs, resolve_recipe
from densedpo.store.files import remove_leftovers, replacing_folder, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, collect_rows, read_table, write_table

SIDES = ("a", "b")
PAIRS_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("clip_id", pa.string()),
        ("caption", pa.string()),
        ("mode", pa.string()),
        ("eta", pa.float64()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        ("steps_run", pa.int64()),
        ("cfg", pa.float64()),
        ("shift", pa.float64()),
        ("model", pa.string()),
        ("model_fingerprint", pa.string()),
        ("temporal_stride", pa.int64()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("duration_s", pa.float64()),
        ("clip_sha256", pa.string()),
        ("source_sha256", pa.string()),
        ("sha256_a", pa.string()),
        ("sha256_b", pa.string()),
        ("sha256_latents", pa.string()),
    ]
)


@dataclass
class PairsSummary:
    """What one run of the stage did."""

    planned: int = 0
    made: int = 0
    already_there: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    mode: str = ""
    pairs_in_project: int = 0


def make_pairs(project: Project, model: VideoModel, settings: Settings, *, limit: int | None = None) -> PairsSummary:
    """Make every planned pair that is not there yet and compile ``pairs.parquet``.

    A killed run repeats at most the batch in hand. A clip that cannot be read is named, counted and left out.

    Raises:
        ProjectError: if there are no clips.
        ConfigError: if the clips were made for another model's geometry.
    """
    clips = {row["clip_id"]: row for row in read_table(project.clips_table)}
    if not clips:
        raise ProjectError(f"{project.clips}: no clips yet; run `densedpo clips add FOLDER` first")
    check_geometry(clips.values(), model)
    recipe = resolve_recipe(settings.pairs, model.defaults, settings.seed)
    grid = model.grid(recipe.steps, recipe.shift)
    pairs = plan_pairs(
        list(clips.values()), recipe, model.fingerprint, pairs_per_clip=settings.pairs.pairs_per_clip, limit=limit
    )
    project.pairs.mkdir(parents=True, exist_ok=True)
    remove_leftovers(project.pairs)
    batches = plan_batches(pairs, [len(grid_from(grid, p.eta)) for p in pairs], settings.pairs.batch_size)
    there = {pair.pair_id for pair in pairs if (project.pairs / pair.pair_id / "row.json").is_file()}
    todo = [batch for batch in batches if any(pair.pair_id not in there for pair in batch)]
    summary = PairsSummary(planned=len(pairs), already_there=len(there), mode=recipe.mode)
    null_text = model.encode_text([""])
    for batch in track(todo, f"{recipe.mode} pairs (batches)", total=len(batches), done=len(batches) - len(todo)):
        usable, videos = _read_clips(project, batch, summary)
        if usable:
            clips_latents, sides_latents = denoise_batch(model, usable, videos, recipe, grid, null_text)
            frames = decode_frames(model, sides_latents.flatten(0, 1))
            for index, pair in enumerate(usable):
                if pair.pair_id not in there:
                    row = _row(pair, recipe, model, clips[pair.clip_id], len(grid_from(grid, pair.eta)) - 1)
                    latents = {"clip": clips_latents[index], "a": sides_latents[index, 0], "b": sides_latents[index, 1]}
                    _publish(project, row, latents, frames[2 * index : 2 * index + 2])
                    summary.made += 1
    rows = [row for row in collect_rows(project.pairs).values() if _is_current(row, clips)]
    write_table(project.pairs_table, rows, PAIRS_SCHEMA)
    summary.pairs_in_project = len(rows)
    return summary


def _is_current(row: Row, clips: dict[str, Row]) -> bool:
    """Say whether a pair's clip is still in the project, with the caption and the bytes it was made from."""
    clip = clips.get(row["clip_id"])
    return clip is not None and (clip["sha256"], clip["caption"]) == (row["clip_sha256"], row["caption"])


def check_geometry(clips: Iterable[Row], model: VideoModel) -> None:
    """Check that clips have the model's rate, size and a frame count that it takes.

    Raises:
        ConfigError: naming the first clip that does not fit.
    """
    geometry = model.geometry
    wanted = (geometry.fps, geometry.height, geometry.width)
    for row in clips:
        given = (row["fps"], row["height"], row["width"])
        if given != wanted or geometry.valid_frames(row["num_frames"]) != row["num_frames"]:
            raise ConfigError(
                f"clip {row['clip_id']} is {given[1]}x{given[2]} at {given[0]:g} fps with {row['num_frames']} frames, "
                f"the model takes {wanted[1]}x{wanted[2]} at {wanted[0]:g} fps; run `densedpo clips add` again for "
                f"this model in a new project"
            )


def _read_clips(
    project: Project, batch: list[PlannedPair], summary: PairsSummary
) -> tuple[list[PlannedPair], list[NDArray[np.uint8]]]:
    """Return the pairs of a batch whose clips can be read, with the clips' frames."""
    usable, videos = [], []
    for pair in batch:
        try:
            video = read_video(project.clips / pair.clip_id / "clip.mp4")
            if len(video.frames) != pair.num_frames:
                raise MediaError(f"clip {pair.clip_id}: {len(video.frames)} frames, its row says {pair.num_frames}")
        except MediaError as error:
            warn(f"pair {pair.pair_id} left out: {error}")
            summary.failed.append({"pair_id": pair.pair_id, "reason": str(error)})
            continue
        usable.append(pair)
        videos.append(video.frames)
    return usable, videos


def denoise_batch(
    model: VideoModel,
    pairs: list[PlannedPair],
    videos: list[NDArray[np.uint8]],
    recipe: Recipe,
    grid: list[float],
    null_text: TextCondition,
) -> tuple[Tensor, Tensor]:
    """Return the clips' latents [B, ...] and both sides' [B, 2, ...]; all 2 B sides go through as one batch."""
    clean = model.encode_video(torch.stack([to_video(frames) for frames in videos]))
    starts, etas = [], []
    for pair, latents in zip(pairs, clean, strict=True):
        for side in SIDES:
            drawn = noise(tuple(latents.shape), recipe.seed, "pair-noise", pair.pair_id, side).to(latents.device)
            starts.append(guided_start(latents, drawn, pair.eta))
            etas.append(pair.eta)
    text = model.encode_text([pair.caption for pair in pairs]).repeat_interleave(2)
    levels: list[float | Tensor] = [torch.tensor(etas), *grid_from(grid, pairs[0].eta)[1:]]
    sides = denoise(model, torch.stack(starts), levels, text, null_text, recipe.cfg)
    return clean, sides.view(len(pairs), 2, *sides.shape[1:])


def _row(pair: PlannedPair, recipe: Recipe, model: VideoModel, clip: Row, steps_run: int) -> Row:
    return {
        "pair_id": pair.pair_id,
        "clip_id": pair.clip_id,
        "caption": pair.caption,
        "mode": recipe.mode,
        "eta": pair.eta,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "steps_run": steps_run,
        "cfg": recipe.cfg,
        "shift": recipe.shift,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "temporal_stride": model.temporal_stride,
        **{name: clip[name] for name in ("fps", "num_frames", "height", "width", "duration_s")},
        "clip_sha256": clip["sha256"],
        "source_sha256": clip["source_sha256"],
    }


def _publish(project: Project, row: Row, latents: dict[str, Tensor], sides: Sequence[NDArray[np.uint8]]) -> None:
    """Write one pair whole: both videos, all latents and the row with their digests."""
    with replacing_folder(project.pairs / row["pair_id"]) as folder:
        tensors = {name: tensor.float().cpu().contiguous() for name, tensor in latents.items()}
        save_file(tensors, folder / "latents.safetensors")
        for side, frames in zip(SIDES, sides, strict=True):
            write_video(folder / f"{side}.mp4", frames, row["fps"])
        digests: dict[str, Path] = {
            "sha256_a": folder / "a.mp4",
            "sha256_b": folder / "b.mp4",
            "sha256_latents": folder / "latents.safetensors",
        }
        write_json(folder / "row.json", row | {name: sha256_file(path) for name, path in digests.items()})
