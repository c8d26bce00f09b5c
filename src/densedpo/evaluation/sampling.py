"""Sampling videos for prompts: paired noise between models, whole files, resumable by repeating.

The noise of a sample depends on (prompt, seed) alone, so base and tuned model start from the same noise and can be
compared prompt by prompt. Beside the videos lies what made them: only equal weights and settings reuse a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.config import SampleSettings
from densedpo.errors import MediaError
from densedpo.evaluation.prompts import Prompt
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.lora import ADAPTER, lora_tensors
from densedpo.models.sampling import decode_frames, sample_latents
from densedpo.observe import say, track, warn
from densedpo.store.files import fsync_folder, read_json, remove_leftovers, write_json

RECIPE_FILE = "densedpo-recipe.json"  # the folder may be any the user names: a plainer name could be taken
_SAMPLE_NAME = re.compile(r"[0-9a-f]{12}-[0-9]+\.mp4")


@dataclass(frozen=True)
class SampledVideo:
    """One sample and where its video lies."""

    prompt: Prompt
    seed: int
    path: Path


@dataclass(frozen=True)
class SamplingRecipe:
    """Sampling settings with the family's defaults filled in."""

    steps: int
    cfg: float
    shift: float
    seeds: int
    batch_size: int


def resolve_sampling(settings: SampleSettings, defaults: InferenceDefaults) -> SamplingRecipe:
    """Fill in what the settings leave to the family."""
    return SamplingRecipe(
        steps=settings.steps or defaults.steps,
        cfg=defaults.cfg if settings.cfg is None else settings.cfg,
        shift=settings.shift or defaults.shift,
        seeds=settings.seeds,
        batch_size=settings.batch_size,
    )


def sample_videos(
    model: VideoModel, prompts: Sequence[Prompt], recipe: SamplingRecipe, folder: Path, what: str
) -> list[SampledVideo]:
    """Sample every (prompt, seed) into ``folder/PROMPTID-SEED.mp4`` and return all of them.

    Whole files that the same weights and settings made are kept; a missing or damaged one is made in the batch that it
    belongs to, so that an interrupted job ends with the bytes of an uninterrupted one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _clear_unless_made_by(made_by(model, recipe), folder)
    batches = plan_batches(prompts, recipe, folder)
    sample_missing(lambda: model, batches, recipe, what, is_whole)
    return [item for batch in batches for item in batch]


def plan_batches(prompts: Sequence[Prompt], recipe: SamplingRecipe, folder: Path) -> list[list[SampledVideo]]:
    """Return every (prompt, seed) of a prompt set with the path of its video, cut into batches."""
    wanted = [
        SampledVideo(prompt, seed, folder / f"{prompt.prompt_id}-{seed}.mp4")
        for prompt in dict.fromkeys(prompts)
        for seed in range(recipe.seeds)
    ]
    return [wanted[i : i + recipe.batch_size] for i in range(0, len(wanted), recipe.batch_size)]


def sample_missing(
    load: Callable[[], VideoModel],
    batches: Sequence[Sequence[SampledVideo]],
    recipe: SamplingRecipe,
    what: str,
    whole: Callable[[Path], bool],
) -> None:
    """Sample what is not ``whole`` among the videos of batches; ``load`` is called only if there is something to do.

    A missing video is made in its whole batch, so that it comes out bit for bit as in an uninterrupted job.
    """
    wanted = [item for batch in batches for item in batch]
    missing = {item for item in track(wanted, f"checking {what} (videos)") if not whole(item.path)}
    todo = [batch for batch in batches if missing.intersection(batch)]
    model = load() if todo else None
    for batch in track(todo, f"sampling {what} (batches)", total=len(batches), done=len(batches) - len(todo)):
        assert model is not None
        latents = sample_latents(
            model,
            [item.prompt.text for item in batch],
            [(item.prompt.prompt_id, item.seed) for item in batch],
            steps=recipe.steps,
            cfg=recipe.cfg,
            shift=recipe.shift,
        )
        for item, frames in zip(batch, decode_frames(model, latents), strict=True):
            if item in missing:
                write_video(item.path, frames, model.defaults.fps)


def made_by(model: VideoModel, recipe: SamplingRecipe) -> dict[str, Any]:
    """Return all that a sample depends on besides its prompt and seed, as plain values for JSON."""
    return {
        "steps": recipe.steps,
        "cfg": recipe.cfg,
        "shift": recipe.shift,
        "base": model.fingerprint,
        "lora": _lora_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _lora_digest(model: VideoModel) -> str | None:
    """Return the SHA-256 of the adapter's weights and alpha; None without an adapter."""
    config = getattr(model.denoiser, "peft_config", {}).get(ADAPTER)
    if config is None:
        return None
    return hashlib.sha256(save(lora_tensors(model), {"lora_alpha": str(config.lora_alpha)})).hexdigest()


def _clear_unless_made_by(maker: dict[str, Any], folder: Path) -> None:
    """Remove samples of other weights or settings, and those whose maker is unknown; then record ``maker``."""
    path = folder / RECIPE_FILE
    if path.exists() and read_json(path) == maker:
        return
    stale = [item for item in folder.iterdir() if _SAMPLE_NAME.fullmatch(item.name)]
    if stale:
        say(f"{folder}: its {len(stale)} videos came from other weights or settings; making them again")
    for item in stale:
        item.unlink()
    fsync_folder(folder)  # before the record: after a power cut no old video may lie beside the new record
    write_json(path, maker)


def is_whole(path: Path) -> bool:
    """Say whether a video is there and decodes to its end; a damaged one is removed with a warning."""
    if not path.is_file():
        return False
    try:
        read_video(path)
    except MediaError as error:
        warn(str(error).replace("make it again", "making it again"))
        path.unlink(missing_ok=True)
        return False
    return True
