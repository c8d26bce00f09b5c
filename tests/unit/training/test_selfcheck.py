"""The self-check passes what is sound, leaves everything as it was, and catches each fault planted here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from tests.unit.training.reference_maker import CAPTIONS, make_items, make_model, make_part, train_a_little
from torch import Tensor, nn

from densedpo.config import TrainSettings
from densedpo.errors import TrainingError
from densedpo.keys import noise
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.text import TextCondition
from densedpo.models.text_book import TextBook
from densedpo.store.project import Project
from densedpo.training import objective, reference
from densedpo.training.data import LatentReader, PairLatents, labels_of, load_items
from densedpo.training.draws import DrawLaw
from densedpo.training.loss import Errors, Labels, preference_loss
from densedpo.training.objective import Part, Reference
from densedpo.training.reference import AdapterOff, CachedReference, FrozenCopy, precompute
from densedpo.training.selfcheck import Check, _latent_scale, self_check

NAMES = {
    "latent scale", "step-0 margin", "shared t and noise", "label orientation", "reference without adapter",
    "gradients",
}  # fmt: skip
LAW = DrawLaw(seed=0, shift=3.0)
BETA = 500.0
SETTINGS: dict[str, dict[str, Any]] = {
    "dense": {},
    "vanilla": {"method": "vanilla"},
    "structural": {"method": "structural", "averaging": "pair"},
    "dense_sum": {"method": "dense_sum"},
    "robust": {"loss_type": ("robust",), "label_smoothing": 0.2, "confidence_weights": False},
    "ipo": {"loss_type": ("ipo",)},
    "ties and anchors": {"loss_type": ("tie_aware", "sft", "sft_clip"), "dpop_lambda": 1.0},
    "anchors alone": {"loss_type": ("sft", "sft_clip")},
    "clip anchor alone": {"loss_type": ("sft_clip",)},
    "sdpo": {"sdpo_mu": 0.1},
    "two noises": {"share_noise": False},
    "checkpointed": {"activation_checkpointing": "full"},
}  # fmt: skip


def settings_for(tuning: str, **changes: Any) -> TrainSettings:
    return TrainSettings(tuning=tuning, lora_rank=4, **changes)


class Run:
    """A model, its reference and one part, ready for the self-check."""

    def __init__(self, base: VideoModel, folder: Path, settings: TrainSettings) -> None:
        self.settings, self.folder = settings, folder
        self.model = make_model(base, settings)
        if settings.activation_checkpointing == "full":
            self.model.denoiser.enable_gradient_checkpointing()
        self.reference: Reference = (AdapterOff if settings.tuning == "lora" else FrozenCopy)(self.model)
        self.items = make_items(folder / "pairs", 3)
        self.texts = TextBook(base, CAPTIONS, folder / "texts")
        self.part = make_part(self.items, replace(LAW, share_noise=settings.share_noise), self.texts)

    def check(self) -> dict[str, Check]:
        checks = self_check(self.model, self.reference, self.part, self.settings, BETA)
        return {check.name: check for check in checks}

    def use_cache(self, folder: Path) -> None:
        law = replace(LAW, stored=2)
        self.reference = precompute(
            self.model, self.items, LatentReader(), self.texts, law, self.settings, folder / "cache"
        )
        self.part = make_part(self.items, law, self.texts)

    def fails(self, name: str, found: str = "") -> None:
        """Check that exactly this check fails, or at least this one where one fault has several effects."""
        with pytest.raises(TrainingError, match=rf"self-check failed: .*{name}: [^;]*{found}"):
            self.check()


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(params=["lora", "full"])
def run(request: pytest.FixtureRequest, base: VideoModel, tmp_path: Path) -> Run:
    return Run(base, tmp_path, settings_for(request.param))


@pytest.fixture
def lora_run(base: VideoModel, tmp_path: Path) -> Run:
    return Run(base, tmp_path, settings_for("lora"))


# -- what is sound passes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_sound_run_passes(kind: str, tuning: str, base: VideoModel, tmp_path: Path) -> None:
    run = Run(base, tmp_path, settings_for(tuning, **SETTINGS[kind]))
    assert run.check().keys() == NAMES


def test_without_a_preference_scale_and_gradients_are_checked(base: VideoModel, tmp_path: Path) -> None:
    assert Run(base, tmp_path, settings_for("lora", method="sft")).check().keys() == {"latent scale", "gradients"}


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch on its own rms_norm
def test_the_miniature_passes(tuning: str, dtype: str, tmp_path: Path) -> None:
    run = Run(load_model("miniature", device="cpu", dtype=dtype), tmp_path, settings_for(tuning, dtype=dtype))
    assert run.check()["step-0 margin"].detail.startswith("largest |logit| 0,")


def test_pairs_and_labels_of_a_project_pass(base: VideoModel, labelled_project: Path, tmp_path: Path) -> None:
    project = Project(labelled_project)
    run = Run(base, tmp_path, settings_for("lora"))
    snapshot = load_snapshot(latest_snapshot(project))
    items = load_items(project, snapshot, run.settings, "guided", run.model)
    texts = TextBook(run.model, {item.caption for item in items}, tmp_path / "captions")
    run.part = make_part(items[:4], LAW, texts)
    assert run.check().keys() == NAMES


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_cached_reference_passes(tuning: str, base: VideoModel, tmp_path: Path) -> None:
    run = Run(base, tmp_path, settings_for(tuning))
    run.use_cache(tmp_path)
    assert run.check().keys() == NAMES


# -- everything is left as it was --------------------------------------------------------------------------------------


def state(model: VideoModel) -> dict[str, Any]:
    weights = {name: weight.detach().clone() for name, weight in model.denoiser.state_dict().items()}
    gradients = {name: None if w.grad is None else w.grad.clone() for name, w in model.denoiser.named_parameters()}
    return {
        "weights": weights,
        "gradients": gradients,
        "trainable": [name for name, weight in model.denoiser.named_parameters() if weight.requires_grad],
        "modes": {name: module.training for name, module in model.denoiser.named_modules()},
        "attributes": set(vars(model)),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
    }


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    return bool(left == right)


@pytest.mark.parametrize("sound", [True, False])
def test_nothing_is_changed(run: Run, sound: bool) -> None:
    model = run.model
    trained = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    for weight in trained[::2]:
        weight.grad = torch.full_like(weight, 0.25)
    if not sound:
        trained[1].register_hook(lambda gradient: gradient * float("nan"))
    denoiser, before = model.denoiser, state(model)
    if sound:
        run.check()
    else:
        run.fails("gradients")
    assert equal(state(model), before)
    assert model.denoiser is denoiser


def test_nothing_is_changed_when_the_model_fails(run: Run) -> None:
    before, calls = state(run.model), 0
    predict = run.model.predict

    def failing(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # within the perturbed weights
            raise MemoryError
        return predict(latents, t, text)

    run.model.predict = failing  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run.check()
    del run.model.predict
    assert equal(state(run.model), before)


@pytest.mark.parametrize(("cached", "expected"), [(False, [4, 4, 4, 4]), (True, [6, 6])])
def test_what_goes_through_the_model(cached: bool, expected: list[int], lora_run: Run, tmp_path: Path) -> None:
    """Two pairs, or with stored errors the whole part of three, whose layout they were measured in."""
    if cached:
        lora_run.use_cache(tmp_path)
    sizes, predict = [], lora_run.model.predict

    def counted(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        sizes.append(len(latents))
        return predict(latents, t, text)

    lora_run.model.predict = counted  # type: ignore[method-assign]
    lora_run.check()
    assert sizes == expected


# -- 1: step-0 margin --------------------------------------------------------------------------------------------------


class Altered:
    """A reference with a fault."""

    def __init__(self, honest: Reference, alter: Callable[[Errors], Errors]) -> None:
        self._honest, self._alter = honest, alter

    def errors(self, visits: Any, latents: Any, draw: Any, text: TextCondition) -> Errors:
        return self._alter(self._honest.errors(visits, latents, draw, text))


def nudged(errors: Errors) -> Errors:
    a = errors.a.clone()
    a[1, 2] = torch.nextafter(a[1, 2], torch.tensor(9.0))
    return Errors(a, errors.b)


def cancelling(errors: Errors) -> Errors:
    """Shift two frames against each other, so that the mean margin stays 0."""
    shift = torch.zeros_like(errors.a)
    shift[0, 0], shift[0, 1] = 0.01, -0.01
    return Errors(errors.a + shift, errors.b)


@pytest.mark.parametrize("alter", [nudged, cancelling, lambda e: Errors(e.a * float("nan"), e.b)])
def test_a_reference_that_is_not_the_base_is_caught(run: Run, alter: Callable[[Errors], Errors]) -> None:
    run.reference = Altered(run.reference, alter)
    run.fails("step-0 margin")


def test_a_policy_that_is_not_the_base_is_caught(run: Run) -> None:
    train_a_little(run.model)
    run.fails("step-0 margin")


def test_a_reference_that_reads_the_sides_the_other_way_round_is_caught(run: Run) -> None:
    run.reference = Altered(run.reference, lambda errors: Errors(errors.b, errors.a))
    run.fails("step-0 margin")


@pytest.mark.parametrize(("shift", "sound"), [(2e-5, True), (1e-4, False)])
def test_a_cache_may_differ_by_the_stated_noise_alone(
    shift: float, sound: bool, lora_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora_run.use_cache(tmp_path)
    honest = CachedReference.errors
    monkeypatch.setattr(
        CachedReference,
        "errors",
        lambda self, *args: Errors((found := honest(self, *args)).a + shift, found.b),
    )
    if sound:
        assert lora_run.check().keys() == NAMES
    else:
        lora_run.fails("step-0 margin", r"at most 0\.01")


@pytest.mark.parametrize(("shift", "sound"), [(1e-4, True), (1e-3, False)])
def test_a_compiled_denoiser_may_round_with_and_without_a_graph(
    shift: float, sound: bool, base: VideoModel, tmp_path: Path
) -> None:
    run = Run(base, tmp_path, settings_for("lora", compile=True))
    run.reference = Altered(run.reference, lambda errors: Errors(errors.a + shift, errors.b))
    if sound:
        assert run.check().keys() == NAMES
    else:
        run.fails("step-0 margin", r"at most 0\.1 ")


# -- 2: shared t and noise ---------------------------------------------------------------------------------------------


def with_inputs(change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Errors]:
    """Return a wrong twin of ``pair_errors``: ``change`` alters clean latents, noise and t, each [2 B, ...]."""

    def pair_errors(model: VideoModel, latents: Any, draw: Any, text: TextCondition, *, cross: bool = False) -> Errors:
        clean = torch.stack([p.a for p in latents] + [p.b for p in latents])
        drawn, t = torch.cat([draw.noise_a, draw.noise_b]), torch.cat([draw.t, draw.t])
        clean, drawn, t = change(clean, drawn, t)
        left = objective.residuals(model, clean, drawn, t, TextCondition.cat([text, text]))
        return Errors(*left.square().mean(dim=(1, 3, 4)).chunk(2))

    return pair_errors


def other_noise(drawn: Tensor) -> Tensor:
    return torch.cat([drawn[: len(drawn) // 2], noise(tuple(drawn[len(drawn) // 2 :].shape), 3, "test-other")])


def swap(both: Tensor) -> Tensor:
    return torch.cat(both.chunk(2)[::-1])


FAULTY_INPUTS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "noise of its own for each side": lambda clean, drawn, t: (clean, other_noise(drawn), t),
    "noise rolled by one pair": lambda clean, drawn, t: (clean, torch.cat([drawn[:2], drawn[2:].roll(1, 0)]), t),
    "t of its own for each side": lambda clean, drawn, t: (clean, drawn, torch.cat([t[:2], t[2:].flip(0)])),
    "t of both sides not as drawn": lambda clean, drawn, t: (clean, drawn, t * 0.999),
    "a little more t on one side": lambda clean, drawn, t: (clean, drawn, torch.cat([t[:2], t[2:] + 1e-6])),
    "sides swapped": lambda clean, drawn, t: (swap(clean), drawn, t),
    "one side twice": lambda clean, drawn, t: (torch.cat([clean[:2], clean[:2]]), drawn, t),
}


@pytest.mark.parametrize("fault", FAULTY_INPUTS)
def test_inputs_other_than_drawn_are_caught(fault: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (objective, reference):
        monkeypatch.setattr(module, "pair_errors", with_inputs(FAULTY_INPUTS[fault]))
    run.fails("shared t and noise")


def test_the_twin_without_a_fault_passes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (objective, reference):
        monkeypatch.setattr(module, "pair_errors", with_inputs(lambda *inputs: inputs))
    assert run.check().keys() == NAMES


def test_shared_noise_is_caught_where_two_are_set(base: VideoModel, tmp_path: Path) -> None:
    run = Run(base, tmp_path, settings_for("lora", share_noise=False))
    run.part = make_part(run.items, LAW, run.texts)
    run.fails("shared t and noise", "two noises wanted")


def test_a_draw_of_two_noises_is_caught_where_one_is_set(lora_run: Run) -> None:
    lora_run.part = make_part(lora_run.items, replace(LAW, share_noise=False), lora_run.texts)
    lora_run.fails("shared t and noise", "one noise wanted")


def test_a_reference_with_inputs_of_its_own_is_caught(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = with_inputs(lambda clean, drawn, t: (clean, noise(tuple(clean.shape), 9, "test-fresh"), t))
    monkeypatch.setattr(reference, "pair_errors", fresh)
    run.fails("shared t and noise", "policy and reference")


def test_a_pass_of_one_side_alone_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_side(model: VideoModel, latents: Any, draw: Any, text: TextCondition, *, cross: bool = False) -> Errors:
        clean = torch.stack([p.a for p in latents])
        errors = objective.frame_errors(model, clean, draw.noise_a, draw.t, text)
        return Errors(errors, errors)

    for module in (objective, reference):
        monkeypatch.setattr(module, "pair_errors", one_side)
    with pytest.raises(TrainingError, match="2 inputs for 4 latents"):
        lora_run.check()


# -- 3: reference without adapter --------------------------------------------------------------------------------------


def test_a_reference_with_the_adapter_on_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_run.model.denoiser, "disable_adapters", lambda: None)
    lora_run.fails("reference without adapter", "the reference moves too")


def test_one_layer_with_the_adapter_on_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [module for module in lora_run.model.denoiser.modules() if hasattr(module, "enable_adapters")]
    layer = next(module for module in layers if module is not lora_run.model.denoiser)
    monkeypatch.setattr(layer, "enable_adapters", lambda enabled: None)
    lora_run.fails("reference without adapter", "the reference moves too")


def test_a_copy_that_shares_weights_is_caught(base: VideoModel, tmp_path: Path) -> None:
    run = Run(base, tmp_path, settings_for("full"))
    assert isinstance(run.reference, FrozenCopy)
    run.reference.denoiser = run.model.denoiser
    run.fails("reference without adapter", "the reference moves too")


def test_a_policy_with_the_adapter_off_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_run.model.denoiser, "enable_adapters", lambda: None)
    lora_run.fails("reference without adapter", "does not move")


# -- 4: label orientation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if kind != "clip anchor alone"])
def test_labels_the_other_way_round_are_caught(
    kind: str, base: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(base, tmp_path, settings_for("lora", **SETTINGS[kind]))

    def negated(items: Any, device: torch.device) -> Labels:
        labels = labels_of(items, device)
        return replace(labels, frames=-labels.frames, clip=-labels.clip)

    monkeypatch.setattr(objective, "labels_of", negated)
    run.fails("label orientation", "pairs p0, p1")


@pytest.mark.parametrize("method", ["dense", "dense_sum", "vanilla", "structural"])
def test_policy_and_reference_in_each_others_place_are_caught(
    method: str, base: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong sign of the margin: the loss then teaches the loser."""
    run = Run(base, tmp_path, settings_for("lora", method=method))

    def wrong(policy: Errors, before: Errors, *args: Any, **kwargs: Any) -> Any:
        mirrored = Errors(2 * before.a - policy.a, 2 * before.b - policy.b)
        return preference_loss(mirrored, before, *args, **kwargs)

    monkeypatch.setattr(objective, "preference_loss", wrong)
    run.fails("label orientation")


def test_labels_a_frame_late_are_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(items: Any, device: torch.device) -> Labels:
        labels = labels_of(items, device)
        return replace(labels, frames=labels.frames.roll(1, 1), frame_ties=labels.frame_ties.roll(1, 1))

    monkeypatch.setattr(objective, "labels_of", late)
    lora_run.fails("label orientation")


def test_labels_of_another_pair_are_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "labels_of", lambda items, device: labels_of(items[::-1], device))
    lora_run.fails("label orientation")


def test_a_loss_that_moves_one_side_the_wrong_way_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides pulled up, the loser more: the margin looks right."""

    def wrong(policy: Errors, before: Errors, labels: Labels, *args: Any, **kwargs: Any) -> Any:
        output = preference_loss(policy, before, labels, *args, **kwargs)
        worse = (policy.a - policy.a.detach()).sum() + (policy.b - policy.b.detach()).sum()
        return replace(output, loss=output.loss - 1000 * worse)

    monkeypatch.setattr(objective, "preference_loss", wrong)
    lora_run.fails("label orientation")


def test_a_loss_that_no_label_reaches_is_caught(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(policy: Errors, *args: Any, **kwargs: Any) -> Any:
        return replace(preference_loss(policy, *args, **kwargs), loss=0.0 * policy.a.sum())

    monkeypatch.setattr(objective, "preference_loss", deaf)
    run.fails("label orientation", "8 of 8 decided frames")


# -- 5: latent scale ---------------------------------------------------------------------------------------------------


def wan_2_1_deviations() -> Tensor:
    """Return the published latents_std of the Wan 2.1 VAE, which are the defaults of diffusers' class."""
    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    return torch.tensor(vae.config["latents_std"])


def part_of_scale(run: Run, deviation: Tensor, side: str) -> Part:
    """Return a part of latents whose channels have these deviations on one side, 1 on the others."""
    channels = len(deviation)

    def draw(number: int, name: str) -> Tensor:
        scale = deviation if name == side else torch.ones(channels)
        return scale.view(-1, 1, 1, 1) * noise((channels, 5, 8, 8), 0, "test-scale", number, name)

    pairs = [PairLatents(*(draw(number, name) for name in ("clip", "a", "b"))) for number in range(3)]
    return replace(run.part, latents=pairs)


@pytest.mark.parametrize("side", ["clip", "a", "b"])
@pytest.mark.parametrize("own", [1.0, 0.5, 0.3])
def test_latents_multiplied_by_wans_deviations_are_caught(own: float, side: str, lora_run: Run) -> None:
    """(z - mean) * std instead of / std is std^2 too large; ``own`` is the deviation of the clips themselves."""
    squared = wan_2_1_deviations().square()
    assert len(squared) == 16 and 1.2 < squared.min() < squared.max() < 11
    assert _latent_scale(part_of_scale(lora_run, own * torch.ones(16), side)).passed
    check = _latent_scale(part_of_scale(lora_run, own * squared, side))
    assert not check.passed and side in check.detail


def test_a_wrong_scale_stops_the_run(run: Run) -> None:
    deviation = wan_2_1_deviations()[:8].square().view(-1, 1, 1, 1)
    wrong = [PairLatents(p.clip * deviation, p.a * deviation, p.b * deviation) for p in run.part.latents]
    run.part = replace(run.part, latents=wrong)
    run.fails("latent scale", ".*latents_std")


@pytest.mark.parametrize("scale", [0.0, 0.001])
def test_latents_without_content_are_caught(scale: float, lora_run: Run) -> None:
    assert not _latent_scale(part_of_scale(lora_run, scale * torch.ones(8), "clip")).passed


def test_one_channel_out_of_range_is_enough(lora_run: Run) -> None:
    deviation = torch.ones(8)
    deviation[5] = 4.0
    assert not _latent_scale(part_of_scale(lora_run, deviation, "b")).passed


# -- 6: gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "found"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "zero")]
)
def test_a_bad_gradient_names_its_tensor(fault: float, found: str, run: Run) -> None:
    name, weight = [(n, w) for n, w in run.model.denoiser.named_parameters() if w.requires_grad][3]
    weight.register_hook(lambda gradient: torch.full_like(gradient, fault))
    run.fails("gradients", rf".*{name} \({found}\)")


def test_one_bad_number_in_a_gradient_is_enough(run: Run) -> None:
    weight = [w for w in run.model.denoiser.parameters() if w.requires_grad][-1]

    def spoil(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[-1] = float("nan")
        return gradient

    weight.register_hook(spoil)
    run.fails("gradients", ".*not finite")


def test_a_weight_outside_the_graph_is_caught(run: Run) -> None:
    run.model.denoiser.register_parameter("forgotten", nn.Parameter(torch.ones(2)))
    run.fails("gradients", r".*forgotten \(none\)")


def test_nothing_trainable_is_caught(lora_run: Run) -> None:
    lora_run.settings = lora_run.settings.model_copy(update={"method": "sft"})
    lora_run.model.denoiser.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing is trainable"):
        lora_run.check()


def test_a_policy_without_a_graph_is_caught(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = objective.pair_errors

    def ungraded(*args: Any, **kwargs: Any) -> Errors:
        with torch.no_grad():
            return honest(*args, **kwargs)

    monkeypatch.setattr(objective, "pair_errors", ungraded)
    lora_run.fails("shared t and noise", "0 inputs for 4 latents")


# -- what is said ------------------------------------------------------------------------------------------------------


def test_every_failed_check_is_named_in_one_line(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_run.model.denoiser, "disable_adapters", lambda: None)
    lora_run.model.denoiser.register_parameter("forgotten", nn.Parameter(torch.ones(2)))
    with pytest.raises(TrainingError) as caught:
        lora_run.check()
    message = str(caught.value)
    assert "reference without adapter: " in message and "gradients: " in message and "nothing was trained" in message
    assert "step-0 margin" not in message and "\n" not in message
