"""Sampling videos for prompts: paired noise between models, whole files, resumable by repeating.

The noise of a sample depends on (prompt, seed) alone, so base and tuned model start from the same noise and can be
compared prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densedpo.clips.encode import write_video
from densedpo.config import SampleSettings
from densedpo.evaluation.prompts import Prompt
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.sampling import sample_latents, to_frames
from densedpo.observe import track
from densedpo.store.files import remove_leftovers


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
    """Sample every (prompt, seed) into ``folder/PROMPTID-SEED.mp4`` and return all of them; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    wanted = [
        SampledVideo(prompt, seed, folder / f"{prompt.prompt_id}-{seed}.mp4")
        for prompt in prompts
        for seed in range(recipe.seeds)
    ]
    batches = [wanted[i : i + recipe.batch_size] for i in range(0, len(wanted), recipe.batch_size)]
    todo = [batch for batch in batches if not all(item.path.is_file() for item in batch)]
    for batch in track(todo, f"sampling {what} (batches)", total=len(batches), done=len(batches) - len(todo)):
        latents = sample_latents(
            model,
            [item.prompt.text for item in batch],
            [(item.prompt.prompt_id, item.seed) for item in batch],
            steps=recipe.steps,
            cfg=recipe.cfg,
            shift=recipe.shift,
        )
        for item, video in zip(batch, model.decode(latents), strict=True):
            write_video(item.path, to_frames(video), model.defaults.fps)
    return wanted
