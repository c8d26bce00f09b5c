"""Preference losses on per-latent-frame errors: pure functions, tensors in, loss and metrics out.

Every loss works on four errors of shape [B, F]: policy and reference, sides a and b, each the mean squared error of the
denoiser's prediction over channels, height and width of one latent frame. *Mean* errors are what beta = 500 is made for
(arXiv 2506.03517, appendix E); Eqs. 4, 5 and 7 print summed norms instead.

Notation: d_a = policy_a - reference_a, d_b alike; l is the label (+ prefers a, - prefers b, 0 is no preference).

Shape letters: B pairs, F latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Errors = Float[Tensor, "b f"]
SATURATED_Z = 4.0  # beyond it the logistic passes under 2 % of its gradient


@dataclass(frozen=True)
class LossOutput:
    """A loss to differentiate and detached metrics, each a scalar tensor."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def dense_dpo_loss(
    policy_a: Errors,
    policy_b: Errors,
    reference_a: Errors,
    reference_b: Errors,
    labels: Float[Tensor, "b f"],
    *,
    beta: float,
    total_weight: Float[Tensor, ""] | float | None = None,
) -> LossOutput:
    """DenseDPO: one logistic a latent frame (appendix E of arXiv 2506.03517).

    z = -0.5 beta sign(l) (d_a - d_b);  loss = sum |l| softplus(-z) / sum |l|, over frames with l != 0.

    Args:
        policy_a: [B, F] errors of the policy on side a; gradients flow through the policy's errors only.
        policy_b: [B, F] errors of the policy on side b.
        reference_a: [B, F] errors of the reference on side a, at the same t and noise.
        reference_b: [B, F] errors of the reference on side b.
        labels: [B, F] in [-1, 1]; the sign is the preference, the magnitude the weight, 0 a tie or no label.
        beta: strength of the leash to the reference, for mean squared errors.
        total_weight: sum of |l| over the *global* batch (all ranks and accumulation steps); this batch's if None. With
            it, the losses of the parts add up to the loss of the whole.

    Returns:
        The loss and the metrics of ``preference_metrics``. Without any preference the loss and its gradient are 0.

    Raises:
        ValueError: if shapes differ, or a label lies outside [-1, 1].
    """
    _check(policy_a, policy_b, reference_a, reference_b, labels)
    margin = (policy_a - reference_a) - (policy_b - reference_b)
    z = torch.where(labels != 0, -0.5 * beta * labels.sign() * margin, 0.0)
    loss = _weighted_mean(softplus(-z), labels.abs(), total_weight)
    return LossOutput(loss, preference_metrics(policy_a, policy_b, reference_a, reference_b, labels, beta=beta))


def dense_sum_dpo_loss(
    policy_a: Errors,
    policy_b: Errors,
    reference_a: Errors,
    reference_b: Errors,
    labels: Float[Tensor, "b f"],
    *,
    beta: float,
    num_segments: int,
    total_weight: Float[Tensor, ""] | float | None = None,
) -> LossOutput:
    """Eq. 7 of arXiv 2506.03517 as printed: one logistic a pair over the sum of its segments.

    z = -0.5 beta (S / F) sum_k l_k (d_a - d_b)_k;  loss = mean of softplus(-z) over pairs with any preference. The
    factor S / F (segments over latent frames) turns the sum over frames into a sum over segments of their mean errors.

    Args:
        policy_a: [B, F], as in ``dense_dpo_loss``; so are the next four.
        policy_b: [B, F].
        reference_a: [B, F].
        reference_b: [B, F].
        labels: [B, F] in [-1, 1].
        beta: as in ``dense_dpo_loss``.
        num_segments: S, segments in a clip.
        total_weight: number of pairs with any preference in the global batch; this batch's if None.

    Raises:
        ValueError: if shapes differ, or a label lies outside [-1, 1].
    """
    _check(policy_a, policy_b, reference_a, reference_b, labels)
    margin = torch.where(labels != 0, (policy_a - reference_a) - (policy_b - reference_b), 0.0)
    z = -0.5 * beta * num_segments / labels.shape[1] * (labels * margin).sum(dim=1)
    decided = (labels != 0).any(dim=1)
    loss = _weighted_mean(softplus(-torch.where(decided, z, 0.0)), decided.to(z.dtype), total_weight)
    return LossOutput(loss, preference_metrics(policy_a, policy_b, reference_a, reference_b, labels, beta=beta))


def clip_dpo_loss(
    policy_a: Errors,
    policy_b: Errors,
    reference_a: Errors,
    reference_b: Errors,
    labels: Float[Tensor, " b"],
    *,
    beta: float,
    total_weight: Float[Tensor, ""] | float | None = None,
) -> LossOutput:
    """Vanilla and structural DPO: one label and one logistic a clip (Eq. 5, Flow-DPO with a constant beta).

    z = -0.5 beta sign(l) mean_F(d_a - d_b);  loss = sum |l| softplus(-z) / sum |l|, over pairs with l != 0. Vanilla and
    structural differ in the pairs (independent or guided), not in the loss.

    Args:
        policy_a: [B, F], as in ``dense_dpo_loss``; so are the next three.
        policy_b: [B, F].
        reference_a: [B, F].
        reference_b: [B, F].
        labels: [B] in [-1, 1], one a clip.
        beta: as in ``dense_dpo_loss``.
        total_weight: sum of |l| over the global batch; this batch's if None.

    Raises:
        ValueError: if shapes differ, or a label lies outside [-1, 1].
    """
    if labels.ndim != 1:
        raise ValueError(f"clip labels must have shape [B], got {tuple(labels.shape)}")
    four = (e.mean(dim=1, keepdim=True) for e in (policy_a, policy_b, reference_a, reference_b))
    mean_policy_a, mean_policy_b, mean_reference_a, mean_reference_b = four
    return dense_dpo_loss(
        mean_policy_a,
        mean_policy_b,
        mean_reference_a,
        mean_reference_b,
        labels[:, None],
        beta=beta,
        total_weight=total_weight,
    )


def sft_loss(policy: Errors, *, total_weight: Float[Tensor, ""] | float | None = None) -> LossOutput:
    """Supervised fine-tuning: the mean flow-matching error on the real clip.

    Args:
        policy: [B, F] errors of the policy on the real clip.
        total_weight: number of latent frames in the global batch; this batch's if None.
    """
    loss = _weighted_mean(policy, torch.ones_like(policy), total_weight)
    return LossOutput(loss, {"policy_winner_error": policy.detach().mean()})


@torch.no_grad()
def preference_metrics(
    policy_a: Errors,
    policy_b: Errors,
    reference_a: Errors,
    reference_b: Errors,
    labels: Float[Tensor, "b f"],
    *,
    beta: float,
) -> dict[str, Float[Tensor, ""]]:
    """Return what a preference run must be watched by; winner and loser are decided frame by frame.

    Names follow TRL where it has them (``rewards/...``; a reward is -0.5 beta (policy error - reference error)). Beside
    them: the four errors; how winner's and loser's error changed against the reference; ``loser_dominant_ratio``, the
    share of frames won (z > 0) although the winner's own error *rose*: the field's usual way to fail; median |z| and
    the share of |z| > 4. Without any preference only ``non_tie_frames`` is returned.
    """
    decided = labels != 0
    count = decided.sum()
    if not bool(count):
        return {"non_tie_frames": count.float()}
    a_wins = labels[decided] > 0

    def sides(of_a: Tensor, of_b: Tensor) -> tuple[Tensor, Tensor]:
        first, second = of_a[decided], of_b[decided]
        return torch.where(a_wins, first, second), torch.where(a_wins, second, first)

    policy_winner, policy_loser = sides(policy_a, policy_b)
    reference_winner, reference_loser = sides(reference_a, reference_b)
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


def _weighted_mean(values: Tensor, weights: Tensor, total_weight: Tensor | float | None) -> Tensor:
    """Return sum(w v) / total, and 0 with zero gradient where there is no weight."""
    total = weights.sum() if total_weight is None else torch.as_tensor(total_weight, device=values.device)
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)


def _check(policy_a: Tensor, policy_b: Tensor, reference_a: Tensor, reference_b: Tensor, labels: Tensor) -> None:
    shapes = [tuple(t.shape) for t in (policy_a, policy_b, reference_a, reference_b, labels)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"errors and labels must share one shape [B, F], got {shapes}")
    if labels.numel() and float(labels.detach().abs().max()) > 1 + 1e-6:
        raise ValueError("labels must lie in [-1, 1]")
