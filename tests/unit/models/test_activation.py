"""Checkpointing policies: same gradients, fewer kept bytes or fewer operations, and never silently nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from densedpo.errors import ConfigError, TrainingError
from densedpo.keys import noise
from densedpo.models import activation
from densedpo.models.activation import POLICIES, Policy, apply_policy, choose_policy, is_attention
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off, add_lora
from densedpo.models.memory import peak_memory
from densedpo.models.text import TextCondition

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    loaded = load_model(str(tiny_model_folder), device="cpu")
    for number, parameter in enumerate(add_lora(loaded, rank=4, alpha=4, seed=0)):
        parameter.data = 0.05 * noise(tuple(parameter.shape), 0, "lora", number)
    return loaded


def trained(model: VideoModel) -> list[torch.nn.Parameter]:
    return [p for p in model.denoiser.parameters() if p.requires_grad]


def predict(model: VideoModel) -> Tensor:
    shape = (2, *model.latent_shape(9, 24, 24))
    text = TextCondition({"hidden": noise((2, 16, 48), 0, "text")})
    return model.predict(noise(shape, 0, "latents"), torch.tensor([0.3, 0.8]), text)


def dpo(model: VideoModel) -> Tensor:
    """Return a loss with a reference pass in front, as training does."""
    with torch.no_grad(), adapter_off(model):
        reference = predict(model)
    return (predict(model) - reference).square().mean() + predict(model).mean()


def gradient(model: VideoModel, loss: Callable[[VideoModel], Tensor] = dpo) -> Tensor:
    loss(model).backward()
    flat = torch.cat([p.grad.flatten() for p in trained(model) if p.grad is not None])
    for parameter in trained(model):
        parameter.grad = None
    return flat


class Attention(TorchDispatchMode):
    """Counts attention forwards that are really executed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += is_attention(func)
        return func(*args, **(kwargs or {}))


def attention_forwards(model: VideoModel) -> int:
    with Attention() as counter:
        predict(model).sum().backward()
    return counter.count


@pytest.mark.parametrize("policy", ["save-attention", "full"])
def test_gradients_do_not_depend_on_the_policy(model: VideoModel, policy: Policy) -> None:
    expected = gradient(model)
    assert expected.abs().max() > 0
    apply_policy(model, policy)
    assert torch.equal(gradient(model), expected)


def test_going_back_to_none_keeps_everything_again(model: VideoModel) -> None:
    apply_policy(model, "full")
    apply_policy(model, "none")
    assert attention_forwards(model) == 2 * len(model.denoiser.blocks)  # type: ignore[arg-type]


def test_save_attention_never_runs_attention_twice(model: VideoModel) -> None:
    once = 2 * len(model.denoiser.blocks)  # type: ignore[arg-type]  # self- and cross-attention
    assert attention_forwards(model) == once
    apply_policy(model, "full")
    assert attention_forwards(model) == 2 * once
    apply_policy(model, "save-attention")
    assert attention_forwards(model) == once


def test_kept_bytes_fall_from_none_to_save_attention_to_full(model: VideoModel) -> None:
    peaks = []
    for policy in POLICIES:
        apply_policy(model, policy)
        with peak_memory(CPU) as peak:
            gradient(model)
        peaks.append(peak.held_bytes)
    assert peaks[0] > 1.5 * peaks[1] > 1.5 * peaks[2] > 0


def test_counted_peak_is_the_allocators(model: VideoModel) -> None:
    gradient(model)
    with peak_memory(CPU) as peak:
        gradient(model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradient(model)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert peak.held_bytes == pytest.approx(most, rel=0.02)


def test_tensors_that_were_there_before_do_not_count() -> None:
    big = torch.zeros(1_000_000)
    with peak_memory(CPU) as peak:
        big.add_(1)
        _ = big[:10].clone()
    assert peak.held_bytes == 40


def test_a_recomputation_with_the_adapter_off_is_caught(model: VideoModel) -> None:
    """Planted defect: the reference runs between the policy's forward and its backward, and never comes back."""
    expected = gradient(model, lambda m: predict(m).sum())
    apply_policy(model, "full")
    with adapter_off(model):
        pass
    assert torch.equal(gradient(model, lambda m: predict(m).sum()), expected)
    loss = predict(model).sum()
    with pytest.raises(torch.utils.checkpoint.CheckpointError), adapter_off(model):
        loss.backward()


def test_save_attention_refuses_to_save_nothing(model: VideoModel) -> None:
    apply_policy(model, "save-attention")
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(ConfigError, match="sees no attention operation"):
        predict(model)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        predict(model)  # nothing to save without a graph


def test_every_attention_of_torch_is_known() -> None:
    schemas = {s.name for s in torch._C._jit_get_all_schemas()}
    names = {n for n in schemas if n.startswith(("aten::_scaled_dot_product_", "aten::_flash_", "aten::_efficient_"))}
    kinds = ("_flash_attention", "_efficient_attention", "_cudnn_attention", "_for_cpu", "_overrideable")
    for kind in kinds:
        assert any(kind in name for name in names)
    for name in names:
        packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
        for overload in packet.overloads() if packet else []:
            assert is_attention(getattr(packet, overload)) == ("backward" not in name)
    assert not is_attention(torch.ops.aten.mm.default)


def test_auto_takes_the_first_that_fits(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose_policy(model, lambda: dpo(model))
    assert choice.policy == "none" and len(choice.trials) == 1
    need = choice.trials[0].needed_bytes
    assert need
    assert all(p.grad is None for p in trained(model))

    monkeypatch.setattr(activation, "available_memory", lambda _: need)  # the margin is missing
    choice = choose_policy(model, lambda: dpo(model))
    assert choice.policy == "save-attention"
    assert [trial.fits for trial in choice.trials] == [False, True]
    assert "none 0." in str(choice) and "(too much)" in str(choice)
    assert model.denoiser.is_gradient_checkpointing


def test_auto_falls_back_to_full_and_fails_if_that_does_not_run(
    model: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "available_memory", lambda _: 1)
    assert choose_policy(model, lambda: dpo(model)).policy == "full"

    def out_of_memory() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="memory runs out even under `full`"):
        choose_policy(model, out_of_memory)


def test_auto_goes_on_when_another_process_is_out_of_memory(model: VideoModel) -> None:
    answers = iter([False, True])
    asked = []

    def agree(fits: bool) -> bool:
        asked.append(fits)
        return next(answers)

    assert choose_policy(model, lambda: dpo(model), agree=agree).policy == "save-attention"
    assert asked == [True, True]
