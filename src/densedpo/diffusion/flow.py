"""Rectified flow: interpolation, target, sampler step, and the start of a guided pair.

Conventions (arXiv 2506.03517 section 3, and the Wan, LTX and Hunyuan families): t is a noise level in [0, 1], 0 data
and 1 noise. The model predicts v = e - x, so a step *towards data* subtracts; the paper's Algorithms 1 and 2 print a
plus sign, which contradicts its own target.

Shape letters: B batch; the other dimensions of a latent are C channels, F latent frames, H and W.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def per_item(t: Float[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Reshape one number an item so that it multiplies a whole item."""
    return t.view(-1, *([1] * (like.ndim - 1)))


def interpolate(
    clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """Return x_t = (1 - t) x + t e (section 3, rectified flow)."""
    level = per_item(t, clean).to(clean.dtype)
    return (1 - level) * clean + level * noise


def velocity(clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Return the target v = e - x."""
    return noise - clean


def guided_start(latents: Float[Tensor, "*dims"], noise: Float[Tensor, "*dims"], eta: float) -> Float[Tensor, "*dims"]:
    """Return (1 - eta) latents + eta noise: the real clip at noise level exactly ``eta`` (Algorithm 2).

    Args:
        latents: normalised latents of the real clip.
        noise: standard normal noise of the same shape; independent for the two sides of a pair.
        eta: noise level in (0, 1]; at 1 nothing of the clip is left and the pair is an independent one.

    Raises:
        ValueError: if ``eta`` lies outside (0, 1].
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    return (1 - eta) * latents + eta * noise


def euler_step(
    sample: Float[Tensor, "b ..."],
    prediction: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    next_t: Float[Tensor, " b"],
) -> Float[Tensor, "b ..."]:
    """Return x at level ``next_t``: x - (t - next_t) v; towards data where next_t < t."""
    return sample + per_item(next_t - t, sample) * prediction


def classifier_free(
    conditional: Float[Tensor, "*dims"], unconditional: Float[Tensor, "*dims"], scale: float
) -> Float[Tensor, "*dims"]:
    """Return u + scale (c - u): classifier-free guidance."""
    return unconditional + scale * (conditional - unconditional)
