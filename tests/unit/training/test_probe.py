"""The probe: a ratio of 1 for an unchanged model, the changes it is there to see, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from densedpo.keys import stream
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off, add_lora, load_lora, save_lora
from densedpo.training.probe import PROPERTIES, Probe, background_texture, clip_properties, mean_ratio

CAPTIONS = ["a red circle drifts", "a blue square bounces", "a green triangle orbits", "a red cross spins"]
FPS = 8.0


@pytest.fixture
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


def with_adapter(model: VideoModel, strength: float = 0.0) -> VideoModel:
    """Add an adapter; at a strength above zero it changes the model by a fixed amount."""
    parameters = add_lora(model, rank=4, alpha=4, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            change = stream("test", "adapter", number).normal(size=tuple(parameter.shape))
            parameter.add_(torch.from_numpy(change).float(), alpha=strength)
    return model


def video(
    *, speed_px: float = 1.0, radius: int = 6, gain: float = 1.0, grain: float = 0.0, frames: int = 9
) -> NDArray[np.uint8]:
    """Draw a saturated disc that drifts over a dim, unevenly lit background with some grain."""
    y, x = np.mgrid[0:64, 0:64]
    clip = np.zeros((frames, 64, 64, 3), np.uint8)
    rng = stream("test", "grain")
    for number in range(frames):
        picture = np.repeat((60 + x[:, :, None] * 0.5 + y[:, :, None] * 0.3), 3, axis=2).astype(np.float32)
        centre = (int((16 + speed_px * number) * 16), 32 * 16)
        cv2.circle(picture, centre, radius * 16, (200, 70, 60), -1, cv2.LINE_AA, 4)
        noisy = picture * gain + rng.normal(scale=1 + grain, size=picture.shape)
        clip[number] = noisy.round().clip(0, 255)
    return clip


def test_an_untrained_adapter_changes_nothing(model: VideoModel) -> None:
    measured = Probe(with_adapter(model), CAPTIONS, 0, prompts=2).measure()
    for name in PROPERTIES:
        assert measured[f"probe/{name}"] == measured[f"probe/{name}_low"] == measured[f"probe/{name}_high"] == 1.0


def test_the_base_is_the_model_without_its_adapter(model: VideoModel) -> None:
    plain = Probe(model, CAPTIONS, 0, prompts=2).base
    probe = Probe(with_adapter(model, strength=0.3), CAPTIONS, 0, prompts=2)
    assert probe.base == plain
    assert probe.measure()["probe/texture"] != 1.0


def test_in_full_tuning_the_base_is_measured_before_the_weights_move(model: VideoModel) -> None:
    probe = Probe(model, CAPTIONS, 0, prompts=2)
    assert probe.measure()["probe/brightness"] == 1.0
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.mul_(1.2)
    assert probe.measure()["probe/brightness"] != 1.0


def test_a_resumed_run_measures_the_same(tiny_model_folder: Path, tmp_path: Path) -> None:
    first = with_adapter(load_model(str(tiny_model_folder), device="cpu"), strength=0.3)
    probe = Probe(first, CAPTIONS, 5, prompts=3)
    probe.measure()
    expected = probe.measure()
    folder = save_lora(first, tmp_path)
    again = load_model(str(tiny_model_folder), device="cpu")
    load_lora(again, folder)
    assert Probe(again, CAPTIONS[::-1] * 2, 5, prompts=3).measure() == expected


def test_the_seed_chooses_captions_and_noise(model: VideoModel) -> None:
    many = [f"caption {number}" for number in range(40)]
    first, second = (Probe(model, many, seed, prompts=3) for seed in (0, 1))
    assert len(set(first.samples)) == 3
    assert first.samples != second.samples
    one = [Probe(model, CAPTIONS[:1], seed, prompts=2) for seed in (0, 1)]
    assert one[0].base != one[1].base


def test_one_caption_is_sampled_with_several_noises(model: VideoModel) -> None:
    probe = Probe(model, CAPTIONS[:1], 0, prompts=3)
    assert probe.samples == [(CAPTIONS[0], 0), (CAPTIONS[0], 1), (CAPTIONS[0], 2)]
    assert probe.base[0] != probe.base[1]


def test_nothing_is_left_behind(model: VideoModel) -> None:
    with_adapter(model, strength=0.3)
    denoiser = model.denoiser.train()
    frozen_part = next(part for part in denoiser.modules() if isinstance(part, nn.LayerNorm))
    frozen_part.eval()
    modes = [part.training for part in denoiser.modules()]
    trainable = [parameter.requires_grad for parameter in denoiser.parameters()]
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    Probe(model, CAPTIONS, 0, prompts=2).measure()
    assert [part.training for part in denoiser.modules()] == modes
    assert [parameter.requires_grad for parameter in denoiser.parameters()] == trainable
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_the_adapter_is_on_again_after_the_base_was_measured(model: VideoModel) -> None:
    with_adapter(model, strength=0.3)
    d = model.defaults
    latents = torch.ones(1, *model.latent_shape(d.num_frames, d.height, d.width))
    text, level = model.encode_text(CAPTIONS[:1]), torch.tensor([0.5])
    with torch.no_grad():
        before = model.predict(latents, level, text)
        Probe(model, CAPTIONS, 0, prompts=2)
        assert torch.equal(model.predict(latents, level, text), before)
        with adapter_off(model):
            assert not torch.equal(model.predict(latents, level, text), before)


def test_an_interrupted_measurement_restores_the_mode(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(with_adapter(model), CAPTIONS, 0, prompts=2)
    model.denoiser.train()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe.measure()
    assert model.denoiser.training


def test_a_property_the_base_lacks_is_left_out(model: VideoModel) -> None:
    probe = Probe(model, CAPTIONS, 0, prompts=3)
    for properties in probe.base:
        properties["motion"] = 0.0
    probe.base[0]["size"] = 0.0
    measured = probe.measure()
    assert not [name for name in measured if name.startswith("probe/motion")]
    assert "probe/size" in measured


@pytest.mark.parametrize(
    ("name", "change", "low", "high"),
    [
        ("motion", {"speed_px": 0.5}, 0.35, 0.65),
        ("size", {"radius": 8}, 1.5, 2.0),
        ("brightness", {"gain": 1.2}, 1.15, 1.25),
        ("texture", {"grain": 1.0}, 1.6, 2.4),
    ],
)
def test_each_property_shows_its_own_change(name: str, change: dict[str, float], low: float, high: float) -> None:
    before, after = clip_properties(video(), FPS), clip_properties(video(**change), FPS)  # type: ignore[arg-type]
    assert low < after[name] / before[name] < high
    others = set(PROPERTIES) - {name} - ({"saturation"} if name in {"size", "texture"} else set())
    for other in others:
        assert after[other] / before[other] == pytest.approx(1, abs=0.15), other


def test_saturation_shows_paler_colours() -> None:
    clip = video().astype(np.float32)
    pale = (clip.mean(axis=3, keepdims=True) + 0.5 * (clip - clip.mean(axis=3, keepdims=True))).round().astype(np.uint8)
    assert 0.45 < clip_properties(pale, FPS)["saturation"] / clip_properties(video(), FPS)["saturation"] < 0.75


def test_texture_does_not_count_the_subjects_edges() -> None:
    assert background_texture(video(radius=9)) == pytest.approx(background_texture(video(radius=4)), rel=0.05)


def test_a_clip_of_one_frame_has_no_motion() -> None:
    assert clip_properties(video(frames=1), FPS)["motion"] == 0.0


def test_mean_ratio_is_the_geometric_mean_with_the_t_interval() -> None:
    mean, low, high = mean_ratio([0.5, 2.0])
    assert mean == pytest.approx(1.0)
    # two logarithms of sd log(4) / sqrt(2) and t(0.95, 1 degree of freedom) = 6.3138
    assert high == pytest.approx(np.exp(6.313752 * np.log(4) / 2), rel=1e-5)
    assert low == pytest.approx(1 / high)


def test_one_frozen_video_is_not_a_fall_of_all() -> None:
    ratio, _, high = mean_ratio([0.0] + [1.0] * 7)
    assert ratio == pytest.approx(0.1 ** (1 / 8))
    assert high > 1
