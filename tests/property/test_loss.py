"""The losses hold their promises for any errors and labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from densedpo.keys import noise, stream
from densedpo.training.loss import clip_dpo_loss, dense_dpo_loss, dense_sum_dpo_loss, sft_loss

Four = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def batches(draw: Any, decided: bool = False) -> tuple[Four, Tensor]:
    """Four error arrays [B, F] and labels in [-1, 1] with ties, double precision."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 6)))
    # arrays come from a drawn seed: element by element they would take hypothesis a hundred times as long
    rng = stream("test", "batch", draw(st.integers(0, 10**6)))
    first, second, third, fourth = (torch.from_numpy(rng.uniform(0, 2, shape)) for _ in range(4))
    values = [-1.0, -0.75, -0.25, 0.25, 0.5, 1.0] + ([] if decided else [0.0, 0.0, 0.0])
    return (first, second, third, fourth), torch.from_numpy(rng.choice(values, shape))


def by_hand(four: Four, labels: Tensor, beta: float) -> float:
    """Dense loss written again, plainly, in numpy."""
    policy_a, policy_b, reference_a, reference_b = (t.numpy() for t in four)
    total, weight = 0.0, 0.0
    for b, f in np.ndindex(*labels.shape):
        label = float(labels[b, f])
        if label == 0:
            continue
        margin = (policy_a[b, f] - reference_a[b, f]) - (policy_b[b, f] - reference_b[b, f])
        z = -0.5 * beta * math.copysign(1, label) * margin
        total += abs(label) * float(np.logaddexp(0, -z))
        weight += abs(label)
    return total / weight if weight else 0.0


@given(batches(), st.floats(0.1, 1000))
def test_dense_agrees_with_a_plain_restatement(batch: tuple[Four, Tensor], beta: float) -> None:
    four, labels = batch
    expected = by_hand(four, labels, beta)
    assert float(dense_dpo_loss(*four, labels, beta=beta).loss) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(batches(decided=True), st.floats(0.1, 1000))
def test_policy_equal_to_reference_gives_log_two(batch: tuple[Four, Tensor], beta: float) -> None:
    (policy_a, policy_b, _, _), labels = batch
    same = (policy_a, policy_b, policy_a, policy_b)
    for output in (
        dense_dpo_loss(*same, labels, beta=beta),
        dense_sum_dpo_loss(*same, labels, beta=beta, num_segments=2),
        clip_dpo_loss(*same, labels[:, 0], beta=beta),
    ):
        assert float(output.loss) == pytest.approx(math.log(2), rel=1e-15)
        assert float(output.metrics["rewards/margins"]) == 0


@given(batches(), st.floats(0.1, 1000))
def test_swapping_sides_and_negating_labels_changes_nothing(batch: tuple[Four, Tensor], beta: float) -> None:
    (policy_a, policy_b, reference_a, reference_b), labels = batch
    swapped = (policy_b, policy_a, reference_b, reference_a)
    straight = dense_dpo_loss(policy_a, policy_b, reference_a, reference_b, labels, beta=beta)
    turned = dense_dpo_loss(*swapped, -labels, beta=beta)
    assert float(straight.loss) == pytest.approx(float(turned.loss), rel=1e-12, abs=1e-15)
    assert straight.metrics.keys() == turned.metrics.keys()
    for name, value in straight.metrics.items():
        assert float(value) == pytest.approx(float(turned.metrics[name]), rel=1e-9, abs=1e-12), name


@given(batches(), st.floats(0.1, 1000), st.floats(0.5, 100))
def test_ties_contribute_nothing(batch: tuple[Four, Tensor], beta: float, wild: float) -> None:
    four, labels = batch
    policy_a = four[0].clone().requires_grad_(True)
    loss = dense_dpo_loss(policy_a, *four[1:], labels, beta=beta).loss
    loss.backward()
    assert policy_a.grad is not None
    assert bool((policy_a.grad[labels == 0] == 0).all())
    changed = torch.where(labels == 0, four[0] * wild + wild, four[0])
    assert float(dense_dpo_loss(changed, *four[1:], labels, beta=beta).loss) == float(loss.detach())


def test_a_non_number_in_a_tie_does_not_leak() -> None:
    errors = torch.ones(1, 2, dtype=torch.float64)
    broken = errors.clone()
    broken[0, 1] = float("nan")
    policy = broken.clone().requires_grad_(True)
    loss = dense_dpo_loss(policy, errors, errors, errors, torch.tensor([[1.0, 0.0]]), beta=500).loss
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert policy.grad is not None and bool(torch.isfinite(policy.grad).all())


@given(batches())
def test_an_all_tie_batch_gives_zero_loss_and_gradient(batch: tuple[Four, Tensor]) -> None:
    four, labels = batch
    policy_a = four[0].clone().requires_grad_(True)
    rest = four[1:]
    for output in (
        dense_dpo_loss(policy_a, *rest, torch.zeros_like(labels), beta=500),
        dense_sum_dpo_loss(policy_a, *rest, torch.zeros_like(labels), beta=500, num_segments=2),
        clip_dpo_loss(policy_a, *rest, torch.zeros_like(labels[:, 0]), beta=500),
    ):
        policy_a.grad = None
        output.loss.backward()
        assert float(output.loss.detach()) == 0
        assert policy_a.grad is not None and bool((policy_a.grad == 0).all())
        assert set(output.metrics) == {"non_tie_frames"}


@given(batches(decided=True), st.floats(1, 1000))
def test_the_gradient_lowers_the_winner_and_raises_the_loser(batch: tuple[Four, Tensor], beta: float) -> None:
    four, labels = batch
    policy_a, policy_b = (t.clone().requires_grad_(True) for t in four[:2])
    # a margin so large that its gradient underflows to zero may not be asked for a direction
    dense_dpo_loss(policy_a, policy_b, four[2], four[3], labels, beta=min(beta, 50)).loss.backward()
    assert policy_a.grad is not None and policy_b.grad is not None
    assert bool((policy_a.grad * labels.sign() > 0).all())
    assert bool((policy_b.grad * labels.sign() < 0).all())


@given(batches(), st.integers(1, 3))
def test_parts_with_the_global_weight_add_up_to_the_whole(batch: tuple[Four, Tensor], cut: int) -> None:
    four, labels = batch
    total = float(labels.abs().sum())
    whole = float(dense_dpo_loss(*four, labels, beta=100).loss)
    parts = []
    for rows in (slice(0, cut), slice(cut, None)):
        first, second, third, fourth = (t[rows] for t in four)
        if first.numel():
            output = dense_dpo_loss(first, second, third, fourth, labels[rows], beta=100, total_weight=total)
            parts.append(float(output.loss))
    assert sum(parts) == pytest.approx(whole, rel=1e-10, abs=1e-12)


@given(batches(decided=True), st.floats(0.1, 500))
def test_clip_loss_is_the_textbook_formula(batch: tuple[Four, Tensor], beta: float) -> None:
    four, labels = batch
    policy_a, policy_b, reference_a, reference_b = (t.mean(dim=1) for t in four)
    sign = labels[:, 0].sign()
    z = -0.5 * beta * sign * ((policy_a - reference_a) - (policy_b - reference_b))
    expected = float(-torch.nn.functional.logsigmoid(z).mean())
    assert float(clip_dpo_loss(*four, sign, beta=beta).loss) == pytest.approx(expected, rel=1e-10)


def test_dense_sum_sums_segments_inside_one_logistic() -> None:
    # two segments of two latent frames; margins per segment 0.1 and -0.3, labels + and -
    policy_a = torch.tensor([[0.1, 0.1, -0.3, -0.3]], dtype=torch.float64)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    loss = dense_sum_dpo_loss(policy_a, zero, zero, zero, labels, beta=10, num_segments=2).loss
    z = -0.5 * 10 * (1 * 0.1 + -1 * -0.3)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-z)), rel=1e-12)


def test_loser_dominant_counts_margins_won_by_ruining_the_loser() -> None:
    reference = torch.full((1, 3), 0.1)
    policy_winner = torch.tensor([[0.12, 0.08, 0.12]])  # worse, better, worse
    policy_loser = torch.tensor([[0.20, 0.09, 0.05]])  # won, won, lost
    output = dense_dpo_loss(policy_winner, policy_loser, reference, reference, torch.ones(1, 3), beta=100)
    assert float(output.metrics["loser_dominant_ratio"]) == pytest.approx(1 / 3)
    assert float(output.metrics["rewards/accuracies"]) == pytest.approx(2 / 3)
    assert float(output.metrics["winner_change"]) == pytest.approx((0.02 - 0.02 + 0.02) / 3, rel=1e-4)


def test_sft_loss_is_the_mean_error() -> None:
    errors = noise((3, 5), 0, "test").abs()
    assert float(sft_loss(errors).loss) == pytest.approx(float(errors.mean()))


@pytest.mark.parametrize("wrong", [(2, 3), (1, 4)])
def test_wrong_shapes_are_refused(wrong: tuple[int, int]) -> None:
    errors = torch.zeros(1, 3)
    with pytest.raises((ValueError, TypeCheckError), match=r"shape|Type-check"):
        dense_dpo_loss(errors, errors, errors, errors, torch.zeros(wrong), beta=1)


def test_labels_beyond_one_are_refused() -> None:
    errors = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="-1, 1"):
        dense_dpo_loss(errors, errors, errors, errors, torch.full((1, 3), 1.5), beta=1)
