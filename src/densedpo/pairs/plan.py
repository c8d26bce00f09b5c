"""What is to be made: every pair of a run with its noise level and batch, decided before any work.

The plan is a pure function of clips, settings and model, so repeating a killed command makes the same pairs in the same
batches, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from densedpo.config import PairSettings
from densedpo.errors import ConfigError
from densedpo.keys import content_id, stream
from densedpo.models.base import InferenceDefaults


@dataclass(frozen=True)
class Recipe:
    """How pairs are denoised; stored in every row."""

    mode: str
    eta_low: float
    eta_high: float
    steps: int
    cfg: float
    shift: float
    seed: int
    step_cache: float | None = None
    vae_tiling: bool = False
    dtype: str = "float32"
    storage_dtype: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What enters a pair's id. A setting that came later has a default, and at it leaves older ids alone."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.default is MISSING or getattr(self, item.name) != item.default
        }


@dataclass(frozen=True)
class PlannedPair:
    """One pair to make: which clip, at which noise level; its noises follow from ``pair_id``."""

    pair_id: str
    clip_id: str
    caption: str
    eta: float
    num_frames: int


def resolve_recipe(settings: PairSettings, defaults: InferenceDefaults, seed: int, dtype: str = "float32") -> Recipe:
    """Fill in what the settings leave to the family; ``dtype`` is what the denoiser was loaded in.

    Raises:
        ConfigError: if one end of the eta range is given and crosses the family's other end.
    """
    independent = settings.mode == "independent"
    low = 1.0 if independent else settings.eta_low or defaults.eta_low
    high = 1.0 if independent else settings.eta_high or defaults.eta_high
    if low > high:
        raise ConfigError(f"eta_low ({low:g}) is above eta_high ({high:g}); give both --eta-low and --eta-high")
    return Recipe(
        mode=settings.mode,
        eta_low=low,
        eta_high=high,
        steps=settings.steps or defaults.steps,
        cfg=defaults.cfg if settings.cfg is None else settings.cfg,
        shift=settings.shift or defaults.shift,
        seed=seed,
        step_cache=settings.step_cache,
        vae_tiling=settings.vae_tiling,
        dtype=dtype,
        storage_dtype=settings.storage_dtype,
    )


def plan_pairs(
    clips: Sequence[dict[str, Any]], recipe: Recipe, fingerprint: str, *, pairs_per_clip: int, limit: int | None
) -> list[PlannedPair]:
    """Return the pairs to make, clips in the order of their ids, ``limit`` of them at most.

    eta ~ U(eta_low, eta_high), one draw a pair, shared by both sides (section 4 of arXiv 2506.03517: different levels
    within a pair teach a shortcut).
    """
    planned = []
    for repeat in range(pairs_per_clip):
        for clip in sorted(clips, key=lambda row: row["clip_id"]):
            rng = stream(recipe.seed, "eta", clip["clip_id"], repeat)
            eta = float(rng.uniform(recipe.eta_low, recipe.eta_high))
            made_from = [clip[name] for name in ("clip_id", "sha256", "caption")]
            pair_id = content_id("pair", made_from, repeat, eta, recipe.identity, fingerprint)
            planned.append(PlannedPair(pair_id, clip["clip_id"], clip["caption"], eta, clip["num_frames"]))
    return planned[:limit]


def plan_batches(pairs: Sequence[PlannedPair], starts: Sequence[int], batch_size: int) -> list[list[PlannedPair]]:
    """Group pairs that can be denoised together: same frame count, same number of steps left.

    Args:
        pairs: the plan.
        starts: steps left for each pair.
        batch_size: pairs in a batch at most.
    """
    groups: dict[tuple[int, int], list[PlannedPair]] = {}
    for pair, start in zip(pairs, starts, strict=True):
        groups.setdefault((pair.num_frames, start), []).append(pair)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]
