"""Attention kernels by name, and compiled blocks behind a gate on their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from densedpo.errors import ConfigError, TrainingError
from densedpo.keys import noise
from densedpo.models.activation import apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.execution import ATTENTION_BACKENDS, compile_blocks, gradient_gap, set_attention
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off, add_lora
from densedpo.models.text import TextCondition


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def predict(model: VideoModel) -> Tensor:
    shape = (2, *model.latent_shape(5, 16, 16))
    text = TextCondition({"hidden": noise((2, 16, 48), 0, "text")})
    return model.predict(noise(shape, 0, "latents"), torch.tensor([0.3, 0.8]), text)


def test_a_native_backend_gives_the_same(model: VideoModel) -> None:
    expected = predict(model)
    set_attention(model, "_native_math")
    assert torch.allclose(predict(model), expected, atol=1e-5)
    set_attention(model, "native")
    assert torch.equal(predict(model), expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "is unknown; choose one of native,"),
        ("flash_hub", "is not for training"),
        ("sage", "is not for training"),
        ("xformers", "cannot be used here"),
    ],
)
def test_a_backend_that_cannot_train_is_refused(model: VideoModel, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"attention_backend: '{name}' {reason}"):
        set_attention(model, name)


def test_nothing_offered_is_fetched_or_for_sampling_alone() -> None:
    assert not [name for name in ATTENTION_BACKENDS if "hub" in name or "sage" in name]


def test_the_gap_names_the_worst_tensor() -> None:
    first = {"a": torch.ones(4), "b": torch.tensor([1.0, 0.0]), "tiny": torch.full((2,), 1e-9)}
    second = {"a": torch.ones(4), "b": torch.tensor([0.0, 1.0]), "tiny": torch.full((2,), -1e-9)}
    gap = gradient_gap(first, second)
    assert gap.name == "b" and gap.cosine == pytest.approx(0) and gap.difference == pytest.approx(2**0.5)
    assert gradient_gap(first, first).difference == 0
    assert gradient_gap({"a": torch.zeros(2)}, {"a": torch.ones(2)}).difference > 1
    assert gradient_gap(first, {**first, "a": torch.full((4,), torch.nan)}).name == "a"


def dpo(model: VideoModel) -> Tensor:
    with torch.no_grad(), adapter_off(model):
        reference = predict(model)
    return (predict(model) - reference - noise(tuple(reference.shape), 0, "target")).square().mean()


def lora(model: VideoModel) -> list[torch.nn.Parameter]:
    return add_lora(model, rank=4, alpha=4, seed=0, targets=["attn1.to_q", "attn1.to_out.0"])


def compiled(model: VideoModel) -> bool:
    return any(module._compiled_call_impl is not None for module in model.denoiser.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # of torch's own compiler
def test_compiled_gradients_are_right_also_with_attention_saved(model: VideoModel) -> None:
    lora(model)
    apply_policy(model, "save-attention")
    before = {name: p.clone() for name, p in model.denoiser.named_parameters()}
    gap = compile_blocks(model, lambda: dpo(model), "float32")
    assert compiled(model)
    assert gap.difference < 1e-4 and gap.cosine > 0.999999
    for name, parameter in model.denoiser.named_parameters():
        assert torch.equal(parameter, before[name]), name  # the noise in place of zeros is gone
        assert parameter.grad is None


def test_wrong_compiled_gradients_are_refused(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted defect: after compiling, the gradient of the modulation tables alone is half of what it should be."""
    model.denoiser.requires_grad_(True)

    def compile_wrongly() -> None:
        block = model.denoiser.get_submodule("blocks.0")
        block._compiled_call_impl = block._call_impl
        model.denoiser.get_parameter("blocks.0.scale_shift_table").register_hook(lambda grad: grad / 2)

    monkeypatch.setattr(model.denoiser, "compile_repeated_blocks", compile_wrongly)
    with pytest.raises(TrainingError, match=r"gradient of blocks\.0\.scale_shift_table differs .* by 0\.5 of its norm"):
        compile_blocks(model, lambda: predict(model).square().mean(), "float32")
    assert not compiled(model)


def test_a_lora_of_zeros_hides_nothing(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted defect in the gradient of A, which is zero as long as B is zero."""
    parameters = lora(model)

    def compile_wrongly() -> None:
        weight = model.denoiser.get_parameter("blocks.1.attn1.to_q.lora_A.default.weight")
        weight.register_hook(lambda grad: -grad)

    monkeypatch.setattr(model.denoiser, "compile_repeated_blocks", compile_wrongly)
    with pytest.raises(TrainingError, match=r"blocks\.1\.attn1\.to_q\.lora_A"):
        compile_blocks(model, lambda: dpo(model), "float32")
    assert sum(not p.any() for p in parameters) == len(parameters) / 2  # B is zero again


def test_a_compiler_that_fails_is_a_settings_error(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lora(model)

    def fail() -> None:
        raise RuntimeError("no C++ compiler\nlong trace")

    monkeypatch.setattr(model.denoiser, "compile_repeated_blocks", fail)
    with pytest.raises(ConfigError, match=r"compile: .*\(no C\+\+ compiler\); leave it off"):
        compile_blocks(model, lambda: dpo(model), "float32")
