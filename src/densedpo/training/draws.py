"""At which noise levels and noises a pair is measured: a function of (seed, epoch, pair), never of what ran before.

Live training draws afresh at every visit. With a cached reference every pair has K stored draws instead, stratified in
the noise level; they belong to the pair and not to a run, so a second seed or another beta uses the same cache.

Shape letters: B pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densedpo.diffusion.levels import LOGIT_NORMAL, LevelLaw
from densedpo.keys import noise, stream
from densedpo.training.data import PairItem, Visit


@dataclass(frozen=True)
class Draw:
    """Noise levels [B] and noises [B, C, F, H, W] of a batch, for side a and side b.

    ``stored`` says which of its pair's stored draws each one is, where draws are stored.
    """

    t: Tensor
    noise_a: Tensor
    noise_b: Tensor
    stored: tuple[int, ...] | None = None


@dataclass(frozen=True)
class DrawLaw:
    """The law of (t, noise): t as the model family draws it, noise standard normal.

    Attributes:
        seed: the run's.
        shift: of the noise levels, s t / (1 + (s - 1) t).
        levels: the law of t; the logit-normal one of flow families, unless the model's family has another.
        share_noise: one noise for both sides of a pair, as in the paper's code (appendix E of arXiv 2506.03517).
        limit_to_eta: draw t from the part of the law at or below the level that the pair was made from.
        stored: number of stored draws a pair; None for a fresh draw at every visit.
    """

    seed: int
    shift: float
    share_noise: bool = True
    limit_to_eta: bool = False
    stored: int | None = None
    levels: LevelLaw = LOGIT_NORMAL

    def draw(self, visits: Sequence[Visit], shape: tuple[int, ...]) -> Draw:
        """Draw for a batch of latents of ``shape`` (C, F, H, W); a draw does not depend on its place in the batch."""
        if self.stored is not None:
            indices = tuple(self._stored_index(visit) for visit in visits)
            return self.stored_draws([visit.item for visit in visits], indices, shape)
        levels, names = [], []
        for visit in visits:
            name = (visit.epoch, visit.item.pair_id)
            levels.append(self._level(float(stream(self.seed, "training-t", *name).random()), visit.item))
            names.append((self.seed, "training-noise", *name))
        return self._draw(levels, names, shape, None)

    def stored_draws(self, items: Sequence[PairItem], indices: Sequence[int], shape: tuple[int, ...]) -> Draw:
        """Return stored draws of several pairs; draw k lies in the k-th of K equally likely ranges of t."""
        assert self.stored is not None
        levels, names = [], []
        for item, index in zip(items, indices, strict=True):
            name = (item.pair_id, self.stored, index)
            offset = float(stream(None, "stored-t", *name).random())
            levels.append(self._level((index + offset) / self.stored, item))
            names.append((None, "stored-noise", *name))
        return self._draw(levels, names, shape, tuple(indices))

    def _stored_index(self, visit: Visit) -> int:
        """Every K epochs a pair meets each of its stored draws once, in an order of the run's own."""
        assert self.stored is not None
        turn, place = divmod(visit.epoch, self.stored)
        return int(stream(self.seed, "stored-order", turn, visit.item.pair_id).permutation(self.stored)[place])

    def _level(self, share: float, item: PairItem) -> float:
        """Return the quantile of the law at ``share`` in [0, 1], the law being cut off at eta if so set."""
        if not self.limit_to_eta:
            return self.levels.level(share, self.shift)
        return min(self.levels.level(share * self.levels.share_below(item.eta, self.shift), self.shift), item.eta)

    def _draw(
        self,
        levels: Sequence[float],
        names: Sequence[tuple[int | str | None, ...]],
        shape: tuple[int, ...],
        stored: tuple[int, ...] | None,
    ) -> Draw:
        first = [noise(shape, run, str(purpose), *ids, "a") for run, purpose, *ids in names]
        second = (
            first if self.share_noise else [noise(shape, run, str(purpose), *ids, "b") for run, purpose, *ids in names]
        )
        return Draw(torch.tensor(levels, dtype=torch.float32), torch.stack(first), torch.stack(second), stored)
