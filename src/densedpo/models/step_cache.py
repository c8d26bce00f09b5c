"""First-block cache: skip the denoiser's later blocks at steps where its first block has hardly changed.

An approximation, for making pairs alone: both sides get it alike. Never for errors that enter a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import FirstBlockCacheConfig

from densedpo.errors import ConfigError
from densedpo.models.base import VideoModel


@contextmanager
def step_cache(model: VideoModel, threshold: float | None) -> Iterator[None]:
    """Cache during the block: reuse the later blocks' change while the first block's differs by less than a share.

    Args:
        model: the model.
        threshold: largest mean absolute change of the first block's output between steps, relative to its mean
            absolute value, that counts as none; None leaves everything as it is.

    Raises:
        ConfigError: if diffusers has no such cache for this denoiser.
    """
    if threshold is None:
        yield
        return
    try:
        model.denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"step_cache: diffusers has none for {model.family} ({error}); leave it off") from None
    try:
        yield
    finally:
        model.denoiser.disable_cache()


def forget_steps(model: VideoModel) -> None:
    """Start with an empty cache: what follows is another batch."""
    if getattr(model.denoiser, "is_cache_enabled", False):
        model.denoiser._reset_stateful_cache()


@contextmanager
def cached_part(model: VideoModel, number: int) -> Iterator[None]:
    """Say which part of the batch goes through the denoiser now; each part has a cache of its own."""
    if not getattr(model.denoiser, "is_cache_enabled", False):
        yield
        return
    with model.denoiser.cache_context(f"part {number}"):
        yield
