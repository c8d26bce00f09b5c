"""Optimizers, their rate, their state through a checkpoint, and the moving average."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from densedpo.config import TrainSettings
from densedpo.errors import ConfigError
from densedpo.keys import noise
from densedpo.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from densedpo.training.optimizer import Ema, learning_rate, make_optimizer, set_learning_rate

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
OPTIMIZERS = [
    "adamw",
    "adamw_fused",
    # its step is compiled, by parts of torch that warn
    pytest.param(
        "adamw_8bit",
        marks=[
            needs_torchao,
            pytest.mark.slow,
            pytest.mark.filterwarnings("ignore::DeprecationWarning"),
            pytest.mark.filterwarnings("ignore:OptimState8bit does not implement"),
        ],
    ),
]


def parameters() -> list[nn.Parameter]:
    """One large enough for 8 bits, and one that is not."""
    return [nn.Parameter(noise(shape, 0, "parameter", *shape)) for shape in ((64, 128), (7,))]


def settings(**values: object) -> TrainSettings:
    return TrainSettings.model_validate({"learning_rate": 1e-2, "weight_decay": 0.1, **values})


def steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        for number, weight in enumerate(weights):
            weight.grad = noise(tuple(weight.shape), 0, "gradient", step, number)
        set_learning_rate(optimizer, 1e-2 / (1 + step))
        optimizer.step()


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_it_is_adamw_with_decoupled_decay(optim: str) -> None:
    weights, plain = parameters(), parameters()
    expected = torch.optim.AdamW(plain, lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
    steps(make_optimizer(weights, settings(optim=optim)), weights, 0, 3)
    steps(expected, plain, 0, 3)
    tolerance = 2e-3 if optim == "adamw_8bit" else 1e-6  # three steps of 0.01, 0.005 and 0.0033
    for weight, other in zip(weights, plain, strict=True):
        assert (weight - other).abs().max() < tolerance


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_its_state_goes_through_a_checkpoint_bit_for_bit(optim: str, tmp_path: Path) -> None:
    chosen = settings(optim=optim)
    straight = parameters()
    steps(make_optimizer(straight, chosen), straight, 0, 6)

    weights = parameters()
    optimizer = make_optimizer(weights, chosen)
    steps(optimizer, weights, 0, 3)
    tensors = optimizer_tensors(optimizer)
    saved = load_checkpoint(save_checkpoint(tmp_path, 3, tensors, {})).tensors
    resumed = make_optimizer(weights, chosen)
    restore_optimizer(resumed, saved)
    again = optimizer_tensors(resumed)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    steps(resumed, weights, 3, 6)
    assert all(torch.equal(one, other) for one, other in zip(weights, straight, strict=True))


@needs_torchao
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:OptimState8bit does not implement")
def test_8_bit_moments_are_stored_in_8_bits() -> None:
    weights = parameters()
    optimizer = make_optimizer(weights, settings(optim="adamw_8bit"))
    steps(optimizer, weights, 0, 1)
    stored = optimizer_tensors(optimizer)
    assert stored["optimizer.0.exp_avg.codes"].dtype == torch.uint8
    assert stored["optimizer.1.exp_avg"].dtype == torch.float32  # too small to be worth it
    moments = sum(t.nbytes for n, t in stored.items() if n.startswith("optimizer.0.exp"))
    assert moments < 0.4 * 2 * weights[0].nbytes


def test_without_torchao_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match=r"densedpo\[torchao\]"):
        make_optimizer(parameters(), settings(optim="adamw_8bit"))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    chosen = settings(learning_rate=1.0, warmup_steps=4, max_steps=8)
    assert [learning_rate(chosen, step) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    constant = chosen.model_copy(update={"lr_schedule": "constant"})
    assert learning_rate(constant, 7) == 1
    assert learning_rate(chosen.model_copy(update={"warmup_steps": 0}), 0) == 1


def test_the_average_is_the_weighted_mean_of_the_weights_seen() -> None:
    decay, weights = 0.9, parameters()
    ema, seen = Ema(weights, decay), []
    for count in range(1, 6):
        for number, weight in enumerate(weights):
            weight.data = noise(tuple(weight.shape), 0, "weights", count, number)
        seen.append([weight.detach().clone() for weight in weights])
        ema.update()
    shares = [decay ** (5 - count) for count in range(1, 6)]
    for number in range(len(weights)):
        expected = sum(share * values[number] for share, values in zip(shares, seen, strict=True)) / sum(shares)
        assert torch.allclose(ema.tensors()[f"ema.{number}"], torch.as_tensor(expected), atol=1e-6)


def test_the_first_update_forgets_the_start() -> None:
    weights = parameters()
    ema = Ema(weights, 0.999)
    weights[0].data += 1
    ema.update()
    assert torch.equal(ema.tensors()["ema.0"], weights[0])


def test_a_restored_average_goes_on_as_if_it_had_not_stopped() -> None:
    weights = parameters()
    straight, stopped = Ema(weights, 0.9), Ema(weights, 0.9)
    for count in range(4):
        weights[0].data += count
        straight.update()
        if count == 1:
            saved, stopped = stopped.tensors(), Ema(weights, 0.9)
            stopped.restore({name: tensor.clone() for name, tensor in saved.items()})
        stopped.update()
    assert all(torch.equal(straight.tensors()[name], tensor) for name, tensor in stopped.tensors().items())


def test_the_average_of_bfloat16_weights_is_float32() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    ema = Ema([weight], 0.5)
    ema.update()
    with ema.averaged():
        assert weight.dtype == torch.bfloat16
    assert ema.tensors()["ema.0"].dtype == torch.float32


def test_averaged_weights_are_swapped_in_and_out_even_on_failure() -> None:
    weights = parameters()
    trained = [weight.detach().clone() for weight in weights]
    ema = Ema(weights, 0.5)
    ema.tensors()["ema.0"].zero_()
    with pytest.raises(ZeroDivisionError), ema.averaged():
        assert not weights[0].any()
        raise ZeroDivisionError
    assert all(torch.equal(one, other) for one, other in zip(weights, trained, strict=True))
    assert all(weight.requires_grad for weight in weights)
