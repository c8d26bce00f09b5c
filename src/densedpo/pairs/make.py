"""The stage ``pairs make``: denoise, decode and publish pairs, one whole folder each, resumable by repeating.

clips/ID/clip.mp4 -> latents x (once a clip) -> (1 - eta) x + eta e_a | e_b -> denoise from eta -> decode
    -> pairs/ID/{a.mp4, b.mp4, latents.safetensors, row.json} -> pairs.parquet

The next clips are read, and finished pairs measured and written, while the device works.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from densedpo.clips.encode import write_video
from densedpo.clips.kept import kept_clips
from densedpo.config import PairSettings, Settings
from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, MediaError
from densedpo.models.base import VideoModel
from densedpo.models.execution import compile_for_sampling, set_attention
from densedpo.models.sampling import decode_frames
from densedpo.models.step_cache import step_cache
from densedpo.models.storage import keep_stored
from densedpo.models.text_book import TextBook
from densedpo.observe import say, track, warn
from densedpo.pairs.alignment import alignment
from densedpo.pairs.clip_latents import ClipLatents
from densedpo.pairs.denoise import SIDES, denoise_pairs
from densedpo.pairs.overlap import WriteBehind, read_ahead
from densedpo.pairs.plan import PlannedPair, Recipe, plan_batches, plan_pairs, resolve_recipe
from densedpo.store.files import remove_leftovers, replacing_folder, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, collect_rows, write_table

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
        ("step_cache", pa.float64()),
        ("dtype", pa.string()),
        ("storage_dtype", pa.string()),
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
        *((name, pa.list_(pa.float64())) for name in ("frame_ssim", "frame_difference", "frame_motion_agreement")),
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
        ProjectError: if there are no clips, or ``clips filter`` kept none.
        ConfigError: if the clips were made for another model's geometry.
    """
    clips = {row["clip_id"]: row for row in kept_clips(project)}
    check_geometry(clips.values(), model)
    recipe = resolve_recipe(settings.pairs, model.defaults, settings.seed, str(model.dtype).removeprefix("torch."))
    grid = model.grid(recipe.steps, recipe.shift)
    pairs = plan_pairs(
        list(clips.values()), recipe, model.fingerprint, pairs_per_clip=settings.pairs.pairs_per_clip, limit=limit
    )
    project.pairs.mkdir(parents=True, exist_ok=True)
    remove_leftovers(project.pairs)
    batches = plan_batches(pairs, [len(grid_from(grid, pair.eta)) for pair in pairs], settings.pairs.batch_size)
    there = {pair.pair_id for pair in pairs if (project.pairs / pair.pair_id / "row.json").is_file()}
    todo = [batch for batch in batches if any(pair.pair_id not in there for pair in batch)]
    summary = PairsSummary(planned=len(pairs), already_there=len(there), mode=recipe.mode)
    if todo:
        _make(project, model, settings.pairs, recipe, grid, clips, todo, there, len(batches) - len(todo), summary)
    rows = [row for row in collect_rows(project.pairs).values() if _is_current(row, clips)]
    write_table(project.pairs_table, rows, PAIRS_SCHEMA)
    summary.pairs_in_project = len(rows)
    return summary


def _make(
    project: Project,
    model: VideoModel,
    settings: PairSettings,
    recipe: Recipe,
    grid: Sequence[float],
    clips: dict[str, Row],
    todo: Sequence[list[PlannedPair]],
    there: set[str],
    done: int,
    summary: PairsSummary,
) -> None:
    """Make the pairs of ``todo``, after ``done`` other batches.

    Batches are made whole, so that a pair does not depend on where a run was killed.
    """
    keep_stored(model, settings.storage_dtype)
    if settings.attention_backend:
        set_attention(model, settings.attention_backend)
    if settings.vae_tiling:
        model.vae.enable_tiling()
    texts = TextBook(model, {"", *(pair.caption for batch in todo for pair in batch)}, project.cache / "text")
    null_text = texts.stack([""])
    latents = ClipLatents(model, project.clips, project.cache / "clip-latents")

    def read(batch: list[PlannedPair]) -> dict[str, Tensor | MediaError | None]:
        return {pair.clip_id: latents.look(clips[pair.clip_id]) for pair in batch}

    with ExitStack() as stack:
        write = stack.enter_context(WriteBehind())
        stack.enter_context(step_cache(model, recipe.step_cache))
        total = done + len(todo)
        ahead = track(read_ahead(read, todo), f"{recipe.mode} pairs (batches)", total=total, done=done)
        for number, (batch, found) in enumerate(ahead):
            usable = [pair for pair in batch if not _left_out(pair, found[pair.clip_id], summary)]
            if not usable:
                continue
            videos = {name: video for name, video in found.items() if isinstance(video, Tensor)}
            with model.in_use(model.vae):
                clean = torch.stack([latents.read(clips[p.clip_id], videos.get(p.clip_id)) for p in usable])
            text = texts.stack([pair.caption for pair in usable])
            if settings.compile and not number:
                gap = compile_for_sampling(model, clean, text)
                say(f"compile: predictions differ by {gap:.2g} of their norm")
            sides = denoise_pairs(model, usable, clean, text, null_text, recipe, grid)
            frames = decode_frames(model, sides.flatten(0, 1))
            for index, pair in enumerate(usable):
                if pair.pair_id not in there:
                    row = _row(pair, recipe, model, clips[pair.clip_id], len(grid_from(grid, pair.eta)) - 1)
                    made = {"clip": clean[index], "a": sides[index, 0], "b": sides[index, 1]}
                    on_cpu = {name: tensor.float().cpu().contiguous() for name, tensor in made.items()}
                    write(_publish, project, row, on_cpu, frames[2 * index : 2 * index + 2])
                    summary.made += 1


def _left_out(pair: PlannedPair, found: Tensor | MediaError | None, summary: PairsSummary) -> bool:
    """Name and count a pair whose clip cannot be read."""
    if not isinstance(found, MediaError):
        return False
    warn(f"pair {pair.pair_id} left out: {found}")
    summary.failed.append({"pair_id": pair.pair_id, "reason": str(found)})
    return True


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
        "step_cache": recipe.step_cache,
        "dtype": recipe.dtype,
        "storage_dtype": recipe.storage_dtype,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "temporal_stride": model.temporal_stride,
        **{name: clip[name] for name in ("fps", "num_frames", "height", "width", "duration_s")},
        "clip_sha256": clip["sha256"],
        "source_sha256": clip["source_sha256"],
    }


def _publish(project: Project, row: Row, latents: dict[str, Tensor], sides: Sequence[NDArray[np.uint8]]) -> None:
    """Write one pair whole: both videos, all latents and the row with their digests and what tells the sides apart."""
    with replacing_folder(project.pairs / row["pair_id"]) as folder:
        save_file(latents, folder / "latents.safetensors")
        for side, frames in zip(SIDES, sides, strict=True):
            write_video(folder / f"{side}.mp4", frames, row["fps"])
        digests: dict[str, Path] = {
            "sha256_a": folder / "a.mp4",
            "sha256_b": folder / "b.mp4",
            "sha256_latents": folder / "latents.safetensors",
        }
        hashed = {name: sha256_file(path) for name, path in digests.items()}
        write_json(folder / "row.json", row | hashed | alignment(sides[0], sides[1]))
