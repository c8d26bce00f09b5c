"""The ways of doing one training step on one pair that are compared, as functions of a draw (t, noise).

The baselines are written here from the published maths (Flow-DPO with one label a clip, Diffusion-DPO) and share no
training code with the package. ``ours`` goes through the package's own objective, reference and loss.

    B0   one pair; VAE and text encoder in the loop, for each video; a frozen deep copy as reference; full checkpointing
    B1   latents and text cached; reference by switching the LoRA off (a frozen copy in full tuning); four separate
         calls; full checkpointing
    B1+  B1 with both sides in one call and the cheapest checkpointing that fits, compiled where asked for
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from _model import CAPTION
from _prepare import Bench
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from densedpo.models.activation import POLICIES, Policy, apply_policy, choose_policy
from densedpo.models.lora import adapter_off
from densedpo.training.draws import Draw
from densedpo.training.objective import Part, Reference, batch_totals, part_loss

Step = Callable[[Draw], Tensor]
Calls = dict[nn.Module, Callable[..., Tensor]]
_CACHED: dict[Policy, str] = {
    "full": "cached",
    "save-attention": "cached+save-attention",
    "none": "cached+no-checkpointing",
}


@dataclass(frozen=True)
class Variant:
    """One way of doing the step: the loss of a draw, under a checkpointing policy, and what it must keep loaded."""

    name: str
    step: Step
    policy: Policy
    loaded: tuple[nn.Module, ...]
    compiled: bool = False
    note: str = ""


def best_policy(bench: Bench, draw: Draw) -> Policy:
    """Return the cheapest checkpointing that fits, as B1+ would use it."""
    return choose_policy(bench.model, lambda: _baseline_batched(bench, draw)).policy


def variants(bench: Bench, best: Policy, *, compiled: bool) -> list[Variant]:
    """Return all variants; ``best`` is B1+'s checkpointing."""
    model = bench.model
    denoiser, copy = model.denoiser, (bench.frozen,) if bench.tuning == "full" else ()
    note = f"checkpointing {best}, {'compiled' if compiled else 'not compiled'}"
    with_copy = (denoiser, *copy)
    first = [
        Variant("B0", partial(_baseline_0, bench), "full", (denoiser, bench.frozen, model.vae, model.text_encoder)),
        Variant("B1", partial(_baseline_1, bench), "full", with_copy),
        Variant("B1+", partial(_baseline_batched, bench), best, with_copy, compiled, note),
        Variant("live", partial(live_loss, bench), "full", with_copy),
    ]
    cached = partial(_ours, bench, bench.cached)
    rest = [Variant(_CACHED[policy], cached, policy, (denoiser,)) for policy in reversed(POLICIES)]
    if compiled:
        rest += [Variant(f"{v.name}+compile", v.step, v.policy, v.loaded, True, "compiled") for v in rest]
    return first + rest


def live_loss(bench: Bench, draw: Draw) -> Tensor:
    """Return the package's own loss with the reference measured in the step."""
    return _ours(bench, bench.online, draw)


def _ours(bench: Bench, reference: Reference, draw: Draw) -> Tensor:
    part = Part([bench.visit], [bench.latents], draw, bench.text)
    totals = batch_totals([bench.visit.item], bench.settings)
    return part_loss(bench.model, reference, part, bench.settings, beta=bench.beta, totals=totals).loss


def _error(bench: Bench, denoiser: nn.Module, clean: Tensor, drawn: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """Return mean |(e - x) - v(x_t, t)|^2 of each video, x_t = (1 - t) x + t e; [B]."""
    model = bench.model
    share = t.view(-1, 1, 1, 1, 1)
    noisy = ((1 - share) * clean + share * drawn).to(model.dtype)
    kind = model.compute_dtype
    with torch.autocast(model.device.type, kind or torch.bfloat16, enabled=kind is not None):
        velocity = denoiser(noisy, 1000 * t, text.to(model.dtype), return_dict=False)[0]
    return (drawn - clean - velocity.float()).square().mean(dim=(1, 2, 3, 4))


def _loss(bench: Bench, policy: Tensor, reference: Tensor) -> Tensor:
    """Return -log sigma(-beta / 2 (d_a - d_b)) for a pair of which a is preferred; errors are [a, b]."""
    change = policy - reference
    return -logsigmoid(-0.5 * bench.beta * (change[0] - change[1]))


def _base(bench: Bench) -> tuple[nn.Module, AbstractContextManager[None]]:
    if bench.tuning == "full":
        return bench.frozen, nullcontext()
    return bench.model.denoiser, adapter_off(bench.model)


def _inputs(bench: Bench, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return clean latents, noises, levels and texts of both sides, [2, ...]."""
    device = bench.model.device
    clean = torch.stack([bench.latents.a, bench.latents.b]).to(device)
    drawn = torch.cat([draw.noise_a, draw.noise_b]).to(device)
    return clean, drawn, torch.cat([draw.t, draw.t]).to(device), torch.cat([bench.text.hidden, bench.text.hidden])


def _baseline_0(bench: Bench, draw: Draw) -> Tensor:
    model = bench.model
    text = torch.cat([model.encode_text([CAPTION]).hidden for _ in bench.clips])
    clean = torch.cat([model.encode_video(clip) for clip in bench.clips])
    _, drawn, t, _ = _inputs(bench, draw)
    with torch.no_grad():
        reference = _error(bench, bench.frozen, clean, drawn, t, text)
    return _loss(bench, _error(bench, model.denoiser, clean, drawn, t, text), reference)


def _baseline_1(bench: Bench, draw: Draw) -> Tensor:
    sides = [tuple(part[side : side + 1] for part in _inputs(bench, draw)) for side in (0, 1)]
    base, off = _base(bench)
    with torch.no_grad(), off:
        reference = torch.cat([_error(bench, base, *side) for side in sides])
    return _loss(bench, torch.cat([_error(bench, bench.model.denoiser, *side) for side in sides]), reference)


def _baseline_batched(bench: Bench, draw: Draw) -> Tensor:
    inputs = _inputs(bench, draw)
    base, off = _base(bench)
    with torch.no_grad(), off:
        reference = _error(bench, base, *inputs)
    return _loss(bench, _error(bench, bench.model.denoiser, *inputs), reference)


def use(bench: Bench, variant: Variant, calls: Calls, *, compiled: bool) -> None:
    """Make the model as the variant wants it; ``calls`` are the blocks' compiled forms, if there are any."""
    apply_policy(bench.model, variant.policy)
    for block, call in calls.items():
        block._compiled_call_impl = call if compiled else None
