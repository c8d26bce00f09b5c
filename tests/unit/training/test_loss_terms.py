"""Terms and modifiers of the loss on numbers that can be checked by hand."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from densedpo import config
from densedpo.config import TrainSettings
from densedpo.training import loss as loss_module
from densedpo.training.loss import (
    Errors,
    Labels,
    LossSpec,
    dpop_penalty,
    ipo_term,
    preference_loss,
    preference_metrics,
    robust_term,
    sdpo_scale,
    sft_loss,
    sigmoid_term,
    term_totals,
    term_weights,
    tie_aware_term,
)

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "losses.md"


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def labels(*frames: float, ties: tuple[int, ...] = (), clip: float = 0.0, clip_tie: bool = False) -> Labels:
    return Labels(
        row(*frames),
        torch.tensor([[place in ties for place in range(len(frames))]]),
        torch.tensor([clip], dtype=torch.float64),
        torch.tensor([clip_tie]),
    )


def value(policy: Errors, said: Labels, spec: LossSpec, **more: Any) -> float:
    zero = torch.zeros_like(policy.a)
    return float(preference_loss(policy, Errors(zero, zero), said, spec, **more).loss)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_names_are_those_of_the_settings() -> None:
    assert get_args(loss_module.LossType) == get_args(config.LossType)
    assert {*get_args(loss_module.Method), "sft"} == {*get_args(config.Method)}


def test_defaults_are_those_of_the_settings() -> None:
    """But for the winner's protection, which the published loss does not have and the settings switch on."""
    spec, train = LossSpec(), TrainSettings()
    assert (spec.dpop_lambda, train.dpop_lambda) == (0.0, 5.0)
    assert spec.terms == train.weighted_loss_types
    for field in fields(LossSpec):
        if field.name not in {"terms", "num_segments", "dpop_lambda"}:
            assert getattr(spec, field.name) == getattr(train, field.name), field.name


def test_sigmoid_is_the_logistic_loss() -> None:
    assert float(sigmoid_term(row(1.5))) == pytest.approx(softplus(-1.5), rel=1e-14)
    assert float(sigmoid_term(row(1.5), 0.2)) == pytest.approx(0.8 * softplus(-1.5) + 0.2 * softplus(1.5), rel=1e-14)


def test_conservative_smoothing_is_least_where_the_odds_are_those_of_the_labels() -> None:
    z = row(math.log(0.8 / 0.2)).requires_grad_(True)
    sigmoid_term(z, 0.2).sum().backward()
    assert z.grad is not None and float(z.grad) == pytest.approx(0, abs=1e-15)


def test_robust_divides_by_what_flips_leave() -> None:
    expected = (0.7 * softplus(-1.5) - 0.3 * softplus(1.5)) / 0.4
    assert float(robust_term(row(1.5), 0.3)) == pytest.approx(expected, rel=1e-14)
    assert float(robust_term(row(1.5), 0.0)) == float(sigmoid_term(row(1.5)))


def test_robust_keeps_pushing_where_the_conservative_form_turns_back() -> None:
    z = row(4.0).requires_grad_(True)
    for term, pushes in ((robust_term, True), (sigmoid_term, False)):
        z.grad = None
        term(z, 0.2).sum().backward()
        assert z.grad is not None and (float(z.grad) < 0) == pushes


def test_ipo_draws_the_margin_to_one_half() -> None:
    assert ipo_term(row(0.0, 0.5, 1.0, -1.0)).tolist() == [[0.25, 0.0, 0.25, 2.25]]


def test_ties_at_theta_three_have_one_half_at_equality() -> None:
    ties = torch.tensor([[False, True]])
    win, tie = tie_aware_term(row(0.0, 0.0), ties, math.log(3)).neg().exp().tolist()[0]
    assert (win, tie) == (pytest.approx(0.25), pytest.approx(0.5))


def test_a_tie_pulls_back_to_the_reference_from_either_side() -> None:
    z = row(-2.0, 0.0, 2.0).requires_grad_(True)
    tie_aware_term(z, torch.ones(1, 3, dtype=torch.bool), math.log(3)).sum().backward()
    assert z.grad is not None
    below, at, above = z.grad.tolist()[0]
    assert below < 0 < above and at == pytest.approx(0, abs=1e-15) and below == pytest.approx(-above)


def test_a_narrow_tie_leaves_the_plain_logistic() -> None:
    z, no = row(-3.0, 0.2, 5.0), torch.zeros(1, 3, dtype=torch.bool)
    assert tie_aware_term(z, no, 1e-9).tolist()[0] == pytest.approx(sigmoid_term(z).tolist()[0], rel=1e-8)


def test_dpop_counts_the_winner_above_the_reference_only() -> None:
    penalty = dpop_penalty(row(0.3, -0.3, 0.3, -0.1, 0.3), row(0.2, 0.2, -0.2, 0.2, 0.2), row(1, 0.5, -1, -0.5, 0))
    assert penalty.tolist() == [[0.3, 0.0, 0.0, 0.2, 0.0]]


def test_dpop_enters_the_margin() -> None:
    # winner 0.1 worse, loser 0.4 worse: z = 5 (0.3 - 2 x 0.1)
    policy = Errors(row(0.1), row(0.4))
    assert value(policy, labels(1), LossSpec(beta=10, dpop_lambda=2)) == pytest.approx(softplus(-0.5), rel=1e-14)
    # winner better: no penalty
    assert value(Errors(row(-0.1), row(0.4)), labels(1), LossSpec(beta=10, dpop_lambda=2)) == pytest.approx(
        softplus(-2.5), rel=1e-14
    )
    # in Eq. 7 it is weighed like the margin itself: two frames, labels +1 and -0.5
    policy = Errors(row(0.1, 0.4), row(0.4, 0.2))
    z = 5 * 2 / 2 * ((0.3 - 2 * 0.1) + 0.5 * (0.2 - 2 * 0.2))
    spec = LossSpec("dense_sum", beta=10, dpop_lambda=2, num_segments=2)
    assert value(policy, labels(1, -0.5), spec) == pytest.approx(softplus(-z), rel=1e-14)
    # for a clip the winner's mean counts: it is better in one frame and worse in the other
    policy = Errors(row(0.3, -0.1), row(0.4, 0.2))
    spec = LossSpec("vanilla", beta=10, dpop_lambda=2)
    assert value(policy, labels(0, 0, clip=0.5), spec) == pytest.approx(softplus(-5 * (0.2 - 2 * 0.1)), rel=1e-14)


def test_dpop_is_off_at_equality_with_the_reference() -> None:
    grads = []
    for weight in (0.0, 50.0):
        a = row(0.2).requires_grad_(True)
        spec = LossSpec(beta=10, dpop_lambda=weight)
        preference_loss(Errors(a, row(0.2)), Errors(row(0.2), row(0.2)), labels(1), spec).loss.backward()
        grads.append(a.grad)
    assert grads[0] is not None and grads[1] is not None and torch.equal(grads[0], grads[1])


def test_sdpo_scale_by_hand() -> None:
    # |r_w|^2 = 1; products: half, equal, four times as large, opposite, none
    scale = sdpo_scale(row(1, 1, 1, 1, 1), row(0.5, 1, 4, -1, 0), 0.2)
    assert scale.tolist() == [[1.0, 0.8, 0.2, 1.0, 1.0]]
    assert sdpo_scale(row(0.0, 0.0), row(1e-30, 0.0), 0.0).tolist() == [[0.0, 1.0]]


def test_sdpo_of_a_clip_looks_at_the_whole_clip() -> None:
    # frame by frame the products are 4 and 0; their mean is 2, the winner's mean error 1
    grads = []
    for mu in (None, 0.0):
        b = row(1.0, 1.0).requires_grad_(True)
        policy = Errors(row(1.0, 1.0), b, row(4.0, 0.0))
        zero = torch.zeros(1, 2, dtype=torch.float64)
        spec = LossSpec("structural", beta=1, sdpo_mu=mu)
        preference_loss(policy, Errors(zero, zero), labels(0, 0, clip=1), spec).loss.backward()
        assert b.grad is not None
        grads.append(b.grad)
    assert grads[1].tolist()[0] == pytest.approx((grads[0] / 2).tolist()[0], rel=1e-14)


def test_anchors_by_hand() -> None:
    policy, said = Errors(row(1, 2, 3, 4), row(10, 20, 30, 40)), labels(1, -0.5, 0, 0, ties=(3,), clip=-0.25)
    sft = LossSpec(terms=(("sft", 1.0),))
    assert value(policy, said, sft) == pytest.approx((1 + 0.5 * 20) / 1.5)
    assert value(policy, said, replace(sft, confidence_weights=False)) == pytest.approx((1 + 20) / 2)
    assert value(policy, said, replace(sft, method="dense_sum")) == pytest.approx((1 + 0.5 * 20) / 1.5)
    assert value(policy, said, replace(sft, method="vanilla")) == pytest.approx(25)  # b won the clip, all frames count
    clip = LossSpec(terms=(("sft_clip", 2.0),))
    assert value(policy, said, clip, clip_errors=row(1, 2, 3, 6)) == pytest.approx(2 * 3)


def test_averaging_by_pair_gives_each_pair_one_voice() -> None:
    frames = torch.tensor([[1.0, 1.0, 1.0, 0.5], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    no = torch.zeros(3, 4, dtype=torch.bool)
    said = Labels(frames, no, frames[:, 0], no[:, 0])
    spec = LossSpec(averaging="pair")
    assert term_weights("sigmoid", said, spec).sum(dim=1).tolist() == pytest.approx([1, 1, 0])
    assert term_totals(said, spec) == (2.0,)
    assert term_totals(said, LossSpec()) == (4.5,)
    # first pair right by z = 2, second wrong by z = -1
    a = torch.tensor([[-0.2] * 4, [-0.1] * 4, [9.0] * 4], dtype=torch.float64)
    policy = Errors(a, torch.zeros_like(a))
    by_pair, by_frame = (value(policy, said, replace(spec, beta=20, averaging=how)) for how in ("pair", "batch"))
    assert by_pair == pytest.approx((softplus(-2) + softplus(1)) / 2, rel=1e-14)
    assert by_frame == pytest.approx((3.5 * softplus(-2) + softplus(1)) / 4.5, rel=1e-14)


def test_totals_of_each_term() -> None:
    said = labels(1, -0.5, 0, 0, ties=(3,), clip=0.25)
    terms = tuple((name, 1.0) for name in get_args(loss_module.LossType))
    names = get_args(loss_module.LossType)

    def totals(spec: LossSpec) -> dict[str, float]:
        return dict(zip(names, term_totals(said, spec), strict=True))

    dense = {"sigmoid": 1.5, "robust": 1.5, "ipo": 1.5, "tie_aware": 2.5, "sft": 1.5, "sft_clip": 4.0}
    assert totals(LossSpec("dense", terms)) == dense
    one = dict.fromkeys(("sigmoid", "robust", "ipo", "tie_aware"), 1.0)
    assert totals(LossSpec("dense_sum", terms)) == one | {"sft": 1.5, "sft_clip": 4.0}
    quarter = dict.fromkeys(("sigmoid", "robust", "ipo", "tie_aware"), 0.25)
    assert totals(LossSpec("vanilla", terms)) == quarter | {"sft": 1.0, "sft_clip": 4.0}
    bare = totals(LossSpec("dense", terms, confidence_weights=False))
    assert bare == {"sigmoid": 2, "robust": 2, "ipo": 2, "tie_aware": 3, "sft": 2, "sft_clip": 4}
    assert set(totals(LossSpec("dense", terms, averaging="pair")).values()) == {1.0}


def test_ties_teach_pairs_without_a_preference_in_eq_7() -> None:
    policy, spec = Errors(row(0.1, 0.2, 9.0), row(0, 0, 0)), LossSpec("dense_sum", (("tie_aware", 1.0),), 10.0)
    z = 5 / 3 * (0.1 + 0.2)
    expected = softplus(math.log(3) - z) + softplus(math.log(3) + z) - math.log(8)
    assert value(policy, labels(0, 0, 0, ties=(0, 1)), spec) == pytest.approx(expected, rel=1e-14)
    assert value(policy, labels(0, 0, 0), spec) == 0
    # with a preference in the pair, its ties say nothing
    assert value(policy, labels(0, 0, 1, ties=(0, 1)), spec) == value(policy, labels(0, 0, 1), spec)


def test_the_clip_label_is_silent_under_frame_methods_and_the_other_way_round() -> None:
    policy = Errors(row(0.1, 0.2), row(0.3, 0.1))
    for method in ("dense", "dense_sum"):
        results = {value(policy, labels(1, -1, clip=clip), LossSpec(method, beta=1)) for clip in (-1.0, 0.0, 1.0)}
        assert len(results) == 1
    results = {value(policy, labels(*f, clip=1), LossSpec("vanilla", beta=1)) for f in ((1, 1), (0, 0), (-1, 1))}
    assert len(results) == 1


def test_metrics_are_those_of_the_plain_margin() -> None:
    policy = Errors(row(0.1, 0.4), row(0.4, 0.2), row(0.1, 0.1))
    reference = Errors(row(0.2, 0.2), row(0.2, 0.2))
    said, bare = labels(1, -0.5, clip=1), {"beta": 10.0}
    plain = preference_metrics(policy.a, policy.b, reference.a, reference.b, said.frames, **bare)
    for spec in (
        LossSpec(beta=10, dpop_lambda=5, sdpo_mu=0.5),
        LossSpec("dense_sum", (("ipo", 1.0), ("sft", 3.0)), 10.0, num_segments=2),
    ):
        found = preference_loss(policy, reference, said, spec).metrics
        assert {n: float(v) for n, v in found.items()} == {n: float(v) for n, v in plain.items()}
    assert float(plain["rewards/margins"]) == pytest.approx((5 * 0.3 + 5 * 0.2) / 2)
    clip = preference_loss(policy, reference, said, LossSpec("vanilla", beta=10)).metrics
    assert float(clip["rewards/margins"]) == pytest.approx(5 * 0.05)
    assert float(clip["non_tie_frames"]) == 1


def test_metric_names_stay() -> None:
    names = {
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "policy_winner_error",
        "policy_loser_error", "reference_winner_error", "reference_loser_error", "winner_change", "loser_change",
        "loser_dominant_ratio", "z_median_abs", "z_saturated_share", "non_tie_frames",
    }  # fmt: skip
    ones = row(1)
    output = preference_loss(Errors(ones, ones), Errors(ones, ones), labels(1), LossSpec())
    assert set(output.metrics) == names
    assert not any(metric.requires_grad for metric in output.metrics.values())


def test_metrics_by_hand() -> None:
    # winner a, b, a; winner changes +0.1, -0.3, +0.1; loser changes +0.4, +0.9, -0.1
    policy = Errors(row(1.1, 1.9, 1.1, 5), row(1.4, 0.7, 0.9, 7))
    reference = Errors(row(1, 1, 1, 1), row(1, 1, 1, 1))
    found = preference_metrics(policy.a, policy.b, reference.a, reference.b, labels(1, -0.5, 0.25, 0).frames, beta=10.0)
    expected = {
        "rewards/chosen": 5 * 0.1 / 3,
        "rewards/rejected": -5 * 1.2 / 3,
        "rewards/margins": 5 * 1.3 / 3,
        "rewards/accuracies": 2 / 3,
        "policy_winner_error": (1.1 + 0.7 + 1.1) / 3,
        "policy_loser_error": (1.4 + 1.9 + 0.9) / 3,
        "reference_winner_error": 1.0,
        "reference_loser_error": 1.0,
        "winner_change": -0.1 / 3,
        "loser_change": 1.2 / 3,
        "loser_dominant_ratio": 1 / 3,
        "z_median_abs": 1.5,
        "z_saturated_share": 1 / 3,
        "non_tie_frames": 3.0,
    }
    assert {n: float(v) for n, v in found.items()} == pytest.approx(expected, abs=1e-7)


def test_at_equality_nothing_is_won() -> None:
    ones = row(1, 1)
    found = preference_metrics(ones, ones, ones, ones, row(1, -1), beta=500.0)
    assert all(float(found[n]) == 0 for n in ("rewards/accuracies", "loser_dominant_ratio", "z_median_abs"))


def test_sft_watches_the_error_it_lowers() -> None:
    errors = row(1, 2, 6).requires_grad_(True)
    output = sft_loss(errors, total_weight=18)
    assert float(output.loss.detach()) == pytest.approx(0.5)
    assert float(output.metrics["policy_winner_error"]) == pytest.approx(3)
    assert not output.metrics["policy_winner_error"].requires_grad


def test_loser_dominant_is_won_although_the_winner_got_worse() -> None:
    # margin and winner: three won and worse, one won and better, two lost and worse; then neither won nor moved
    winner = row(0.1, 0.1, 0.1, -0.1, 0.1, 0.1, 0.1, 0.0)
    loser = row(0.2, 0.2, 0.3, 0.2, -0.2, 0.0, 0.1, 0.2)
    zero = torch.zeros_like(winner)
    found = preference_metrics(winner, loser, zero, zero, torch.ones_like(winner), beta=2.0)
    assert float(found["loser_dominant_ratio"]) == pytest.approx(3 / 8)


def test_saturated_is_beyond_four_either_way() -> None:
    b = row(3.9, 4.1, -4.0, -4.1)
    zero = torch.zeros_like(b)
    found = preference_metrics(zero, b, zero, zero, torch.ones_like(b), beta=2.0)
    assert float(found["z_saturated_share"]) == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"terms": ()},
        {"terms": (("sigmoid", 1.0), ("sigmoid", 2.0))},
        {"beta": 0.0},
        {"beta": math.nan},
        {"tie_alpha": 0.0},
        {"num_segments": 0},
        {"dpop_lambda": -0.1},
        {"label_smoothing": 0.5},
        {"label_smoothing": -0.1},
        {"sdpo_mu": 1.0},
        {"sdpo_mu": -0.1},
    ],
)
def test_meaningless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        LossSpec(**wrong)


def test_missing_inputs_are_named() -> None:
    errors, said = Errors(row(1), row(1)), labels(1)
    with pytest.raises(ValueError, match="cross"):
        preference_loss(errors, errors, said, LossSpec(sdpo_mu=0.5))
    with pytest.raises(ValueError, match="clip_errors"):
        preference_loss(errors, errors, said, LossSpec(terms=(("sft_clip", 1.0),)))
    with pytest.raises(ValueError, match="zip"):
        preference_loss(errors, errors, said, LossSpec(), totals=(1.0, 1.0))


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        (labels(1.5), "-1, 1"),
        (labels(math.nan), "-1, 1"),
        (labels(1, clip=-1.5), "-1, 1"),
        (labels(0.5, 1.5), "-1, 1"),
        (labels(1, ties=(0,)), "tie"),
        (labels(1, 0, ties=(0, 1)), "tie"),
        (labels(0, clip=0.5, clip_tie=True), "tie"),
    ],
)
def test_impossible_labels_are_refused(broken: Labels, match: str) -> None:
    ones = torch.ones_like(broken.frames)
    with pytest.raises(ValueError, match=match):
        preference_loss(Errors(ones, ones), Errors(ones, ones), broken, LossSpec())


def test_a_non_number_in_a_decided_frame_is_not_hidden() -> None:
    for field in ("a", "b"):
        policy = replace(Errors(row(1, 1), row(1, 1)), **{field: row(1, math.nan)})
        assert math.isnan(value(policy, labels(1, 1), LossSpec()))


def test_the_reference_and_the_scale_carry_no_gradient() -> None:
    reference_a, cross = row(0.3).requires_grad_(True), row(0.9).requires_grad_(True)
    a = row(0.2).requires_grad_(True)
    b = row(0.4).requires_grad_(True)
    spec = LossSpec(beta=3, sdpo_mu=0.1)
    preference_loss(Errors(a, b, cross), Errors(reference_a.detach(), row(0.3)), labels(1), spec).loss.backward()
    assert cross.grad is None
    # z = -1.5 (d_a - d_b), so the winner's gradient is 1.5 sigma(-z) whatever the scale
    z = -1.5 * ((0.2 - 0.3) - (0.4 - 0.3))
    assert a.grad is not None and float(a.grad) == pytest.approx(1.5 / (1 + math.exp(z)), rel=1e-12)
    assert b.grad is not None and float(b.grad) == pytest.approx(-float(a.grad) * 0.9 * 0.2 / 0.9, rel=1e-12)


def test_the_page_names_every_term_and_modifier_and_its_example_runs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    modifiers = ("label_smoothing", "confidence_weights", "tie_alpha", "dpop_lambda", "sdpo_mu", "averaging")
    for name in (*get_args(config.LossType), *get_args(config.Method), *modifiers):
        assert f"`{name}`" in text, name
    [example] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
