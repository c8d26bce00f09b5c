"""Checks of the maths on the run's own model and data, before the first step.

The field's mistakes are silent: a reference with the adapter on, noise that the sides do not share, swapped labels,
latents in the wrong scale all train without complaint. Each check looks at what really happens (what the denoiser
receives, how its prediction is pulled), not at what the settings say. Weights, gradients, mode and global random
generators are left exactly as they were.

Shape letters: B pairs, C channels, F latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from densedpo.config import TrainSettings
from densedpo.errors import TrainingError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.text import TextCondition
from densedpo.training import objective
from densedpo.training.data import PairItem, PairLatents, Visit
from densedpo.training.draws import Draw
from densedpo.training.loss import Errors
from densedpo.training.objective import Part, Reference
from densedpo.training.reference import MAX_LOGIT_NOISE, CachedReference

MAX_PAIRS = 2  # that go through the model with a live reference
# Over a corpus normalised latents have a deviation of 1. Few clips may lie well below (a still, dark one), but not far
# above. Multiplied by the Wan 2.1 VAE's deviations instead of divided, 1 becomes 1.3 to 10.7, and 0.28 still passes 3.
LATENT_DEVIATION = (0.01, 3.0)
COMPILED_LOGIT_NOISE = 0.1  # compiled with and without a gradient, a denoiser rounds differently
_PERTURBATION = 0.02  # standard deviation of what is put into B, whose own is 0


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, whether it holds, and what was found."""

    name: str
    passed: bool
    detail: str


def self_check(
    model: VideoModel, reference: Reference, part: Part, settings: TrainSettings, beta: float
) -> list[Check]:
    """Check the untrained policy, its reference and one part of the first batch; return all checks.

    At most two pairs go through the model, or with a cached reference the whole part: two passes each of policy and
    reference, and one backward pass. Call it before the first step, with nothing restored.

    Args:
        model: the model, ready to be trained.
        reference: what training will use.
        part: the first part of the first batch.
        settings: the run's.
        beta: the run's at its start.

    Raises:
        TrainingError: naming every failed check with what was found.
    """
    checks = [_latent_scale(part)]
    # stored errors are compared in the batch layout that they were measured in, as others round differently
    small = part if isinstance(reference, CachedReference) else _first(part, MAX_PAIRS)
    device = small.text.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if settings.method == "sft":
            with _perturbed(model):
                checks.append(_gradients(model, reference, small, settings, beta))
        else:
            checks += _preference_checks(model, reference, small, settings, beta)
    if failed := [check for check in checks if not check.passed]:
        found = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise TrainingError(
            f"self-check failed: {found}; nothing was trained. Mend the cause; self_check false would only hide it"
        )
    return checks


def _preference_checks(
    model: VideoModel, reference: Reference, part: Part, settings: TrainSettings, beta: float
) -> list[Check]:
    """Return the checks that need a policy and a reference."""
    with _watching(model) as calls:
        before = reference.errors(part.visits, part.latents, part.draw, part.text)
        policy = objective.pair_errors(model, part.latents, part.draw, part.text)
    of_policy = [call for call in calls if call.graded]
    of_reference = [call for call in calls if not call.graded]
    inputs, latents = sum(len(call.latents) for call in of_policy), 2 * len(part.visits)
    if inputs != latents:
        return [Check("shared t and noise", False, f"the policy's pass has {inputs} inputs for {latents} latents")]
    checks = [
        _margin(policy, before, beta, _allowed_noise(reference, settings)),
        _inputs(model, part, of_policy, of_reference, share_noise=settings.share_noise),
        _orientation(model, before, part, of_policy, settings, beta),
    ]
    del policy  # its graph
    kept = _Kept(reference)
    with _perturbed(model), _watching(model) as calls:
        gradients = _gradients(model, kept, part, settings, beta)
    return [*checks, _reference_stays(before, kept.found, of_policy, calls), gradients]


def _margin(policy: Errors, before: Errors, beta: float, allowed: float) -> Check:
    """Before the first step policy and reference are one network: d_a - d_b is 0, to the bit where both run here."""
    margin = (policy.a.detach() - before.a) - (policy.b.detach() - before.b)
    logit = 0.5 * beta * float(margin.abs().max())
    return Check("step-0 margin", logit <= allowed, f"largest |logit| {logit:.3g}, at most {allowed:g} expected")


def _allowed_noise(reference: Reference, settings: TrainSettings) -> float:
    if settings.compile:
        return COMPILED_LOGIT_NOISE
    return MAX_LOGIT_NOISE if isinstance(reference, CachedReference) else 0.0


def _inputs(
    model: VideoModel, part: Part, of_policy: Sequence[_Call], of_reference: Sequence[_Call], *, share_noise: bool
) -> Check:
    """Both sides, and policy and reference, must get the same t, and the same noise as set; read off what was passed.

    Noise is what is left of an input without its clean part, so sides in the wrong order show as well.
    """
    name = "shared t and noise"
    received, t = (torch.cat([getattr(call, field) for call in of_policy]) for field in ("latents", "t"))
    clean = _sides(part).to(received.device)
    wanted = part.draw.t.to(t.device)
    if not torch.equal(t, torch.cat([wanted, wanted])):
        return Check(name, False, f"noise levels {_listed(t)} for a and b of pairs drawn at {_listed(wanted)}")
    if of_reference and not all(
        torch.equal(torch.cat([getattr(call, field) for call in of_reference]), mine)
        for field, mine in (("latents", received), ("t", t))
    ):
        return Check(name, False, "policy and reference get different inputs")
    noise_a, noise_b = (received - model.add_noise(clean, torch.zeros_like(clean), t)).flatten(1).chunk(2)
    gap = (noise_a - noise_b).norm(dim=1) / noise_a.norm(dim=1)
    rounding = 8 * torch.finfo(received.dtype).eps / wanted  # of an input, against the noise's share t of it
    same = gap <= rounding
    passed = bool(same.all()) if share_noise else not bool(same.any())
    kind = "one noise" if share_noise else "two noises"
    return Check(name, passed, f"the sides' noises differ by {float(gap.max()):.2g} of their norm, {kind} wanted")


def _orientation(
    model: VideoModel,
    before: Errors,
    part: Part,
    of_policy: Sequence[_Call],
    settings: TrainSettings,
    beta: float,
) -> Check:
    """On each decided frame the loss must pull the preferred side's error down and the other's up.

    The policy's predictions are played back into the loss that training uses. With target v and prediction p, a mean
    squared error's gradient is g = dL/dp = 2 (dL/derror) (p - v) / N, so g . (p - v) has the sign of dL/derror.
    """
    name = "label orientation"
    prediction = torch.cat([call.prediction for call in of_policy]).requires_grad_()
    if settings.loss_type == ("sft_clip",):
        return Check(name, True, "no label enters this loss")

    def play_back(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        return prediction if len(latents) == len(prediction) else torch.zeros_like(latents)  # the clips of sft_clip

    with _predicting(model, play_back):
        loss = _loss(model, _Fixed(before), part, settings, beta)
    (gradient,) = torch.autograd.grad(loss, prediction)
    drawn = torch.cat([part.draw.noise_a, part.draw.noise_b]).to(prediction.device)
    levels = torch.cat([part.draw.t, part.draw.t]).to(prediction.device)
    target = model.target(_sides(part).to(prediction.device), drawn, levels)
    pull = (gradient.float() * (prediction.detach().float() - target)).sum(dim=(1, 3, 4))
    pull_a, pull_b = pull[:, model.lead_frames :].chunk(2)
    labels = _labels(part, settings).to(pull_a.device)
    decided = labels != 0
    # a term may leave one side alone (sft the loser, sdpo_mu a loser that would hurt), never pull it the wrong way
    right = (labels * pull_a >= 0) & (labels * pull_b <= 0) & (labels * (pull_a - pull_b) > 0)
    wrong = decided & ~right
    pairs = sorted({item.pair_id for item, row in zip(part.items, wrong.tolist(), strict=True) if any(row)})
    found = f"{int(wrong.sum())} of {int(decided.sum())} decided frames are pulled against their label"
    return Check(name, not pairs, found + (f", pairs {', '.join(pairs)}" if pairs else ""))


def _reference_stays(before: Errors, after: Errors | None, first: Sequence[_Call], second: Sequence[_Call]) -> Check:
    """Perturbed trainable weights must change the policy's prediction and no bit of the reference's errors."""
    assert after is not None
    old, inputs = (torch.cat([getattr(call, field) for call in first]) for field in ("prediction", "latents"))
    graded = [call for call in second if call.graded]  # the policy comes first, then the clips of sft_clip
    new, again = (torch.cat([getattr(c, field) for c in graded])[: len(old)] for field in ("prediction", "latents"))
    moved = torch.equal(again, inputs) and not torch.equal(new, old)
    stays = torch.equal(after.a, before.a) and torch.equal(after.b, before.b)
    found = f"with its trainable weights perturbed the policy {'moves' if moved else 'does not move'}"
    return Check(
        "reference without adapter", moved and stays, f"{found}, the reference {'does not' if stays else 'moves too'}"
    )


def _latent_scale(part: Part) -> Check:
    """Normalised latents must have about the deviation that the VAE's statistics were made to give: 1 a channel."""
    low, high = LATENT_DEVIATION
    found, wrong = [], []
    for field in ("clip", "a", "b"):
        values = torch.stack([getattr(pair, field) for pair in part.latents]).float()
        deviations = values.std(dim=(0, 2, 3, 4))
        spread = f"{field} {float(deviations.min()):.2g} to {float(deviations.max()):.2g}"
        found.append(spread)
        if not bool(((deviations >= low) & (deviations <= high)).all()):
            wrong.append(spread)
    return Check(
        "latent scale",
        not wrong,
        f"standard deviations of the channels: {', '.join(wrong or found)}; {low:g} to {high:g} expected: (latent - "
        "mean) / std by the VAE's latents_mean and latents_std, or times its scaling_factor; clips unlike all that the "
        "model has learned, such as real videos before the miniature, are off too",
    )


def _gradients(model: VideoModel, reference: Reference, part: Part, settings: TrainSettings, beta: float) -> Check:
    """Every trainable tensor must get a finite gradient that is not all zero; gradients there were are put back."""
    trained = {name: weight for name, weight in model.denoiser.named_parameters() if weight.requires_grad}
    kept = {name: weight.grad for name, weight in trained.items()}
    wrong = {}
    try:
        for weight in trained.values():
            weight.grad = None
        loss = _loss(model, reference, part, settings, beta)
        if loss.requires_grad:
            loss.backward()
        for name, weight in trained.items():
            largest = 0.0 if weight.grad is None else _largest(weight.grad)
            if not 0 < largest < float("inf"):
                wrong[name] = "none" if weight.grad is None else "zero" if largest == 0 else "not finite"
    finally:
        for name, weight in trained.items():
            weight.grad = kept[name]
    if not trained:
        return Check("gradients", False, "nothing is trainable")
    if not wrong:
        return Check("gradients", True, f"finite and not zero on all {len(trained)} trainable tensors")
    shown = ", ".join(f"{name} ({what})" for name, what in list(wrong.items())[:3])
    return Check("gradients", False, f"loss {loss.item():.3g}; {len(wrong)} of {len(trained)} tensors: {shown}")


def _loss(model: VideoModel, reference: Reference, part: Part, settings: TrainSettings, beta: float) -> Tensor:
    totals = objective.batch_totals(part.items, settings)
    return objective.part_loss(model, reference, part, settings, beta=beta, totals=totals).loss


def _labels(part: Part, settings: TrainSettings) -> Tensor:
    """Return the labels [B, F] as the items have them, not as training turns them into tensors."""

    def of(item: PairItem) -> Sequence[float]:
        return [item.clip_label] * len(item.frame_labels) if by_clip else item.frame_labels

    by_clip = settings.method in {"vanilla", "structural"}
    return torch.tensor([of(item) for item in part.items])


def _sides(part: Part) -> Tensor:
    """Return the latents of all a, then of all b, [2 B, C, F, H, W]."""
    return torch.stack([pair.a for pair in part.latents] + [pair.b for pair in part.latents])


def _first(part: Part, count: int) -> Part:
    draw, stored = part.draw, part.draw.stored
    cut = Draw(draw.t[:count], draw.noise_a[:count], draw.noise_b[:count], stored and stored[:count])
    return Part(part.visits[:count], part.latents[:count], cut, part.text[:count])


def _largest(gradient: Tensor) -> float:
    """Return the largest magnitude, NaN if there is one; over all processes where the weight is cut up."""
    # put together first: a process may hold no row of a small weight, and nothing has no largest
    whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return float(whole.detach().abs().max())


def _listed(t: Tensor) -> str:
    return ", ".join(f"{level:.4f}" for level in t.tolist())


@dataclass(frozen=True)
class _Call:
    """What one forward pass received and returned, detached, and whether a graph was built."""

    latents: Tensor
    t: Tensor
    prediction: Tensor
    graded: bool


@contextmanager
def _predicting(model: VideoModel, predict: Callable[[Tensor, Tensor, TextCondition], Tensor]) -> Iterator[None]:
    """Run the block with another ``model.predict``."""
    own = vars(model).get("predict")
    vars(model)["predict"] = predict
    try:
        yield
    finally:
        if own is None:
            del vars(model)["predict"]
        else:
            vars(model)["predict"] = own


@contextmanager
def _watching(model: VideoModel) -> Iterator[list[_Call]]:
    """Note every forward pass in the block."""
    calls: list[_Call] = []
    predict = model.predict

    def note(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        prediction = predict(latents, t, text)
        calls.append(_Call(latents.detach(), t.detach(), prediction.detach(), torch.is_grad_enabled()))
        return prediction

    with _predicting(model, note):
        yield calls


@contextmanager
def _perturbed(model: VideoModel) -> Iterator[None]:
    """Run the block with every B of the LoRA drawn at random, or in full tuning the largest weight; put back after."""
    trained = {name: weight for name, weight in model.denoiser.named_parameters() if weight.requires_grad}
    chosen = {name: weight for name, weight in trained.items() if ".lora_B." in name}
    if trained and not chosen:
        largest = max(trained, key=lambda name: trained[name].numel())
        chosen = {largest: trained[largest]}
    local = {name: _local(weight.detach()) for name, weight in chosen.items()}
    kept = {name: weight.clone() for name, weight in local.items()}
    try:
        for name, weight in local.items():
            weight.add_((_PERTURBATION * noise(tuple(weight.shape), None, "self-check", name)).to(weight))
        yield
    finally:
        for name, weight in local.items():
            weight.copy_(kept[name])


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


class _Kept:
    """A reference that keeps what it answered last."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.found: Errors | None = None

    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return the reference's answer."""
        self.found = self._reference.errors(visits, latents, draw, text)
        return self.found


class _Fixed:
    """A reference that always gives one answer."""

    def __init__(self, errors: Errors) -> None:
        self._errors = errors

    def errors(
        self, visits: Sequence[Visit], latents: Sequence[PairLatents], draw: Draw, text: TextCondition
    ) -> Errors:
        """Return that answer."""
        return self._errors
