"""Both sides of several pairs, from the clips' latents: the numbers, without files.

x -> (1 - eta) x + eta e_a | e_b -> denoise from eta. All sides and both guidance branches go through the denoiser as
one batch, in parts where they do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from densedpo.diffusion.grid import grid_from
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.sampling import denoise
from densedpo.models.text import TextCondition
from densedpo.pairs.plan import PlannedPair, Recipe

SIDES = ("a", "b")


def denoise_pairs(
    model: VideoModel,
    pairs: Sequence[PlannedPair],
    clean: Tensor,
    text: TextCondition,
    null_text: TextCondition,
    recipe: Recipe,
    grid: Sequence[float],
) -> Tensor:
    """Return the latents of both sides, [B, 2, C, F, H, W].

    Args:
        model: the model.
        pairs: B pairs that take the same steps: see ``plan_batches``.
        clean: the clips' latents, [B, C, F, H, W].
        text: conditions of the B captions.
        null_text: condition of the empty prompt.
        recipe: how pairs are made.
        grid: the family's noise levels for the recipe.
    """
    drawn = [noise(tuple(clean.shape[1:]), recipe.seed, "pair-noise", p.pair_id, side) for p in pairs for side in SIDES]
    etas = torch.tensor([pair.eta for pair in pairs], device=clean.device).repeat_interleave(2)
    start = model.add_noise(clean.repeat_interleave(2, dim=0), torch.stack(drawn).to(clean.device), etas)
    levels: list[float | Tensor] = [etas.clamp(max=grid[0]), *grid_from(grid, pairs[0].eta)[1:]]
    sides = denoise(model, start, levels, text.repeat_interleave(2), null_text, recipe.cfg)
    return sides.view(len(pairs), 2, *sides.shape[1:])
