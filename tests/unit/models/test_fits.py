"""What is predicted from configuration files is what a real run takes, and what does not fit is said not to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.parity.tiny_cogvideox import write_tiny_cogvideox
from tests.parity.tiny_hunyuan_video import write_tiny_hunyuan_video
from tests.parity.tiny_ltx import write_tiny_ltx

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError, ModelError
from densedpo.keys import noise
from densedpo.models.activation import POLICIES, apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.fits import Machine, Need, Size, judged, needs_of_pairs, needs_of_training, policy_that_fits
from densedpo.models.load import load_model, load_shapes
from densedpo.models.lora import adapter_off, add_lora
from densedpo.models.memory import peak_memory
from densedpo.models.operations import operations
from densedpo.models.sampling import denoise
from densedpo.models.storage import keep_stored
from densedpo.models.weightless import META

CPU = torch.device("cpu")
SIZE = Size(32, 32, 33)
RANK = 4
RECIPE = {"steps": 8, "shift": 3.0, "cfg": 5.0, "eta": 0.7}


def weights(*parts: torch.nn.Module) -> int:
    return sum(tensor.nbytes for part in parts for tensor in [*part.parameters(), *part.buffers()])


def peak(work: Callable[[], object]) -> int:
    with peak_memory(CPU) as found:
        work()
    return found.held_bytes


def predict_pairs(folder: Path, kind: str = "cpu") -> Need:
    return needs_of_pairs(load_shapes(str(folder)), SIZE, **RECIPE, kind=kind)  # type: ignore[arg-type]


def training_step(model: VideoModel, pairs: int) -> None:
    shape = (2 * pairs, *model.latent_shape(SIZE.num_frames, SIZE.height, SIZE.width))
    clean, drawn = (noise(shape, 0, "fits", name) for name in ("clean", "drawn"))
    text, t = model.encode_text(["a red circle"]).expand(len(clean)), torch.full((len(clean),), 0.5)
    noisy = model.add_noise(clean, drawn, t)
    with torch.no_grad(), adapter_off(model):
        reference = (model.target(clean, drawn, t) - model.predict(noisy, t, text)).square().mean(dim=(1, 3, 4))
    policy = (model.target(clean, drawn, t) - model.predict(noisy, t, text)).square().mean(dim=(1, 3, 4))
    (policy - reference).mean().backward()


@pytest.mark.parametrize(("pairs", "storage"), [(1, "float8"), (2, None)])
def test_training_takes_what_was_predicted(tiny_model_folder: Path, pairs: int, storage: str | None) -> None:
    needs = needs_of_training(
        load_shapes(str(tiny_model_folder)),
        SIZE,
        tuning="lora",
        rank=RANK,
        kind="cpu",
        storage=storage,  # type: ignore[arg-type]
    )
    model = load_model(str(tiny_model_folder), device="cpu")
    trained = add_lora(model, rank=RANK, alpha=RANK, seed=0)
    keep_stored(model, storage)  # type: ignore[arg-type]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    held = weights(model.denoiser, model.vae, *model.text_encoders) + 12 * sum(p.numel() for p in trained)
    for policy, need in zip(POLICIES, needs, strict=True):
        apply_policy(model, policy)
        measured = held + peak(lambda: training_step(model, pairs))
        assert need.work == f"train, {policy}"
        assert need.fixed_bytes == held
        assert need.memory_bytes(pairs) == pytest.approx(measured, rel=0.05)
    # torch takes some small attentions apart on a CPU, and counts less for their way back
    cost = operations(lambda: training_step(model, pairs)) - operations(lambda: model.encode_text(["a red circle"]))
    assert pairs * needs[-1].operations_per_pair == pytest.approx(cost, rel=0.05)


def test_pairs_take_what_was_predicted(tiny_model_folder: Path) -> None:
    need = predict_pairs(tiny_model_folder)
    model = load_model(str(tiny_model_folder), device="cpu")
    video = noise((1, 3, SIZE.num_frames, SIZE.height, SIZE.width), 0, "video")
    clean = model.encode_video(video)
    text = model.encode_text([""])
    start = torch.cat([clean, clean])
    grid = [0.7, *grid_from(model.grid(8, 3.0), 0.7)[1:]]

    def sides() -> None:
        denoise(model, start, grid, text.expand(2), text, 5.0)

    resident = weights(model.denoiser, model.vae, *model.text_encoders)
    assert need.fixed_bytes == resident
    assert need.per_pair_bytes == pytest.approx(peak(sides) + start.nbytes, rel=0.05)
    stages = [lambda: model.encode_video(video), lambda: model.decode(clean), lambda: model.encode_text([""])]
    assert need.floor_bytes == pytest.approx(resident + max(peak(stage) for stage in stages), rel=0.02)
    cost = operations(sides) + operations(lambda: model.encode_video(video)) + 2 * operations(stages[1])
    assert need.operations_per_pair == pytest.approx(cost, rel=0.02)


def test_parts_that_wait_are_not_on_a_gpu(tiny_model_folder: Path) -> None:
    model = load_shapes(str(tiny_model_folder))
    here, gpu = predict_pairs(tiny_model_folder), predict_pairs(tiny_model_folder, "cuda")
    assert gpu.fixed_bytes == weights(model.denoiser)
    assert here.fixed_bytes - gpu.fixed_bytes == weights(model.vae, *model.text_encoders)
    assert gpu.fixed_bytes + weights(model.vae) < gpu.floor_bytes < here.floor_bytes


def test_no_weight_is_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")))
    model = load_shapes(str(folder))
    assert {w.device for part in (model.denoiser, model.vae, *model.text_encoders) for w in part.parameters()} == {META}
    assert predict_pairs(folder) == predict_pairs(tiny_model_folder)
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(ModelError, match="bare"):
        load_shapes(str(folder))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_tiny_cogvideox(folder, "1.5"),
        lambda folder: write_tiny_ltx(folder, condition=True),
        write_tiny_hunyuan_video,
    ],
    ids=["cogvideox", "ltx", "hunyuan_video"],
)
def test_every_family_is_predicted_as_it_runs(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "model")
    shapes, model = load_shapes(str(tmp_path / "model")), load_model(str(tmp_path / "model"), device="cpu")
    geometry = model.geometry
    size = Size(geometry.height, geometry.width, geometry.num_frames)
    predicted = needs_of_training(shapes, size, tuning="lora", rank=RANK, kind="cpu")
    trained = add_lora(model, rank=RANK, alpha=RANK, seed=0)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    shape = (2, *model.latent_shape(size.num_frames, size.height, size.width))
    clean, drawn = (noise(shape, 0, "fits", name) for name in ("clean", "drawn"))
    text, t = model.encode_text([""]).expand(2), torch.full((2,), 0.5)

    def step() -> None:
        noisy = model.add_noise(clean, drawn, t)
        with torch.no_grad(), adapter_off(model):
            model.predict(noisy, t, text)
        (model.target(clean, drawn, t) - model.predict(noisy, t, text)).square().mean().backward()

    for policy, need in zip(POLICIES, predicted, strict=True):
        apply_policy(model, policy)
        measured = peak(step)
        assert need.per_pair_bytes == pytest.approx(measured, rel=0.15)
        assert need.operations_per_pair == pytest.approx(operations(step), rel=0.05)
    memory = [need.per_pair_bytes for need in predicted]
    assert memory == sorted(memory, reverse=True)


def test_full_tuning_holds_weights_reference_gradients_and_moments(tiny_model_folder: Path) -> None:
    model = load_shapes(str(tiny_model_folder))
    numbers = sum(weight.numel() for weight in model.denoiser.parameters())
    found = needs_of_training(model, SIZE, tuning="full", rank=1, kind="cuda")[0]
    assert found.fixed_bytes == pytest.approx(numbers * (4 + 4 + 4 + 8), rel=0.01)


def test_what_fits_is_judged_with_a_margin() -> None:
    need = Need("train, none", fixed_bytes=100, per_pair_bytes=40, floor_bytes=120, operations_per_pair=10**9)
    machine = Machine("cpu", 200, {torch.float32: 1e9})
    found = judged(need, machine, torch.float32)
    assert (found.pairs_that_fit, found.seconds_per_pair) == (2, 2.0)
    assert judged(need, replace(machine, available_bytes=149), torch.float32).pairs_that_fit == 0
    assert judged(replace(need, floor_bytes=500), machine, torch.float32).pairs_that_fit == 0
    assert (need.pairs_that_fit, need.memory_bytes(0), need.memory_bytes(3)) == (None, 120, 220)
    small = replace(found, per_pair_bytes=1)
    tight = replace(found, available_bytes=10)
    assert policy_that_fits([tight, small, small]) == "save-attention"
    assert policy_that_fits([tight, tight, tight]) is None


def test_this_machine_has_a_rate_and_memory() -> None:
    found = Machine.here(CPU, {torch.float32})
    assert found.kind == "cpu"
    assert found.available_bytes > 2**20
    assert found.rates[torch.float32] > 1e8


@pytest.mark.parametrize(
    ("text", "words"),
    [("480x832", "HEIGHTxWIDTHxFRAMES"), ("axbxc", "no size"), ("0x32x33", "no size"), ("33x32x33", "multiples of 4"),
     ("32x32x32", "4k \\+ 1")],
)  # fmt: skip
def test_a_wrong_size_is_explained(tiny_model_folder: Path, text: str, words: str) -> None:
    model = load_shapes(str(tiny_model_folder))
    assert Size.parse("32X32X33", model) == SIZE
    with pytest.raises(ConfigError, match=words):
        Size.parse(text, model)
