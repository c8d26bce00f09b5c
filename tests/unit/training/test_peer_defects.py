"""Defects found in other people's trainers, each planted here in a small twin: the check passes on ours, not on it.

Every ``check_...`` raises AssertionError. Two more are tested where they need several processes and a compiler:
``test_workers_that_never_synchronise_are_found`` in test_parallel.py, ``test_wrong_compiled_gradients_are_refused`` in
tests/unit/models/test_execution.py.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training.reference_maker import SHAPE, make_items, train_a_little
from torch import Tensor

from densedpo.clips.measure import measure
from densedpo.config import load_settings
from densedpo.errors import CheckpointError
from densedpo.keys import noise
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.judges.base import Judge, Judgement, SegmentPair
from densedpo.labels.judges.run import judge_pairs
from densedpo.miniworld.scenes import draw_scene, render, subjects
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import add_lora, load_lora, save_lora
from densedpo.models.text import TextCondition
from densedpo.models.wan import WanModel
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.beta import AutoBeta
from densedpo.training.checkpoint import load_checkpoint, save_checkpoint
from densedpo.training.data import LatentReader, PairLatents, Visit
from densedpo.training.draws import Draw, DrawLaw
from densedpo.training.loss import Errors, Labels, LossSpec, preference_loss, term_totals
from densedpo.training.objective import frame_errors, loss_spec, pair_errors
from densedpo.training.reference import AdapterOff

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> WanModel:
    model = load_model(str(tiny_model_folder), device="cpu")
    assert isinstance(model, WanModel)
    return model


@pytest.fixture
def trained(tiny_model_folder: Path) -> VideoModel:
    """A model whose adapter has moved."""
    model = load_model(str(tiny_model_folder), device="cpu")
    add_lora(model, rank=4, alpha=4, seed=0)
    train_a_little(model)
    return model


def decided(*labels: float) -> Labels:
    frames = torch.tensor([labels], dtype=torch.float64)
    no = torch.zeros(1, len(labels), dtype=torch.bool)
    return Labels(frames, no, frames[:, 0], no[:, 0])


# -- t and noise: VideoDPO, VideoDPO_wan -------------------------------------------------------------------------------

SideErrors = Callable[[VideoModel, Sequence[PairLatents], Draw, TextCondition], Errors]


def check_sides_are_measured_alike(model: VideoModel, law: DrawLaw, errors: SideErrors, folder: Path) -> None:
    """Two sides that are the same clip must have the same errors: whatever differs is not preference."""
    items = make_items(folder, 2)
    latents = [LatentReader().read(item) for item in items]
    equal = [replace(pair, b=pair.a) for pair in latents]
    text = model.encode_text([item.caption for item in items])
    draw = law.draw([Visit(item, 0) for item in items], SHAPE)
    with torch.no_grad():
        found = errors(model, equal, draw, text)
    torch.testing.assert_close(found.a, found.b, rtol=1e-4, atol=1e-6)


def own_timesteps(model: VideoModel, latents: Sequence[PairLatents], draw: Draw, text: TextCondition) -> Errors:
    """The twin: each side gets a noise level of its own."""
    sides = ((draw.t, "a"), (draw.t.flip(0) * 0.5, "b"))
    found = (
        frame_errors(model, torch.stack([getattr(pair, side) for pair in latents]), draw.noise_a, t, text)
        for t, side in sides
    )
    return Errors(*found)


def test_independent_noise_for_the_sides(base: WanModel, tmp_path: Path) -> None:
    ours = DrawLaw(seed=0, shift=3.0)
    check_sides_are_measured_alike(base, ours, pair_errors, tmp_path)
    check_sides_are_measured_alike(base, replace(ours, stored=4), pair_errors, tmp_path)
    with pytest.raises(AssertionError):
        check_sides_are_measured_alike(base, replace(ours, share_noise=False), pair_errors, tmp_path)


def test_independent_timesteps_for_the_sides(base: WanModel, tmp_path: Path) -> None:
    ours = DrawLaw(seed=0, shift=3.0)
    check_sides_are_measured_alike(base, ours, pair_errors, tmp_path)
    with pytest.raises(AssertionError):
        check_sides_are_measured_alike(base, ours, own_timesteps, tmp_path)


# -- errors: VideoDPO --------------------------------------------------------------------------------------------------

FrameErrors = Callable[[VideoModel, Tensor, Tensor, Tensor, TextCondition], Tensor]


def width_errors(model: VideoModel, clean: Tensor, drawn: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    """The twin: dimensions 1 to 3, right for images, leave one error a column of a video instead of one a frame."""
    prediction = model.predict(model.add_noise(clean, drawn, t), t, text)
    return (model.target(clean, drawn, t) - prediction).square().mean(dim=(1, 2, 3))


def check_one_error_a_frame(model: VideoModel, errors: FrameErrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in one latent frame must show in that frame's error alone; frames are as many as columns here."""
    monkeypatch.setattr(model, "predict", lambda latents, t, text: torch.zeros_like(latents))
    clean, t, text = (
        noise((1, 3, 5, 4, 5), 0, "test", "clean"),
        torch.tensor([0.5]),
        TextCondition({"hidden": torch.zeros(1, 1, 1)}),
    )
    drawn = torch.zeros_like(clean)
    changed = clean.clone()
    changed[:, :, 2] += 1
    moved = (errors(model, changed, drawn, t, text) - errors(model, clean, drawn, t, text)).abs() > 1e-6
    assert moved.tolist() == [[False, False, True, False, False]]
    exact = errors(model, clean, drawn, t, text)[0, 2]
    assert float(exact) == pytest.approx(float(clean[0, :, 2].square().mean()), rel=1e-5)


def test_error_averaged_over_width_axis(base: WanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_error_a_frame(base, frame_errors, monkeypatch)
    with pytest.raises(AssertionError):
        check_one_error_a_frame(base, width_errors, monkeypatch)


# -- loss: diffusers' early script, RealDPO, LongCat -------------------------------------------------------------------

Loss = Callable[[Errors, Errors, Labels, LossSpec], Tensor]


def our_loss(policy: Errors, reference: Errors, labels: Labels, spec: LossSpec) -> Tensor:
    return preference_loss(policy, reference, labels, spec).loss


def plain_margin(policy: Errors, reference: Errors, labels: Labels) -> Tensor:
    return -labels.frames.sign() * ((policy.a - reference.a) - (policy.b - reference.b))


def logistic_of_the_mean(policy: Errors, reference: Errors, labels: Labels, spec: LossSpec) -> Tensor:
    """The twin: the margins of the batch are averaged before the logistic."""
    return -torch.nn.functional.logsigmoid(0.5 * spec.beta * plain_margin(policy, reference, labels).mean())


def fixed_beta(policy: Errors, reference: Errors, labels: Labels, spec: LossSpec) -> Tensor:
    """The twin: what the user set is read and not used."""
    return -torch.nn.functional.logsigmoid(0.5 * 5000 * plain_margin(policy, reference, labels)).mean()


def beta_without_half(policy: Errors, reference: Errors, labels: Labels, spec: LossSpec) -> Tensor:
    """The twin: beta acts twice as strong as the same number elsewhere."""
    return -torch.nn.functional.logsigmoid(spec.beta * plain_margin(policy, reference, labels)).mean()


def check_one_logistic_a_label(loss: Loss) -> None:
    """A margin right by much and one wrong by as much are no match: the loss is convex, and far above log 2."""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    policy = Errors(torch.tensor([[-0.2, 0.2]], dtype=torch.float64), zero)
    found = float(loss(policy, Errors(zero, zero), decided(1, 1), LossSpec(beta=100)))
    assert found == pytest.approx((math.log1p(math.exp(-10)) + math.log1p(math.exp(10))) / 2, rel=1e-12)


def check_beta_sets_the_slope(loss: Loss) -> None:
    """At equality with the reference the gradient by the winner's error is beta / 4."""
    for beta in (1.0, 500.0):
        winner = torch.ones(1, 1, dtype=torch.float64).requires_grad_(True)
        ones = torch.ones(1, 1, dtype=torch.float64)
        loss(Errors(winner, ones), Errors(ones, ones), decided(1), LossSpec(beta=beta)).backward()
        assert winner.grad is not None and float(winner.grad) == pytest.approx(beta / 4, rel=1e-12)


def test_logistic_of_the_batch_mean() -> None:
    check_one_logistic_a_label(our_loss)
    with pytest.raises(AssertionError):
        check_one_logistic_a_label(logistic_of_the_mean)


def test_beta_flag_without_effect() -> None:
    check_beta_sets_the_slope(our_loss)
    with pytest.raises(AssertionError):
        check_beta_sets_the_slope(fixed_beta)
    # from the flag to the loss
    settings = load_settings(None, {"train.beta": 123.0}).train
    assert loss_spec(settings, AutoBeta(settings).value).beta == 123.0


def test_beta_without_the_usual_half() -> None:
    check_beta_sets_the_slope(our_loss)
    with pytest.raises(AssertionError):
        check_beta_sets_the_slope(beta_without_half)


# -- several workers: DanceGRPO's Wan script ---------------------------------------------------------------------------


def check_workers_take_one_step(worker_gradients: Callable[[Sequence[Tensor], Sequence[float]], list[Tensor]]) -> None:
    """After a step all workers must hold the weight that one worker with the whole batch holds.

    The model is one number: side a's error is its square. The first worker's pairs have three labels, the other's one.
    """
    batch = [decided(1, 1, 1), decided(-1, 0, 0)]
    spec = LossSpec(beta=3)

    def gradient(parts: Sequence[Labels], totals: Sequence[float] | None) -> Tensor:
        weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        frames = torch.cat([part.frames for part in parts])
        labels = Labels(frames, frames.isnan(), frames[:, 0], frames[:, 0].isnan())
        ones = torch.ones_like(frames)
        policy = Errors(weight.square() * ones, ones)
        preference_loss(policy, Errors(ones, ones), labels, spec, totals=totals).loss.backward()
        assert weight.grad is not None
        return weight.grad

    totals = [sum(total) for total in zip(*(term_totals(part, spec) for part in batch), strict=True)]
    whole = gradient(batch, None)
    mine = [gradient([part], totals) for part in batch]
    alone = [float(gradient([part], None)) for part in batch]
    for found in worker_gradients(mine, alone):
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=0)


def test_workers_that_never_synchronise() -> None:
    check_workers_take_one_step(lambda mine, alone: [torch.stack(list(mine)).sum()] * 2)
    with pytest.raises(AssertionError):  # each keeps its own gradient
        check_workers_take_one_step(lambda mine, alone: list(mine))
    with pytest.raises(AssertionError):  # a mean of means gives the worker with few labels too much weight
        check_workers_take_one_step(lambda mine, alone: [torch.tensor(sum(alone) / 2, dtype=torch.float64)] * 2)


# -- latents: VideoDPO_wan ---------------------------------------------------------------------------------------------


def multiplied(model: WanModel, video: Tensor) -> Tensor:
    """The twin: multiplies by the deviation where it must divide."""
    return (model.vae.encode(video).latent_dist.mode() - model._mean) * model._std


def check_latents_are_normalised(model: WanModel, encode: Callable[[Tensor], Tensor]) -> None:
    """Latents are what the VAE gives, less its mean, *divided* by its deviation; and decoding undoes it."""
    video = noise((1, 3, 5, 32, 32), 0, "test", "video").clamp(-1, 1)
    config = model.vae.config
    with torch.no_grad():
        raw, found = model.vae.encode(video).latent_dist.mode(), encode(video)
        for channel, (mean, std) in enumerate(zip(config["latents_mean"], config["latents_std"], strict=True)):
            torch.testing.assert_close(found[:, channel] * std + mean, raw[:, channel], rtol=1e-4, atol=1e-5)
        back = model.vae.decode(raw, return_dict=False)[0].clamp(-1, 1)
        torch.testing.assert_close(model.decode(found), back, rtol=1e-3, atol=1e-4)


def test_latents_multiplied_by_std(base: WanModel) -> None:
    assert any(abs(std - 1) > 0.1 for std in base.vae.config["latents_std"])
    check_latents_are_normalised(base, base.encode_video)
    with pytest.raises(AssertionError):
        check_latents_are_normalised(base, lambda video: multiplied(base, video))


# -- the reference: TRL's pre-pass -------------------------------------------------------------------------------------


def check_reference_is_the_base(model: VideoModel, base: VideoModel, measured: SideErrors, folder: Path) -> None:
    """The reference's errors must be those of the base that has no adapter, and the policy's must not."""
    [item] = make_items(folder, 1)
    latents, text = [LatentReader().read(item)], base.encode_text([item.caption])
    draw = DrawLaw(seed=0, shift=3.0).draw([Visit(item, 0)], SHAPE)
    with torch.no_grad():
        wanted, policy = pair_errors(base, latents, draw, text), pair_errors(model, latents, draw, text)
        found = measured(model, latents, draw, text)
    assert not torch.allclose(policy.a, wanted.a, rtol=1e-3)  # or the check could not fail
    torch.testing.assert_close(found.a, wanted.a, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.b, wanted.b, rtol=1e-5, atol=1e-7)


def adapter_off_reference(model: VideoModel, latents: Sequence[PairLatents], draw: Draw, text: TextCondition) -> Errors:
    return AdapterOff(model).errors((), latents, draw, text)


def test_reference_with_the_adapter_on(trained: VideoModel, base: WanModel, tmp_path: Path) -> None:
    check_reference_is_the_base(trained, base, adapter_off_reference, tmp_path)
    with pytest.raises(AssertionError):
        check_reference_is_the_base(trained, base, pair_errors, tmp_path)


def test_an_adapter_that_stays_off_after_the_reference(trained: VideoModel, base: WanModel, tmp_path: Path) -> None:
    """The other way round: a policy that is the base, and learns nothing."""
    save_lora(trained, tmp_path)
    adapter_off_reference(trained, *_inputs(base, tmp_path))
    other = load_model(str(base.folder), device="cpu")
    load_lora(other, tmp_path)
    with torch.no_grad():
        after, wanted = (pair_errors(model, *_inputs(base, tmp_path)) for model in (trained, other))
    torch.testing.assert_close(after.a, wanted.a, rtol=1e-5, atol=1e-7)
    trained.denoiser.disable_adapters()
    with torch.no_grad():
        assert not torch.allclose(pair_errors(trained, *_inputs(base, tmp_path)).a, wanted.a, rtol=1e-3)


def _inputs(model: VideoModel, folder: Path) -> tuple[list[PairLatents], Draw, TextCondition]:
    [item] = make_items(folder / "pairs", 1)
    draw = DrawLaw(seed=0, shift=3.0).draw([Visit(item, 0)], SHAPE)
    return [LatentReader().read(item)], draw, model.encode_text([item.caption])


# -- resume: DanceGRPO -------------------------------------------------------------------------------------------------


def resume_by_assertion(path: Path) -> None:
    """The twin: an error object is always true, so nothing is raised and the run starts anew."""
    if not (path / "DONE").is_file():
        assert CheckpointError(f"{path}: no DONE marker")  # type: ignore[truthy-bool]  # which is how mypy finds it


def check_a_half_checkpoint_is_an_error(load: Callable[[Path], Any], folder: Path) -> None:
    saved = save_checkpoint(folder, 1, {"w": torch.ones(2)}, {})
    (saved / "DONE").unlink()
    try:
        load(saved)
    except CheckpointError:
        return
    raise AssertionError("the damage went unseen")


def asserted_errors(source: str) -> list[int]:
    """Lines that assert a newly made error, or any other call whose result is always true by its name."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert)
        and isinstance(node.test, ast.Call)
        and isinstance(node.test.func, ast.Name)
        and node.test.func.id.endswith(("Error", "Exception"))
    ]


def test_resume_that_does_nothing(tmp_path: Path) -> None:
    check_a_half_checkpoint_is_an_error(load_checkpoint, tmp_path / "ours")
    with pytest.raises(AssertionError, match="unseen"):
        check_a_half_checkpoint_is_an_error(resume_by_assertion, tmp_path / "twin")
    found = {path.name: asserted_errors(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")}
    assert len(found) > 50 and not any(found.values())
    assert asserted_errors('def load(path):\n    assert NotImplementedError("resume")\n') == [2]


# -- compiled gradients: FastVideo -------------------------------------------------------------------------------------


class WrongBackward(torch.autograd.Function):
    """The twin: a compiled table whose value is right and whose gradient is half of it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        return table.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 2


def check_gradients_agree(table: Callable[[Tensor], Tensor]) -> None:
    """A loss through ``table`` must equal the loss without it, and so must every tensor's gradient."""
    found = []
    for through in (lambda values: values, table):
        modulation, weight = (noise((3,), 0, "test", name).double().requires_grad_(True) for name in ("m", "w"))
        policy = Errors((weight * through(modulation)).square()[None], torch.ones(1, 3, dtype=torch.float64))
        ones = torch.ones(1, 3, dtype=torch.float64)
        loss = preference_loss(policy, Errors(ones, ones), decided(1, -1, 1), LossSpec(beta=2)).loss
        loss.backward()
        found.append((loss.detach(), modulation.grad, weight.grad))
    plain, other = found
    assert float(plain[0]) == float(other[0]), "a gate on the loss alone sees nothing"
    for first, second in zip(plain[1:], other[1:], strict=True):
        assert first is not None and second is not None
        assert float((first - second).norm()) <= 1e-6 * float(first.norm()), "gradients differ"


def test_compiled_gradients() -> None:
    check_gradients_agree(torch.clone)
    with pytest.raises(AssertionError, match="gradients differ"):
        check_gradients_agree(WrongBackward.apply)


# -- judges: VideoAlign ------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """A judge that remembers what it was shown; ``believes`` is the twin's frame rate, whatever the clip's."""

    believes: float | None = None
    name: str = "recording"
    settings_digest: str = "one"
    parallel: int = 1
    shown: list[SegmentPair] = field(default_factory=list)

    def judge(self, pair: SegmentPair) -> Judgement:
        self.shown.append(replace(pair, fps=self.believes or pair.fps))
        return Judgement("tie")


def check_fps_is_the_clips(judge: Recording, root: Path) -> None:
    """What a judge is told must give a segment its true length in seconds."""
    project = Project(root)
    assert isinstance(judge, Judge)
    judge_pairs(project, judge, 1.0)
    rows = read_table(project.pairs_table)
    grids = [SegmentGrid(row["num_frames"], row["fps"], 1.0) for row in rows]
    lengths = [end - start for grid in grids for start, end in map(grid.bounds_s, range(grid.num_segments))]
    assert [len(pair.frames_a) / pair.fps for pair in judge.shown] == pytest.approx(lengths, rel=1e-6)


def test_wrong_fps_to_the_judge(pairs_project: Path) -> None:
    check_fps_is_the_clips(Recording(), pairs_project)
    with pytest.raises(AssertionError):
        check_fps_is_the_clips(Recording(believes=2.0, settings_digest="two"), pairs_project)


def test_fps_changes_what_is_measured() -> None:
    frames = render(draw_scene(subjects()[0], "peer-defects", 0))
    slow, fast = (measure(frames, fps).motion_px_s for fps in (8.0, 16.0))
    assert float(slow.max()) > 0
    assert fast.tolist() == pytest.approx((2 * slow).tolist(), rel=1e-5)
