"""Which t and noise a pair is measured at."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from densedpo.keys import noise, stream
from densedpo.training.data import PairItem, Visit
from densedpo.training.draws import DrawLaw

SHAPE = (2, 3, 4, 4)


def item(number: int, eta: float = 0.7) -> PairItem:
    return PairItem(
        pair_id=f"p{number}",
        clip_id="c",
        source_sha256="s",
        caption="x",
        latents_path=Path("x"),
        sha256_latents="",
        num_segments=1,
        frame_labels=(1.0,) * 3,
        frame_ties=(False,) * 3,
        clip_label=1.0,
        clip_tie=False,
        eta=eta,
        latent_shape=SHAPE,
    )


def unshifted(t: float, shift: float) -> float:
    return t / (shift - (shift - 1) * t)


def test_both_sides_see_the_same_t_and_noise() -> None:
    visits = [Visit(item(n), 5) for n in range(4)]
    law = DrawLaw(seed=0, shift=1.0)
    shared = law.draw(visits, SHAPE)
    assert torch.equal(shared.noise_a, shared.noise_b)
    separate = replace(law, share_noise=False).draw(visits, SHAPE)
    assert torch.equal(separate.noise_a, shared.noise_a) and not torch.equal(separate.noise_a, separate.noise_b)
    assert torch.equal(separate.t, shared.t) and len(set(shared.t.tolist())) == len(visits)


@pytest.mark.parametrize("stored", [None, 4])
def test_a_draw_depends_on_nothing_but_its_name(stored: int | None) -> None:
    visits = [Visit(item(n), 5) for n in range(4)]
    law = DrawLaw(seed=0, shift=3.0, stored=stored)
    whole = law.draw(visits, SHAPE)
    turned = law.draw(visits[::-1], SHAPE)
    assert torch.equal(turned.noise_a.flip(0), whole.noise_a) and torch.equal(turned.t.flip(0), whole.t)
    assert not torch.equal(law.draw([Visit(item(0), 6)], SHAPE).noise_a[0], whole.noise_a[0])


def test_levels_follow_the_logit_normal_law() -> None:
    visits = [Visit(item(n), 0) for n in range(4000)]
    for shift in (1.0, 5.0):
        t = DrawLaw(seed=0, shift=shift).draw(visits, (1, 1, 1, 1)).t.double()
        plain = t / (shift - (shift - 1) * t)
        normal = torch.logit(plain)
        assert abs(float(normal.mean())) < 0.05 and abs(float(normal.std()) - 1) < 0.04


@given(st.floats(0.3, 1.0), st.sampled_from([1.0, 3.0, 5.66]), st.integers(0, 10**6))
def test_no_level_is_above_eta(eta: float, shift: float, epoch: int) -> None:
    law = DrawLaw(seed=1, shift=shift, limit_to_eta=True)
    t = float(law.draw([Visit(item(0, eta), epoch)], (1, 1, 1, 1)).t[0])
    assert 0 < t <= eta + 1e-6


def test_limiting_to_eta_cuts_the_law_and_does_not_squeeze_it() -> None:
    eta, shift = 0.8, 3.0
    visits = [Visit(item(n, eta), 0) for n in range(4000)]
    t = DrawLaw(seed=0, shift=shift, limit_to_eta=True).draw(visits, (1, 1, 1, 1)).t
    below = NormalDist().cdf(math.log(unshifted(eta, shift) / (1 - unshifted(eta, shift))))
    for level in (0.3, 0.5, 0.7):
        plain = unshifted(level, shift)
        expected = NormalDist().cdf(math.log(plain / (1 - plain))) / below
        assert abs(float((t < level).float().mean()) - expected) < 0.03


@pytest.mark.parametrize("draws", [1, 3, 8])
def test_stored_draws_cover_every_stratum_and_every_turn_meets_each_once(draws: int) -> None:
    law = DrawLaw(seed=0, shift=5.0, stored=draws)
    visits = [Visit(item(0), epoch) for epoch in range(2 * draws)]
    draw = law.draw(visits, SHAPE)
    assert draw.stored is not None
    assert sorted(draw.stored[:draws]) == sorted(draw.stored[draws:]) == list(range(draws))
    for index, t in zip(draw.stored, draw.t.tolist(), strict=True):
        share = NormalDist().cdf(math.log(unshifted(t, 5.0) / (1 - unshifted(t, 5.0))))
        assert index / draws - 1e-4 <= share <= (index + 1) / draws + 1e-4


def test_stored_draws_belong_to_the_pair_and_not_to_the_run() -> None:
    first, second = (DrawLaw(seed=seed, shift=5.0, stored=4) for seed in (0, 1))
    items, indices = [item(0), item(1)], [2, 3]
    one, other = first.stored_draws(items, indices, SHAPE), second.stored_draws(items, indices, SHAPE)
    assert torch.equal(one.t, other.t) and torch.equal(one.noise_a, other.noise_a)
    visits = [Visit(item(0), epoch) for epoch in range(4)]
    orders = {DrawLaw(seed=seed, shift=5.0, stored=4).draw(visits, SHAPE).stored for seed in range(8)}
    assert len(orders) > 1  # the order is the run's own


def test_a_cached_draw_is_never_a_live_one() -> None:
    live = DrawLaw(seed=0, shift=5.0).draw([Visit(item(0), 0)], SHAPE)
    stored = DrawLaw(seed=0, shift=5.0, stored=1).draw([Visit(item(0), 0)], SHAPE)
    assert not torch.equal(live.noise_a, stored.noise_a)


def test_names_of_live_draws_do_not_change() -> None:
    # a run that is resumed with a later version goes on with the same draws
    draw = DrawLaw(seed=3, shift=1.0, share_noise=False).draw([Visit(item(0), 5)], SHAPE)
    level = NormalDist().inv_cdf(stream(3, "training-t", 5, "p0").random())
    assert draw.t.tolist() == pytest.approx([1 / (1 + math.exp(-level))])
    assert torch.equal(draw.noise_a[0], noise(SHAPE, 3, "training-noise", 5, "p0", "a"))
    assert torch.equal(draw.noise_b[0], noise(SHAPE, 3, "training-noise", 5, "p0", "b"))


def test_names_of_stored_draws_do_not_change() -> None:
    # the errors in a cache on disk were measured at these
    draw = DrawLaw(seed=3, shift=1.0, share_noise=False, stored=4).draw([Visit(item(0), 6)], SHAPE)
    index = int(stream(3, "stored-order", 1, "p0").permutation(4)[2])
    level = NormalDist().inv_cdf((index + stream(None, "stored-t", "p0", 4, index).random()) / 4)
    assert draw.stored == (index,) and draw.t.tolist() == pytest.approx([1 / (1 + math.exp(-level))])
    assert torch.equal(draw.noise_a[0], noise(SHAPE, None, "stored-noise", "p0", 4, index, "a"))
    assert torch.equal(draw.noise_b[0], noise(SHAPE, None, "stored-noise", "p0", 4, index, "b"))


def test_every_item_has_an_index() -> None:
    with pytest.raises(ValueError, match="zip"):
        DrawLaw(seed=0, shift=1.0, stored=4).stored_draws([item(0), item(1)], [0], SHAPE)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_the_law_are_finite(share: float) -> None:
    assert 0 < DrawLaw(seed=0, shift=5.0)._level(share, item(0)) < 1
