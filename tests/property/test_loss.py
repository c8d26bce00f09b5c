"""The losses hold their promises for any errors and labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from densedpo.keys import noise, stream
from densedpo.training.loss import (
    Errors,
    Labels,
    LossOutput,
    LossSpec,
    LossType,
    Method,
    dense_dpo_loss,
    preference_loss,
    robust_term,
    sft_loss,
    sigmoid_term,
    term_totals,
    tie_aware_term,
)

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


def plain(method: Method, four: Four, labels: Tensor, beta: float, num_segments: int = 1) -> LossOutput:
    """One logistic term alone, on labels [B, F], or [B] where there is one a clip, none of them ties."""
    frames, clip = (torch.zeros_like(four[0]), labels) if labels.ndim == 1 else (labels, torch.zeros_like(labels[:, 0]))
    said = Labels(frames, torch.zeros_like(frames, dtype=torch.bool), clip, torch.zeros_like(clip, dtype=torch.bool))
    spec = LossSpec(method, beta=beta, num_segments=num_segments)
    return preference_loss(Errors(*four[:2]), Errors(*four[2:]), said, spec)


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
        plain("dense_sum", same, labels, beta, num_segments=2),
        plain("structural", same, labels[:, 0], beta),
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
    graded = (policy_a, *four[1:])
    for output in (
        dense_dpo_loss(*graded, torch.zeros_like(labels), beta=500),
        plain("dense_sum", graded, torch.zeros_like(labels), 500, num_segments=2),
        plain("structural", graded, torch.zeros_like(labels[:, 0]), 500),
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
    output = plain("structural", four, sign, beta)
    assert float(output.loss) == pytest.approx(expected, rel=1e-10)
    # policy b and reference a could change places in z, but not here
    change = torch.where(sign > 0, policy_a - reference_a, policy_b - reference_b)
    assert float(output.metrics["winner_change"]) == pytest.approx(float(change.mean()), rel=1e-9, abs=1e-12)


def test_dense_sum_sums_segments_inside_one_logistic() -> None:
    # two segments of two latent frames; margins per segment 0.1 and -0.3, labels + and -
    policy_a = torch.tensor([[0.1, 0.1, -0.3, -0.3]], dtype=torch.float64)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    loss = plain("dense_sum", (policy_a, zero, zero, zero), labels, 10, num_segments=2).loss
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


# ---------------------------------------------------------------------------------------------------------------------
# every term, method, averaging and modifier

METHODS: tuple[Method, ...] = get_args(Method)
TERMS: tuple[LossType, ...] = get_args(LossType)
ON_MARGIN: tuple[LossType, ...] = ("sigmoid", "robust", "ipo", "tie_aware")
Make = Callable[[], LossSpec]
thorough = settings(max_examples=500)
dear = settings(max_examples=100)


@dataclass(frozen=True)
class Case:
    """Errors of real residuals, so that ``cross`` fits them, and labels of all kinds."""

    policy: Errors
    reference: Errors
    labels: Labels
    clip_errors: Tensor

    def loss(self, spec: LossSpec, totals: Sequence[float] | None = None, **changed: Any) -> LossOutput:
        case = replace(self, **changed)
        return preference_loss(
            case.policy, case.reference, case.labels, spec, totals=totals, clip_errors=case.clip_errors
        )

    def rows(self, chosen: Any) -> Case:
        def cut(errors: Errors) -> Errors:
            return Errors(errors.a[chosen], errors.b[chosen], None if errors.cross is None else errors.cross[chosen])

        said = self.labels
        labels = Labels(said.frames[chosen], said.frame_ties[chosen], said.clip[chosen], said.clip_ties[chosen])
        return Case(cut(self.policy), cut(self.reference), labels, self.clip_errors[chosen])

    def with_grad(self) -> Case:
        policy = self.policy
        leaves = Errors(policy.a.clone().requires_grad_(True), policy.b.clone().requires_grad_(True), policy.cross)
        return replace(self, policy=leaves)


def errors_of(residual_a: Tensor, residual_b: Tensor) -> Errors:
    """Residuals [B, F, N] to errors [B, F]."""
    a, b, cross = (r.mean(dim=2) for r in (residual_a.square(), residual_b.square(), residual_a * residual_b))
    return Errors(a, b, cross)


@st.composite
def cases(draw: Any, decided: bool = False) -> Case:
    pairs, frames = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rng = stream("test", "case", draw(st.integers(0, 10**6)))
    policy = errors_of(*(torch.from_numpy(rng.normal(0, 1, (pairs, frames, 3))) for _ in range(2)))
    reference = errors_of(*(torch.from_numpy(rng.normal(0, 1, (pairs, frames, 3))) for _ in range(2)))
    values = [-1.0, -0.75, -0.25, 0.25, 0.5, 1.0] + ([] if decided else [0.0] * 6)

    def said(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        label = torch.from_numpy(rng.choice(values, shape))
        return label, (label == 0) & torch.from_numpy(rng.random(shape) < 0.5)

    labels = Labels(*said((pairs, frames)), *said((pairs,)))
    return Case(policy, replace(reference, cross=None), labels, torch.from_numpy(rng.uniform(0, 2, (pairs, frames))))


@st.composite
def specs(draw: Any, terms: tuple[LossType, ...] = TERMS, methods: tuple[Method, ...] = METHODS) -> Make:
    """One term under any method and modifiers; made in the test, as the run-time type checker draws random numbers."""
    return partial(
        LossSpec,
        method=draw(st.sampled_from(methods)),
        terms=((draw(st.sampled_from(terms)), draw(st.sampled_from([0.5, 1.0, 3.0]))),),
        beta=draw(st.floats(0.1, 10)),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.3])),
        confidence_weights=draw(st.booleans()),
        tie_alpha=draw(st.sampled_from([0.2, math.log(3), 2.0])),
        dpop_lambda=draw(st.sampled_from([0.0, 0.5, 5.0])),
        sdpo_mu=draw(st.sampled_from([None, 0.0, 0.5, 0.9])),
        averaging=draw(st.sampled_from(["batch", "pair"])),
        num_segments=draw(st.integers(1, 3)),
    )


def plain_values(name: LossType, case: Case, spec: LossSpec) -> list[list[tuple[float, float]]]:
    """(weight, value) of every unit of every pair, restated in loops over plain numbers."""

    def softplus(x: float) -> float:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    def on_margin(z: float, tie: bool) -> float:
        theta, e = math.exp(spec.tie_alpha), spec.label_smoothing
        if name == "sigmoid":
            return (1 - e) * softplus(-z) + e * softplus(z)
        if name == "robust":
            return ((1 - e) * softplus(-z) - e * softplus(z)) / (1 - 2 * e)
        if name == "ipo":
            return z * z - z + 0.25
        win, lose = 1 / (1 + theta * math.exp(-z)), 1 / (1 + theta * math.exp(z))
        return -math.log(1 - win - lose) if tie else -math.log(win)

    found = []
    pairs, count = case.policy.a.shape
    for b in range(pairs):
        pa, pb = case.policy.a[b].tolist(), case.policy.b[b].tolist()
        ra, rb = case.reference.a[b].tolist(), case.reference.b[b].tolist()
        if name == "sft_clip":
            found.append([(1.0, error) for error in case.clip_errors[b].tolist()])
            continue
        labels, ties = case.labels.frames[b].tolist(), case.labels.frame_ties[b].tolist()
        if spec.method in {"vanilla", "structural"}:
            labels, ties = [float(case.labels.clip[b])], [bool(case.labels.clip_ties[b])]
        if not spec.confidence_weights:
            labels = [float(np.sign(label)) for label in labels]
        if name == "sft":
            every = labels * count if len(labels) < count else labels
            found.append([(abs(every[k]), pa[k] if every[k] > 0 else pb[k]) for k in range(count)])
            continue
        if spec.method in {"vanilla", "structural"}:
            pa, pb, ra, rb = ([sum(values) / count] for values in (pa, pb, ra, rb))
        units = []
        for k, label in enumerate(labels):
            lead = (pb[k] - rb[k]) - (pa[k] - ra[k])
            winner = max(0.0, pa[k] - ra[k] if label > 0 else pb[k] - rb[k])
            if label:
                lead = math.copysign(1, label) * lead - spec.dpop_lambda * winner
            units.append((abs(label), 0.5 * spec.beta * lead, bool(ties[k])))
        if spec.method == "dense_sum":
            scale = spec.num_segments / count
            if any(weight for weight, _, _ in units):
                units = [(1.0, scale * sum(weight * z for weight, z, _ in units), False)]
            else:
                units = [(0.0, scale * sum(z for _, z, tie in units if tie), any(tie for _, _, tie in units))]
        row = []
        for weight, z, tie in units:
            teaches = tie and name == "tie_aware"
            row.append((1.0 if teaches else weight, on_margin(z, tie) if weight or teaches else 0.0))
        found.append(row)
    return found


def plain_loss(case: Case, spec: LossSpec) -> float:
    loss = 0.0
    for name, factor in spec.terms:
        found = plain_values(name, case, spec)
        sums = [(sum(w * v for w, v in row), sum(w for w, _ in row)) for row in found]
        if spec.averaging == "pair":
            means = [value / weight for value, weight in sums if weight]
            loss += factor * (sum(means) / len(means) if means else 0.0)
        else:
            weight = sum(w for _, w in sums)
            loss += factor * (sum(v for v, _ in sums) / weight if weight else 0.0)
    return loss


@thorough
@given(cases(), specs())
def test_every_term_and_modifier_agrees_with_a_plain_restatement(case: Case, make: Make) -> None:
    spec = make()
    assert float(case.loss(spec).loss) == pytest.approx(plain_loss(case, spec), rel=1e-10, abs=1e-10)


@dear
@given(cases(), specs(), specs())
def test_terms_add_up_with_their_weights(case: Case, make_first: Make, make_second: Make) -> None:
    first = make_first()
    second = make_second()
    spec = replace(first, terms=(*first.terms, *(term for term in second.terms if term[0] != first.terms[0][0])))
    parts = [float(case.loss(replace(spec, terms=(term,))).loss) for term in spec.terms]
    assert float(case.loss(spec).loss) == pytest.approx(sum(parts), rel=1e-12, abs=1e-12)


@thorough
@given(cases(decided=True), specs(ON_MARGIN))
def test_policy_equal_to_reference_gives_each_term_its_value_at_zero(case: Case, make: Make) -> None:
    spec = make()
    [(name, factor)] = spec.terms
    theta = math.exp(spec.tie_alpha)
    at_zero = {"sigmoid": math.log(2), "robust": math.log(2), "ipo": 0.25, "tie_aware": math.log(1 + theta)}
    output = case.loss(spec, reference=replace(case.policy, cross=None))
    assert float(output.loss) == pytest.approx(factor * at_zero[name], rel=1e-14)
    assert float(output.metrics["rewards/margins"]) == 0


@thorough
@given(cases(), specs())
def test_swapping_sides_and_negating_labels_changes_nothing_for_any_term(case: Case, make: Make) -> None:
    spec = make()
    policy, reference, said = case.policy, case.reference, case.labels
    turned = case.loss(
        spec,
        policy=Errors(policy.b, policy.a, policy.cross),
        reference=Errors(reference.b, reference.a),
        labels=replace(said, frames=-said.frames, clip=-said.clip),
    )
    straight = case.loss(spec)
    assert float(straight.loss) == pytest.approx(float(turned.loss), rel=1e-12, abs=1e-13)
    assert straight.metrics.keys() == turned.metrics.keys()
    for name, value in straight.metrics.items():
        assert float(value) == pytest.approx(float(turned.metrics[name]), rel=1e-9, abs=1e-12), name


@thorough
@given(cases(), specs(), st.integers(0, 10**6))
def test_the_order_of_pairs_and_frames_does_not_matter(case: Case, make: Make, seed: int) -> None:
    spec = make()
    rng = stream("test", "order", seed)
    pairs, frames = case.clip_errors.shape
    shuffled = case.rows(torch.from_numpy(rng.permutation(pairs)))
    order = torch.from_numpy(rng.permutation(frames))
    said, policy = shuffled.labels, shuffled.policy
    assert policy.cross is not None
    shuffled = Case(
        Errors(policy.a[:, order], policy.b[:, order], policy.cross[:, order]),
        Errors(shuffled.reference.a[:, order], shuffled.reference.b[:, order]),
        replace(said, frames=said.frames[:, order], frame_ties=said.frame_ties[:, order]),
        shuffled.clip_errors[:, order],
    )
    assert float(shuffled.loss(spec).loss) == pytest.approx(float(case.loss(spec).loss), rel=1e-12, abs=1e-13)


def untold(labels: Labels, ties: bool) -> Labels:
    """The same shapes with ties alone, or with nothing said at all."""
    return Labels(
        torch.zeros_like(labels.frames),
        torch.full_like(labels.frame_ties, ties),
        torch.zeros_like(labels.clip),
        torch.full_like(labels.clip_ties, ties),
    )


@thorough
@given(
    cases(), specs(("sigmoid", "robust", "ipo", "sft", "tie_aware")), st.booleans(), st.sampled_from([1.0, math.nan])
)
def test_where_nothing_was_said_loss_and_gradient_are_zero(case: Case, make: Make, ties: bool, factor: float) -> None:
    spec = make()
    ties = ties and spec.terms[0][0] != "tie_aware"
    policy = case.policy
    broken = replace(case, policy=Errors(policy.a * factor, policy.b, policy.cross)).with_grad()
    output = broken.loss(spec, labels=untold(case.labels, ties))
    output.loss.backward()
    assert float(output.loss.detach()) == 0
    for leaf in (broken.policy.a, broken.policy.b):
        assert leaf.grad is not None and bool((leaf.grad == 0).all())
    assert set(output.metrics) == {"non_tie_frames"}


@thorough
@given(cases(), specs(("sigmoid", "robust", "ipo", "sft")), st.floats(0.5, 100))
def test_ties_teach_nothing_but_in_tie_aware(case: Case, make: Make, wild: float) -> None:
    spec = make()
    if spec.method in {"vanilla", "structural"}:
        silent = (case.labels.clip == 0)[:, None].expand_as(case.clip_errors)
    else:
        silent = case.labels.frames == 0
    leaves = case.with_grad()
    output = leaves.loss(spec)
    output.loss.backward()
    assert leaves.policy.a.grad is not None and leaves.policy.b.grad is not None
    assert bool((leaves.policy.a.grad[silent] == 0).all()) and bool((leaves.policy.b.grad[silent] == 0).all())
    for broken in (case.policy.a * wild + wild, torch.full_like(case.policy.a, math.nan)):
        policy = replace(
            case.policy, a=torch.where(silent, broken, case.policy.a), b=torch.where(silent, -broken, case.policy.b)
        )
        assert float(case.loss(spec, policy=policy).loss) == float(output.loss.detach())


@thorough
@given(cases(decided=True), specs(("sigmoid", "robust", "tie_aware", "ipo")))
def test_every_term_pulls_the_margin_up(case: Case, make: Make) -> None:
    spec = make()
    # so weak that no margin gets where ipo and label smoothing push back
    spec = replace(spec, beta=0.02)
    leaves = case.with_grad()
    leaves.loss(spec).loss.backward()
    clip = spec.method in {"vanilla", "structural"}
    sign = (case.labels.clip[:, None] if clip else case.labels.frames).sign()
    assert leaves.policy.a.grad is not None and leaves.policy.b.grad is not None
    winner = torch.where(sign > 0, leaves.policy.a.grad, leaves.policy.b.grad)
    loser = torch.where(sign > 0, leaves.policy.b.grad, leaves.policy.a.grad)
    assert bool((winner > 0).all())  # a step down the gradient lowers the winner's error
    assert bool((loser < 0).all())
    # and by one step the margin of every pair rises
    with torch.no_grad():
        step = 1e-3 / max(float(winner.abs().max()), float(loser.abs().max()))
        moved = replace(
            case.policy, a=case.policy.a - step * leaves.policy.a.grad, b=case.policy.b - step * leaves.policy.b.grad
        )
    before, after = (case.loss(spec, policy=p).metrics["rewards/margins"] for p in (case.policy, moved))
    assert float(after) > float(before)


@dear
@given(cases(), specs(), st.integers(1, 3))
def test_parts_with_the_global_totals_add_up_to_the_whole_for_every_term(case: Case, make: Make, cut: int) -> None:
    spec = make()
    spec = replace(spec, terms=(*spec.terms, *((name, 0.7) for name in TERMS if name != spec.terms[0][0])))
    parts = [part for part in (case.rows(slice(0, cut)), case.rows(slice(cut, None))) if part.clip_errors.numel()]
    each = [term_totals(part.labels, spec) for part in parts]
    totals = tuple(sum(values) for values in zip(*each, strict=True))
    assert totals == pytest.approx(term_totals(case.labels, spec), rel=1e-12)
    losses = [float(part.loss(spec, totals=totals).loss) for part in parts]
    assert sum(losses) == pytest.approx(float(case.loss(spec).loss), rel=1e-10, abs=1e-12)
    assert float(case.loss(spec, totals=[2 * total for total in totals]).loss) == pytest.approx(
        float(case.loss(spec).loss) / 2, rel=1e-12, abs=1e-13
    )


@thorough
@given(cases(decided=True), specs(("sigmoid", "tie_aware")), st.floats(1.01, 5))
def test_a_greater_beta_rewards_agreement_and_punishes_disagreement(case: Case, make: Make, more: float) -> None:
    spec = make()
    spec = replace(spec, label_smoothing=0.0, beta=min(spec.beta, 2.0))
    sign = (case.labels.clip[:, None] if spec.method in {"vanilla", "structural"} else case.labels.frames).sign()
    for agrees in (True, False):
        # winner below and loser above the reference, or the other way round
        push = sign if agrees else -sign
        policy = replace(case.policy, a=case.reference.a - 0.1 * push, b=case.reference.b + 0.1 * push)
        low, high = (float(case.loss(replace(spec, beta=b), policy=policy).loss) for b in (spec.beta, spec.beta * more))
        assert high < low if agrees else high > low


@dear
@given(cases(), specs(), st.sampled_from([torch.bfloat16, torch.float16]))
def test_few_bits_are_computed_in_many(case: Case, make: Make, dtype: torch.dtype) -> None:
    spec = make()

    def rounded(errors: Errors) -> Errors:
        return Errors(errors.a.to(dtype), errors.b.to(dtype), errors.cross)

    policy, reference = rounded(case.policy), rounded(case.reference)
    few = case.loss(spec, policy=policy, reference=reference)
    policy, reference = (replace(errors, a=errors.a.double(), b=errors.b.double()) for errors in (policy, reference))
    many = case.loss(spec, policy=policy, reference=reference)
    assert float(few.loss) == pytest.approx(float(many.loss), rel=1e-4, abs=1e-4)
    # rounding the errors moves z by half beta times four of them times 2^-9, so the leash is kept short here
    short = replace(spec, terms=(("sigmoid", 1.0),), beta=0.1, dpop_lambda=0.0)
    few = case.loss(short, policy=rounded(case.policy), reference=rounded(case.reference))
    assert float(few.loss) == pytest.approx(float(case.loss(short).loss), abs=1e-2)


@given(cases(decided=True), specs())
def test_without_confidence_only_signs_count(case: Case, make: Make) -> None:
    spec = make()
    said = case.labels
    bare = replace(said, frames=said.frames.sign(), clip=said.clip.sign())
    plain = float(case.loss(replace(spec, confidence_weights=False)).loss)
    assert plain == float(case.loss(replace(spec, confidence_weights=True), labels=bare).loss)
    assert plain == float(case.loss(replace(spec, confidence_weights=False), labels=bare).loss)


@given(cases(), specs(methods=("vanilla", "structural")))
def test_a_clip_of_one_latent_frame_is_the_dense_loss(case: Case, make: Make) -> None:
    spec = make()
    assert case.policy.cross is not None
    one = Case(
        Errors(case.policy.a[:, :1], case.policy.b[:, :1], case.policy.cross[:, :1]),
        Errors(case.reference.a[:, :1], case.reference.b[:, :1]),
        replace(case.labels, frames=case.labels.clip[:, None], frame_ties=case.labels.clip_ties[:, None]),
        case.clip_errors[:, :1],
    )
    clip, dense = one.loss(spec), one.loss(replace(spec, method="dense"))
    assert float(clip.loss) == float(dense.loss)
    assert {n: float(v) for n, v in clip.metrics.items()} == {n: float(v) for n, v in dense.metrics.items()}


@dear
@given(cases(), specs(("tie_aware",)))
def test_unlabelled_is_not_a_tie(case: Case, make: Make) -> None:
    spec = make()
    leaves = case.with_grad()
    leaves.loss(spec).loss.backward()
    said = case.labels
    if spec.method in {"vanilla", "structural"}:
        told, silent = said.clip_ties, (said.clip == 0) & ~said.clip_ties
    else:
        told, silent = said.frame_ties, (said.frames == 0) & ~said.frame_ties
    if spec.method == "dense_sum":  # there a tie counts only where the pair has no preference
        told = told & ~(said.frames != 0).any(dim=1, keepdim=True)
    for grad in (leaves.policy.a.grad, leaves.policy.b.grad):
        assert grad is not None
        assert bool((grad[silent] == 0).all())
        assert bool((grad[told] != 0).all())


@given(cases(), specs(("tie_aware",), methods=("dense",)))
def test_a_tie_weighs_as_much_as_a_certain_label(case: Case, make: Make) -> None:
    spec = make()
    spec, said = replace(spec, averaging="batch"), case.labels
    decided = said.frames.abs() if spec.confidence_weights else (said.frames != 0).double()
    without = replace(said, frame_ties=torch.zeros_like(said.frame_ties))
    assert term_totals(without, spec) == pytest.approx((float(decided.sum()),), rel=1e-12)
    assert term_totals(said, spec) == pytest.approx((float(decided.sum() + said.frame_ties.sum()),), rel=1e-12)


@given(st.floats(-40, 40), st.sampled_from([0.01, 0.5, math.log(3), 4.0]))
def test_win_loss_and_tie_add_up_to_one(margin: float, alpha: float) -> None:
    z, yes = torch.full((1, 1), margin, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    win, lose, tie = (
        float(tie_aware_term(value, ties, alpha).neg().exp()) for value, ties in ((z, ~yes), (-z, ~yes), (z, yes))
    )
    assert win + lose + tie == pytest.approx(1, rel=1e-12)
    assert tie == pytest.approx(float(tie_aware_term(-z, yes, alpha).neg().exp()), rel=1e-12)
    at_zero = float(tie_aware_term(0 * z, yes, alpha))
    assert float(tie_aware_term(z, yes, alpha)) >= at_zero - 1e-12


@given(st.floats(-1e4, 1e4), st.floats(0, 0.49))
def test_robust_is_unbiased_under_flips(margin: float, flipped: float) -> None:
    z = torch.full((1, 1), margin, dtype=torch.float64)
    mean = (1 - flipped) * robust_term(z, flipped) + flipped * robust_term(-z, flipped)
    assert float(mean) == pytest.approx(float(sigmoid_term(z)), rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("margin", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("name", ON_MARGIN)
@pytest.mark.parametrize("label", [1.0, 0.0])
def test_float32_is_stable_at_any_margin(margin: float, name: LossType, label: float) -> None:
    """The margin is made by side a's error alone: z = -0.5 beta (policy_a - 1)."""
    results = []
    for dtype in (torch.float32, torch.float64):
        policy = torch.full((1, 1), 1 - margin, dtype=dtype).requires_grad_(True)
        ones = torch.ones(1, 1, dtype=dtype)
        no = torch.zeros(1, dtype=torch.bool)
        labels = Labels(ones * label, torch.full((1, 1), label == 0), torch.zeros(1, dtype=dtype), no)
        spec = LossSpec(terms=((name, 1.0),), beta=2.0, label_smoothing=0.1)
        loss = preference_loss(Errors(policy, ones), Errors(ones, ones), labels, spec).loss
        loss.backward()
        assert policy.grad is not None
        results.append((float(loss.detach()), float(policy.grad)))
    assert all(math.isfinite(value) for value in itertools.chain(*results))
    assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("averaging", ["batch", "pair"])
def test_gradients_are_those_of_the_values(method: Method, averaging: Any) -> None:
    rng = stream("test", "gradcheck")
    arrays = [torch.from_numpy(rng.uniform(0, 2, (2, 3))) for _ in range(5)]
    labels = Labels(
        torch.tensor([[1.0, 0.0, -0.5], [0.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[False, True, False], [True, False, True]]),
        torch.tensor([0.5, 0.0], dtype=torch.float64),
        torch.tensor([False, True]),
    )
    terms = tuple((name, 0.5 + place) for place, name in enumerate(TERMS))
    spec = LossSpec(method, terms, 3.0, label_smoothing=0.2, dpop_lambda=2.0, averaging=averaging, num_segments=2)

    def loss(policy_a: Tensor, policy_b: Tensor, clip: Tensor) -> Tensor:
        reference = Errors(arrays[2], arrays[3])
        return preference_loss(Errors(policy_a, policy_b), reference, labels, spec, clip_errors=clip).loss

    leaves = tuple(arrays[place].requires_grad_(True) for place in (0, 1, 4))
    assert torch.autograd.gradcheck(loss, leaves)


# ---------------------------------------------------------------------------------------------------------------------
# SDPO


@dear
@given(cases(), specs(ON_MARGIN), st.sampled_from([0.0, 0.3, 0.9]))
def test_sdpo_scales_the_losers_gradient_and_nothing_else(case: Case, make: Make, mu: float) -> None:
    spec = make()
    free, safe = case.with_grad(), case.with_grad()
    plain, scaled = free.loss(replace(spec, sdpo_mu=None)), safe.loss(replace(spec, sdpo_mu=mu))
    assert float(plain.loss.detach()) == float(scaled.loss.detach())
    plain.loss.backward()
    scaled.loss.backward()
    clip = spec.method in {"vanilla", "structural"}
    signs = (case.labels.clip[:, None].expand_as(case.clip_errors) if clip else case.labels.frames).sign()
    cross = case.policy.cross
    assert cross is not None
    for b, k in np.ndindex(*signs.shape):
        sign = float(signs[b, k])
        rows: Any = (b, slice(None)) if clip else (b, k)
        product = float(cross[rows].mean())
        winner = float((case.policy.a if sign > 0 else case.policy.b)[rows].mean())
        scale = min(1.0, (1 - mu) * winner / product) if product > 0 and sign else 1.0
        for before, after, loses in (
            (free.policy.a.grad, safe.policy.a.grad, sign < 0),
            (free.policy.b.grad, safe.policy.b.grad, sign > 0),
        ):
            assert before is not None and after is not None
            assert float(after[b, k]) == pytest.approx(float(before[b, k]) * (scale if loses else 1.0), rel=1e-12)


class Linear:
    """Least squares with one input for both sides: residual = target - W x, so that output space is exact."""

    def __init__(self, seed: int, likeness: float, loser_factor: float) -> None:
        rng = stream("test", "linear", seed)
        self.weights = torch.from_numpy(rng.normal(0, 1, (4, 3)))
        self.inputs = torch.from_numpy(rng.normal(0, 1, 3))
        winner = torch.from_numpy(rng.normal(0, 1, 4))
        other = torch.from_numpy(rng.normal(0, 1, 4))
        loser = loser_factor * (likeness * winner + (1 - likeness) * other)
        at_start = self.weights @ self.inputs
        self.targets = at_start + winner, at_start + loser

    def errors(self, weights: Tensor) -> Errors:
        left = [(target - weights @ self.inputs).view(1, 1, -1) for target in self.targets]
        return errors_of(left[0], left[1])

    def winner_rises_by(self, spec: LossSpec) -> float:
        """The change of the winner's error by one small step, per unit of step."""
        start = self.errors(self.weights)
        weights = self.weights.clone().requires_grad_(True)
        label = torch.ones(1, 1, dtype=torch.float64)
        labels = Labels(label, label < 0, label[0], label[0] < 0)
        preference_loss(self.errors(weights), start, labels, spec).loss.backward()
        assert weights.grad is not None
        step = 1e-6 / max(float(weights.grad.norm()), 1e-8)
        after = self.errors(self.weights - step * weights.grad)
        return float(after.a - start.a) / 1e-6


@given(
    st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 5), st.sampled_from(METHODS), st.sampled_from([0.0, 0.5, 0.9])
)
def test_sdpo_does_not_raise_the_winners_error(
    seed: int, likeness: float, factor: float, method: Method, mu: float
) -> None:
    spec = LossSpec(method, beta=1.0, sdpo_mu=mu)
    assert Linear(seed, likeness, factor).winner_rises_by(spec) <= 1e-5


@given(st.integers(0, 10**6), st.floats(1.5, 5), st.sampled_from(METHODS))
def test_without_sdpo_a_loser_like_the_winner_but_worse_raises_it(seed: int, factor: float, method: Method) -> None:
    model = Linear(seed, 1.0, factor)
    assert model.winner_rises_by(LossSpec(method, beta=1.0)) > 1e-3
    assert model.winner_rises_by(LossSpec(method, beta=1.0, sdpo_mu=0.5)) < 0
    assert model.winner_rises_by(LossSpec(method, beta=1.0, sdpo_mu=0.0)) <= 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# misuse


@pytest.mark.parametrize("field", ["a", "b", "cross"])
@pytest.mark.parametrize("wrong", [(2, 3), (1, 4), (1, 3, 1), (3,)])
def test_errors_of_wrong_shape_are_refused(field: str, wrong: tuple[int, ...]) -> None:
    right = torch.zeros(1, 3)
    policy = replace(Errors(right, right, right), **{field: torch.zeros(wrong)})
    labels = Labels(right, right > 0, right[:, 0], right[:, 0] > 0)
    with pytest.raises((ValueError, TypeCheckError), match=r"shape|Type-check"):
        preference_loss(policy, Errors(right, right), labels, LossSpec(sdpo_mu=0.5))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("frames", (1, 4)), ("frame_ties", (2, 3)), ("clip", (2,)), ("clip", (1, 1)), ("clip_ties", (3,))],
)
def test_labels_of_wrong_shape_are_refused(field: str, wrong: tuple[int, ...]) -> None:
    right = torch.zeros(1, 3)
    labels = Labels(right, right > 0, right[:, 0], right[:, 0] > 0)
    broken = replace(labels, **{field: torch.zeros(wrong, dtype=getattr(labels, field).dtype)})
    with pytest.raises((ValueError, TypeCheckError), match=r"shape|Type-check"):
        preference_loss(Errors(right, right), Errors(right, right), broken, LossSpec())
