"""Preference losses on per-latent-frame errors: pure functions, tensors in, loss and metrics out.

Everything works on four errors of shape [B, F]: policy and reference, sides a and b, each the mean squared error of the
denoiser's prediction over channels, height and width of one latent frame. *Mean* errors are what beta = 500 is made for
(arXiv 2506.03517, appendix E); Eqs. 4, 5 and 7 print summed norms. docs/reference/losses.md says when to use what.

Notation: d_a = policy_a - reference_a, d_b alike; l is the label (+ prefers a, - prefers b, 0 neither); w and l as
indices are winner and loser by that label; z is the margin, large where the policy agrees with the label.

Shape letters: B pairs, F latent frames, U units with a logistic of their own (F frames, or 1 a pair).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

# the same names as in the settings, which the pure maths does not import
Method = Literal["dense", "dense_sum", "vanilla", "structural"]
LossType = Literal["sigmoid", "robust", "ipo", "tie_aware", "sft", "sft_clip"]

Rows = Float[Tensor, "b f"]
Units = Float[Tensor, "b u"]
Total = Float[Tensor, ""] | float | None
ONE_LABEL_A_CLIP = ("vanilla", "structural")
SATURATED_Z = 4.0  # beyond it the logistic passes under 2 % of its gradient


@dataclass(frozen=True)
class Errors:
    """Errors of one network on both sides, [B, F], mean squares of its residuals over C, H, W."""

    a: Tensor
    b: Tensor
    cross: Tensor | None = None  # mean of residual_a x residual_b, of the policy, for sdpo_mu only


@dataclass(frozen=True)
class Labels:
    """What a batch's labels say: + prefers a, the magnitude is the strength, 0 is no preference."""

    frames: Tensor  # [B, F] in [-1, 1]
    frame_ties: Tensor  # [B, F] bool: that 0 was labelled a tie, not left unlabelled
    clip: Tensor  # [B] in [-1, 1]
    clip_ties: Tensor  # [B] bool


@dataclass(frozen=True)
class LossSpec:
    """Everything the loss depends on besides tensors."""

    method: Method = "dense"  # grain of the labels: dense and dense_sum by latent frame, the others by clip
    terms: tuple[tuple[LossType, float], ...] = (("sigmoid", 1.0),)  # what is added up, with weights
    beta: float = 500.0  # strength of the leash to the reference, for mean squared errors
    label_smoothing: float = 0.0  # share of labels taken to be wrong, in [0, 0.5), for sigmoid and robust
    confidence_weights: bool = True  # weigh by the labels' magnitudes; off, their signs alone count
    tie_alpha: float = math.log(3)  # Rao-Kupper's log theta for tie_aware, in units of z
    dpop_lambda: float = 0.0  # weight of the winner's error above the reference inside z; 0 is off
    sdpo_mu: float | None = None  # safety margin of the loser's gradient scale, in [0, 1); None is off
    averaging: Literal["batch", "pair"] = "batch"  # over all weights, or within each pair and then over pairs
    num_segments: int = 1  # S, segments in a clip, for dense_sum

    def __post_init__(self) -> None:
        """Refuse values for which a formula has no meaning."""
        names = {name for name, _ in self.terms}
        if not names or len(names) < len(self.terms) or not names <= {*get_args(LossType)}:
            raise ValueError(f"terms must be of {', '.join(get_args(LossType))}, each at most once, got {self.terms}")
        if not (self.beta > 0 and self.tie_alpha > 0 and self.dpop_lambda >= 0 and self.num_segments >= 1):
            raise ValueError("beta, tie_alpha and num_segments must be above 0, dpop_lambda not below 0")
        if not (0 <= self.label_smoothing < 0.5 and 0 <= (self.sdpo_mu or 0) < 1):
            raise ValueError("label_smoothing must lie in [0, 0.5), sdpo_mu in [0, 1)")


@dataclass(frozen=True)
class LossOutput:
    """A loss to differentiate and detached metrics, each a scalar tensor."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def sigmoid_term(z: Units, label_smoothing: float = 0.0) -> Units:
    """Logistic loss, conservative under label noise e: (1 - e) softplus(-z) + e softplus(z).

    At e = 0 it is DPO's (arXiv 2305.18290, Eq. 7); at e > 0 cDPO's (Mitchell 2023), least at z = log((1 - e) / e).
    """
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


def robust_term(z: Units, label_smoothing: float) -> Units:
    """Unbiased logistic loss, rDPO (arXiv 2403.00409): ((1 - e) softplus(-z) - e softplus(z)) / (1 - 2 e).

    If a share e of the labels is flipped at random, its expectation is the plain logistic loss on the true labels. It
    falls without bound as z grows, so one term can be negative.
    """
    return (label_smoothing * logsigmoid(-z) - (1 - label_smoothing) * logsigmoid(z)) / (1 - 2 * label_smoothing)


def ipo_term(z: Units) -> Units:
    """IPO (arXiv 2310.12036, Eq. 17) in units of z: (z - 1/2)^2.

    With z = beta h it is beta^2 (h - 1 / (2 beta))^2: beta stands for the paper's tau, and the factor beta^2 keeps the
    gradient at z = 0 near the logistic's (-1 against -1/2) whatever beta is. The margin is drawn to 1/2, not beyond.
    """
    return (z - 0.5).square()


def tie_aware_term(z: Units, ties: Bool[Tensor, "b u"], alpha: float) -> Units:
    """Rao-Kupper with ties (arXiv 2409.17431): -log of the label's probability, theta = exp(alpha).

    Win: sigma(z - alpha). Tie: (theta^2 - 1) sigma(z - alpha) sigma(-z - alpha), the same for z and -z and greatest at
    z = 0, so that labelled ties hold the policy to the reference. Win, loss and tie add up to 1. At theta = 3 and z = 0
    a tie has 1/2. As alpha goes to 0 the wins' loss becomes the plain logistic.
    """
    log_odds = 2 * alpha + math.log1p(-math.exp(-2 * alpha))  # log(theta^2 - 1)
    return -logsigmoid(z - alpha) - torch.where(ties, logsigmoid(-z - alpha) + log_odds, 0.0)


def dpop_penalty(change_a: Rows, change_b: Rows, strength: Rows) -> Rows:
    """DPOP (Smaug, arXiv 2402.13228): max(0, d_w), the winner's error above the reference; 0 without a winner.

    It enters z as -0.5 beta lambda max(0, d_w). At equality with the reference it has no gradient.
    """
    return torch.where(strength > 0, change_a, torch.where(strength < 0, change_b, 0.0)).relu()


def sdpo_scale(winner: Rows, cross: Rows, mu: float) -> Rows:
    """Diffusion-SDPO (arXiv 2511.03317): what the loser's gradient may be multiplied by, in [0, 1].

    (1 - mu) |r_w|^2 / <r_w, r_l>, at most 1, where the residuals' product is positive; elsewhere 1. A step then changes
    the winner's error by a multiple of -(|g_w|^2 - scale <g_w, g_l>) <= 0, to first order. The gradients g = -2 r / N
    are those by the predictions, the paper's approximation; their ratio needs no backward pass.
    """
    return torch.where(cross > 0, (1 - mu) * winner.detach() / cross.detach(), 1.0).clamp(max=1.0)


def protect_winner(policy: Errors, strength: Rows, mu: float) -> Errors:
    """Scale the gradient of each decided row's loser by ``sdpo_scale``; no value changes."""
    assert policy.cross is not None
    scale = sdpo_scale(torch.where(strength > 0, policy.a, policy.b), policy.cross, mu)
    of_a, of_b = torch.where(strength < 0, scale, 1.0), torch.where(strength > 0, scale, 1.0)
    fixed_a, fixed_b = policy.a.detach(), policy.b.detach()
    return Errors(fixed_a + of_a * (policy.a - fixed_a), fixed_b + of_b * (policy.b - fixed_b))


def margins(policy: Errors, reference: Errors, strength: Rows, ties: Bool[Tensor, "b f"], spec: LossSpec) -> Units:
    """Return z: [B, F] for ``dense``, [B, 1] else; 0 where nothing was said.

    dense (arXiv 2506.03517, appendix E):  z_k = -0.5 beta sign(l_k) (d_a - d_b)_k
    dense_sum (its Eq. 7):                 z = -0.5 beta (S / F) sum_k l_k (d_a - d_b)_k
    vanilla, structural (its Eq. 5):       z = -0.5 beta sign(l) mean_F(d_a - d_b), labels being [B, 1]

    S / F turns the sum over frames into one over segments of their mean errors. Vanilla and structural differ in their
    pairs only. A tie counts as l = 1, its loss being even in z; in ``dense_sum`` only where the pair has no preference.
    """
    if spec.method in ONE_LABEL_A_CLIP:
        policy, reference = _clip_mean(policy), _clip_mean(reference)
    if spec.sdpo_mu is not None:
        policy = protect_winner(policy, strength, spec.sdpo_mu)
    change_a, change_b = policy.a - reference.a, policy.b - reference.b
    pull = strength if spec.method == "dense_sum" else strength.sign()
    pull = torch.where(ties & ~_decided(strength, spec), 1.0, pull)
    lost = pull * (change_a - change_b) + spec.dpop_lambda * pull.abs() * dpop_penalty(change_a, change_b, strength)
    z = -0.5 * spec.beta * torch.where(pull != 0, lost, 0.0)  # where nothing was said, not even a non-number counts
    return z if spec.method != "dense_sum" else spec.num_segments / z.shape[1] * z.sum(dim=1, keepdim=True)


def term_weights(name: LossType, labels: Labels, spec: LossSpec) -> Float[Tensor, "b u"]:
    """Return the weight of each value of a term: [B, U] for terms on z, [B, F] for anchors.

    Decided units weigh |l| (in ``dense_sum`` 1, |l| being in z), labelled ties 1 in ``tie_aware`` and 0 elsewhere, all
    frames 1 in ``sft_clip``. Averaging by pair makes each pair's sum 1.
    """
    strength, ties = _said(labels, spec)
    weights = torch.ones_like(labels.frames) if name == "sft_clip" else strength.abs()
    if name == "sft":
        weights = weights.expand_as(labels.frames)
    elif name != "sft_clip":
        decided = _decided(strength, spec)
        if spec.method == "dense_sum":
            weights, ties = decided.to(weights.dtype), ties.any(dim=1, keepdim=True)
        if name == "tie_aware":
            weights = torch.where(ties & ~decided, 1.0, weights)
    if spec.averaging == "pair":
        sums = weights.sum(dim=1, keepdim=True)
        weights = weights / torch.where(sums > 0, sums, 1.0)
    return weights


def term_totals(labels: Labels, spec: LossSpec) -> tuple[float, ...]:
    """Return what each term is divided by: its weights' sum, or by pair the number of pairs; parts' totals add up."""
    weights = (term_weights(name, labels, spec) for name, _ in spec.terms)
    return tuple(float((w > 0).any(dim=1).sum() if spec.averaging == "pair" else w.sum()) for w in weights)


def preference_loss(
    policy: Errors,
    reference: Errors,
    labels: Labels,
    spec: LossSpec,
    *,
    totals: Sequence[float] | None = None,
    clip_errors: Rows | None = None,
) -> LossOutput:
    """Return sum over terms of weight x sum(w v) / total: v the term's values, w their weights.

    Anchors: ``sft`` is the mean policy error of the winning side, ``sft_clip`` that on the real clip, ``clip_errors``.
    ``totals`` are the ``term_totals`` of the *global* batch (all ranks and parts), with which its parts' losses add up
    to its own; this batch's if None. Where nothing was said, loss and gradient are 0.

    Raises:
        ValueError: if shapes differ, a label lies outside [-1, 1] or is also a tie, or an input is missing.
    """
    _check(policy, reference, labels, spec, clip_errors)
    policy, reference = (replace(e, a=_wide(e.a), b=_wide(e.b)) for e in (policy, reference))
    totals = term_totals(labels, spec) if totals is None else totals
    strength, ties = _said(labels, spec)
    z = margins(policy, reference, strength, ties, spec)
    loss = torch.zeros((), dtype=z.dtype, device=z.device)
    for (name, factor), total in zip(spec.terms, totals, strict=True):
        weights = term_weights(name, labels, spec)
        if name == "sft":
            values = torch.where(strength > 0, policy.a, policy.b)
        elif name == "sft_clip":
            values = torch.zeros_like(policy.a) if clip_errors is None else _wide(clip_errors)
        else:
            values = _on_margin(name, torch.where(weights > 0, z, 0.0), ~_decided(strength, spec), spec)
        loss = loss + factor * (weights * torch.where(weights > 0, values, 0.0)).sum() / (total or 1.0)
    if spec.method in ONE_LABEL_A_CLIP:
        policy, reference = _clip_mean(policy), _clip_mean(reference)
    four = (policy.a, policy.b, reference.a, reference.b)
    return LossOutput(loss, preference_metrics(*four, strength, beta=spec.beta))


def dense_dpo_loss(
    policy_a: Rows,
    policy_b: Rows,
    reference_a: Rows,
    reference_b: Rows,
    labels: Rows,
    *,
    beta: float,
    total_weight: Total = None,
) -> LossOutput:
    """DenseDPO (arXiv 2506.03517, appendix E): z = -0.5 beta sign(l) (d_a - d_b), one logistic a latent frame.

    loss = sum |l| softplus(-z) / sum |l|; ``total_weight`` is sum |l| over the global batch, this batch's if None.
    """
    clip = torch.zeros_like(labels[:, 0])
    said = Labels(labels, torch.zeros_like(labels, dtype=torch.bool), clip, torch.zeros_like(clip, dtype=torch.bool))
    totals = None if total_weight is None else (float(total_weight),)
    policy, reference = Errors(policy_a, policy_b), Errors(reference_a, reference_b)
    return preference_loss(policy, reference, said, LossSpec("dense", beta=beta), totals=totals)


def sft_loss(policy: Rows, *, total_weight: Total = None) -> LossOutput:
    """Supervised fine-tuning: mean error on the real clip; ``total_weight`` counts the global batch's latent frames."""
    total = policy.numel() if total_weight is None else float(total_weight)
    return LossOutput(policy.sum() / total, {"policy_winner_error": policy.detach().mean()})


@torch.no_grad()
def preference_metrics(
    policy_a: Rows, policy_b: Rows, reference_a: Rows, reference_b: Rows, labels: Rows, *, beta: float
) -> dict[str, Float[Tensor, ""]]:
    """Return what a preference run must be watched by; winner and loser are decided frame by frame.

    Names follow TRL where it has them (``rewards/...``; a reward is -0.5 beta (policy error - reference error)). Beside
    them: the four errors; how winner's and loser's error changed against the reference; ``loser_dominant_ratio``, the
    share of frames won (z > 0) although the winner's own error *rose*: the field's usual way to fail; median |z| and
    the share of |z| > 4. z is the plain margin. Without any preference only ``non_tie_frames`` is returned.
    """
    decided = labels != 0
    count = decided.sum()
    if not bool(count):
        return {"non_tie_frames": count.float()}
    a_wins, b_wins = labels[decided] > 0, labels[decided] < 0
    sides = ((policy_a, policy_b), (reference_a, reference_b))
    policy_winner, reference_winner = (torch.where(a_wins, a[decided], b[decided]) for a, b in sides)
    policy_loser, reference_loser = (torch.where(b_wins, a[decided], b[decided]) for a, b in sides)
    winner_change, loser_change = policy_winner - reference_winner, policy_loser - reference_loser
    chosen, rejected = -0.5 * beta * winner_change, -0.5 * beta * loser_change
    z = chosen - rejected
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": z.mean(),
        "rewards/accuracies": (z > 0).float().mean(),
        "policy_winner_error": policy_winner.mean(),
        "policy_loser_error": policy_loser.mean(),
        "reference_winner_error": reference_winner.mean(),
        "reference_loser_error": reference_loser.mean(),
        "winner_change": winner_change.mean(),
        "loser_change": loser_change.mean(),
        "loser_dominant_ratio": ((z > 0) & (winner_change > 0)).float().mean(),
        "z_median_abs": z.abs().median(),
        "z_saturated_share": (z.abs() > SATURATED_Z).float().mean(),
        "non_tie_frames": count.float(),
    }


def _said(labels: Labels, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Return signed strengths and labelled ties at the grain of the labels: [B, F], or [B, 1] for one label a clip."""
    strength, ties = labels.frames, labels.frame_ties
    if spec.method in ONE_LABEL_A_CLIP:
        strength, ties = labels.clip[:, None], labels.clip_ties[:, None]
    return _wide(strength) if spec.confidence_weights else _wide(strength).sign(), ties


def _decided(strength: Tensor, spec: LossSpec) -> Tensor:
    """Return which units have a preference, [B, U]."""
    decided = strength != 0
    return decided.any(dim=1, keepdim=True) if spec.method == "dense_sum" else decided


def _on_margin(name: LossType, z: Tensor, ties: Tensor, spec: LossSpec) -> Tensor:
    if name == "tie_aware":
        return tie_aware_term(z, ties, spec.tie_alpha)
    if name == "ipo":
        return ipo_term(z)
    return (robust_term if name == "robust" else sigmoid_term)(z, spec.label_smoothing)


def _clip_mean(errors: Errors) -> Errors:
    """Return the errors of whole clips, [B, 1]."""
    cross = None if errors.cross is None else errors.cross.mean(dim=1, keepdim=True)
    return Errors(errors.a.mean(dim=1, keepdim=True), errors.b.mean(dim=1, keepdim=True), cross)


def _wide(values: Tensor) -> Tensor:
    """Return ``values`` in float32 at least: differences of errors, times beta, are lost in fewer bits."""
    return values if values.dtype == torch.float64 else values.float()


def _check(policy: Errors, reference: Errors, labels: Labels, spec: LossSpec, clip_errors: Tensor | None) -> None:
    if spec.sdpo_mu is not None and policy.cross is None:
        raise ValueError("sdpo_mu needs the policy's cross errors")
    if clip_errors is None and any(name == "sft_clip" for name, _ in spec.terms):
        raise ValueError("sft_clip needs clip_errors")
    rows = (policy.a, policy.b, policy.cross, reference.a, reference.b, clip_errors, labels.frames, labels.frame_ties)
    shapes = [tuple(t.shape) for t in rows if t is not None]
    clips = [tuple(t.shape) for t in (labels.clip, labels.clip_ties)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or any(shape != shapes[0][:1] for shape in clips):
        raise ValueError(f"errors and labels must share one shape [B, F], clip labels [B]; got {shapes}, {clips}")
    for values, ties in ((labels.frames, labels.frame_ties), (labels.clip, labels.clip_ties)):
        if not bool((values.abs() <= 1 + 1e-6).all()):
            raise ValueError("labels must lie in [-1, 1]")
        if bool((ties & (values != 0)).any()):
            raise ValueError("a label other than 0 cannot be a tie")
