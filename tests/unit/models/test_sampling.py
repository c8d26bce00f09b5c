"""Sampling: parts where a batch does not fit, the step cache, and compiling behind a check of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.execution import compile_for_sampling
from densedpo.models.load import load_model
from densedpo.models.sampling import denoise, predict_in_parts
from densedpo.models.step_cache import step_cache
from densedpo.models.text import TextCondition

LEVELS = [1.0, 0.9, 0.8, 0.7, 0.5, 0.0]


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def sampled(model: VideoModel) -> Tensor:
    start = noise((2, *model.latent_shape(9, 32, 32)), 0, "start")
    return denoise(model, start, LEVELS, model.encode_text(["a", "b"]), model.encode_text([""]), 2.0)


@pytest.fixture
def with_room_for(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device that has room for as many videos as the first entry says; the others are the sizes that ran."""
    predict, room = model.predict, [100]

    def limited(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        if len(latents) > room[0]:
            raise torch.OutOfMemoryError("no room")
        room.append(len(latents))
        return predict(latents, t, text)

    monkeypatch.setattr(model, "predict", limited)
    yield room


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_batch_that_does_not_fit_goes_in_parts(
    room: int, model: VideoModel, with_room_for: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sampled(model)
    del with_room_for[1:]
    with_room_for[0] = room
    torch.testing.assert_close(sampled(model), whole, rtol=1e-4, atol=1e-5)
    assert max(with_room_for[1:]) <= room and model.most_at_once == min(room, 2)
    assert capsys.readouterr().err.count("no room") == (2 if room == 1 else 1)  # said when found, not at every step


def test_where_not_even_one_fits_the_error_says_so(model: VideoModel, with_room_for: list[int]) -> None:
    with_room_for[0] = 0
    with pytest.raises(ModelError, match="no room for one video"):
        sampled(model)


def test_parts_keep_what_belongs_together(model: VideoModel) -> None:
    latents, t = noise((3, *model.latent_shape(9, 32, 32)), 0, "l"), torch.tensor([0.2, 0.5, 0.9])
    text = model.encode_text(["a", "b", "c"])
    with torch.no_grad():
        whole = predict_in_parts(model, latents, t, text)
        model.most_at_once = 2
        torch.testing.assert_close(predict_in_parts(model, latents, t, text), whole, rtol=1e-4, atol=1e-5)


def calls_of_the_last_block(model: VideoModel) -> list[int]:
    calls: list[int] = []
    model.denoiser.blocks[-1].attn1.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]
    return calls


def test_the_step_cache_skips_blocks_and_leaves_no_trace(model: VideoModel) -> None:
    exact, calls = sampled(model), calls_of_the_last_block(model)
    with step_cache(model, 0.9):
        first = sampled(model)
        skipping = len(calls)
        second = sampled(model)
    assert skipping < len(LEVELS) - 1  # a block ran less often than there were steps
    assert torch.equal(first, second)  # the second batch knows nothing of the first
    assert not torch.equal(first, exact)
    assert torch.equal(sampled(model), exact)


def test_a_cache_that_never_hits_changes_nothing(model: VideoModel) -> None:
    exact = sampled(model)
    with step_cache(model, 1e-9):
        assert torch.equal(sampled(model), exact)
    with step_cache(model, None):
        assert torch.equal(sampled(model), exact)


def test_each_part_has_a_cache_of_its_own(model: VideoModel) -> None:
    with step_cache(model, 0.9):
        whole = sampled(model)
        model.most_at_once = 2
        parts = sampled(model)
    assert whole.shape == parts.shape and bool(parts.isfinite().all())


def test_a_denoiser_without_cache_is_refused(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: object) -> None:
        raise ValueError("not registered")

    monkeypatch.setattr(model.denoiser, "enable_cache", refuse)
    with pytest.raises(ConfigError, match=r"step_cache: diffusers has none for wan"), step_cache(model, 0.1):
        pass


def test_wrong_compiled_predictions_are_refused(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = noise((1, *model.latent_shape(9, 32, 32)), 0, "l"), model.encode_text(["a"])
    blocks = model.denoiser.blocks

    def compile_wrongly() -> None:
        for block in blocks:  # type: ignore[union-attr]
            block._compiled_call_impl = lambda hidden, *_, **__: 2 * hidden

    monkeypatch.setattr(model.denoiser, "compile_repeated_blocks", compile_wrongly)
    with pytest.raises(ConfigError, match="compiled predictions differ"):
        compile_for_sampling(model, latents, text)
    assert all(block._compiled_call_impl is None for block in blocks)  # type: ignore[union-attr]


def test_right_compiled_predictions_are_kept(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = noise((1, *model.latent_shape(9, 32, 32)), 0, "l"), model.encode_text(["a"])
    monkeypatch.setattr(model.denoiser, "compile_repeated_blocks", lambda: None)
    assert compile_for_sampling(model, latents, text) == 0
