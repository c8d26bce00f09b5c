"""The trainer from Python: what it tells, saves, stops for, and that every setting that should train does.

Latents are small and random, so that a run of some steps takes a fraction of a second.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from tests.unit.training.reference_maker import SHAPE, make_items
from torch import Tensor, nn

from densedpo.errors import CheckpointError, ConfigError, TrainingError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model, load_tuned
from densedpo.observe import read_jsonl
from densedpo.store.files import sha256_file
from densedpo.training.callbacks import Callback
from densedpo.training.checkpoint import load_checkpoint
from densedpo.training.data import PairItem, Visit
from densedpo.training.draws import DrawLaw
from densedpo.training.guards import Alarm, Guards
from densedpo.training.heldout import HeldOut
from densedpo.training.objective import Part
from densedpo.training.optimizer import make_optimizer
from densedpo.training.options import DenseDPOConfig, TrainOutput, run_digest
from densedpo.training.reference import AdapterOff
from densedpo.training.trainer import DenseDPOTrainer

SMALL = {
    "max_steps": 4,
    "batch_size": 2,
    "micro_batch_size": 2,
    "lora_rank": 4,
    "warmup_steps": 0,
    "save_steps": 2,
    "eval_steps": 2,
    "learning_rate": 3e-3,
}
LOG_2 = 0.6931472
Make = Callable[..., DenseDPOTrainer]


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[PairItem]:
    return make_items(tmp_path_factory.mktemp("latents"), 8)


@pytest.fixture
def make(base: VideoModel, items: list[PairItem], tmp_path: Path) -> Make:
    """Make trainers of a copy of the base on six pairs, with two held out, by default in the folder ``run``."""

    def trainer(
        name: str = "run",
        callbacks: Sequence[Callback] = (),
        train: Sequence[PairItem] | None = None,
        held_out: Sequence[PairItem] | None = None,
        **changes: object,
    ) -> DenseDPOTrainer:
        config = DenseDPOConfig.model_validate({**SMALL, "output_dir": tmp_path / name, **changes})
        learning = items[:6] if train is None else train
        return DenseDPOTrainer(
            copy.deepcopy(base), config, learning, items[6:] if held_out is None else held_out, callbacks
        )

    return trainer


def rows_of(output: TrainOutput) -> list[dict[str, Any]]:
    return read_jsonl(output.saved.parent / "metrics.jsonl")


def lora_of(output: TrainOutput) -> dict[str, Tensor]:
    return load_file(output.saved / "pytorch_lora_weights.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def undo(folder: Path, *steps: int) -> None:
    """Take a run back to before these checkpoints and its end, as a kill would have left it."""
    for name in (*(f"checkpoints/step-{step}" for step in steps), "lora", "transformer"):
        shutil.rmtree(folder / name, ignore_errors=True)


def assert_resumes_exactly(make: Make, *starts: int, **changes: object) -> TrainOutput:
    """Train once, then a copy from the checkpoint of each of ``starts`` on: all files must be equal, bit for bit."""
    whole = make("whole", **changes).train()
    expected = contents(whole.saved.parent)
    for start in starts:
        folder = whole.saved.parent.with_name(f"from-{start}")
        shutil.copytree(whole.saved.parent, folder)
        undo(folder, *range(start + 1, whole.steps + 1))
        assert make(folder.name, **changes).train().resumed_from == start
        found = contents(folder)
        assert found.keys() == expected.keys()
        assert [name for name in expected if expected[name] != found[name]] == []
    return whole


class Recorder(Callback):
    """Notes what it was told, and by which name it goes."""

    def __init__(self, name: str = "", events: list[tuple[Any, ...]] | None = None) -> None:
        self.name, self.events = name, [] if events is None else events
        self.rows: list[dict[str, float]] = []

    def on_step(self, row: Mapping[str, float]) -> None:
        self.rows.append(dict(row))
        self.events.append((self.name, "step", row["step"]))

    def on_alarm(self, alarm: Alarm) -> None:
        self.events.append((self.name, "alarm", alarm.step))

    def on_save(self, checkpoint: Path) -> None:
        assert (checkpoint / "DONE").is_file()
        self.events.append((self.name, "save", int(checkpoint.name.removeprefix("step-"))))

    def on_end(self) -> None:
        self.events.append((self.name, "end"))


def alarm_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Plant an alarm at some steps, whatever the rows say."""

    def watch(_guards: Guards, row: Mapping[str, float]) -> list[Alarm]:
        step = int(row["step"])
        return [Alarm("planted", step, "it looks wrong; look at the test.")] if step in steps else []

    monkeypatch.setattr(Guards, "watch", watch)


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_callbacks_hear_everything_in_order(make: Make, tmp_path: Path) -> None:
    events: list[tuple[Any, ...]] = []
    first, second = Recorder("first", events), Recorder("second", events)
    log = tmp_path / "run" / "metrics.jsonl"

    class Reader(Callback):
        def on_step(self, row: Mapping[str, float]) -> None:
            assert read_jsonl(log)[-1] == dict(row)

    output = make(callbacks=[first, Reader(), second]).train()
    told: list[tuple[Any, ...]] = [
        ("step", 1),
        ("step", 2),
        ("save", 2),
        ("step", 3),
        ("step", 4),
        ("save", 4),
        ("end",),
    ]
    assert events == [(name, *what) for what in told for name in ("first", "second")]
    assert first.rows == rows_of(output)
    assert [("eval/rewards/accuracies" in row) for row in first.rows] == [False, True, False, True]


def test_callbacks_hear_the_end_of_a_run_that_failed(make: Make) -> None:
    recorder = Recorder()
    trainer = make(callbacks=[recorder])
    trainer.prepare()
    trainer.prepare = lambda: None  # type: ignore[method-assign]
    with torch.no_grad():
        trainer.parameters[0].mul_(float("nan"))
    trainer.config = trainer.config.model_copy(update={"self_check": False})
    with pytest.raises(TrainingError, match="not finite"):
        trainer.train()
    assert recorder.events == [("", "end")]


# -- what is trained and saved -----------------------------------------------------------------------------------------


def predict(model: VideoModel) -> Tensor:
    latents = noise((1, *SHAPE), 3, "test-predict")
    with torch.no_grad():
        return model.predict(latents, torch.tensor([0.6]), model.encode_text(["a red square"]))


@pytest.mark.parametrize("ema", [None, 0.7])
def test_full_tuning_saves_what_it_trained(make: Make, base: VideoModel, ema: float | None) -> None:
    trainer = make(tuning="full", learning_rate=1e-4, ema_decay=ema)
    output = trainer.train()
    rows = rows_of(output)
    assert output.saved.name == "transformer"
    assert rows[0]["loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert rows[-1]["rewards/margins"] != 0
    loaded = load_tuned(base.name, output.saved.parent, device="cpu")
    assert not torch.equal(predict(loaded), predict(base))
    if ema is None:
        for name, weight in trainer.model.denoiser.state_dict().items():
            assert torch.equal(loaded.denoiser.state_dict()[name], weight), name
        torch.testing.assert_close(predict(loaded), predict(trainer.model))
    else:
        assert not torch.equal(predict(loaded), predict(trainer.model))  # the average, not the last weights


def test_a_moving_average_is_what_is_saved(make: Make) -> None:
    decay, seen = 0.6, []
    trainer = make(ema_decay=decay)

    class Collector(Callback):
        def on_step(self, row: Mapping[str, float]) -> None:
            seen.append([weight.detach().clone() for weight in trainer.parameters])

    trainer.callbacks.append(Collector())
    output = trainer.train()
    shares = [decay ** (len(seen) - 1 - index) for index in range(len(seen))]
    names = [name.replace(".default.", ".") for name, w in trainer.model.denoiser.named_parameters() if w.requires_grad]
    saved = lora_of(output)
    for index, name in enumerate(names):
        expected = sum(share * weights[index] for share, weights in zip(shares, seen, strict=True)) / sum(shares)
        torch.testing.assert_close(saved[f"transformer.{name}"], expected, rtol=1e-5, atol=1e-7)
    last = load_checkpoint(output.saved.parent / "checkpoints" / "step-4").tensors
    assert all(torch.equal(last[f"weights.{n}"], w) for n, w in trainer.state.named.items())
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, seen[-1], strict=True))


def test_lora_targets_are_all_that_is_trained(make: Make) -> None:
    saved = lora_of(make(lora_targets="attn1.to_q,attn2.to_v").train())
    layers = {name.split(".lora_")[0].split(".", 3)[3] for name in saved}
    assert layers == {"attn1.to_q", "attn2.to_v"}
    with pytest.raises(ConfigError, match="to_nothing"):
        make("other", lora_targets="to_nothing").train()


def test_lora_alpha_is_the_factor_of_the_update(make: Make) -> None:
    """After B has moved, four times the alpha is four times the update."""
    changes = []
    for alpha in (4, 16):
        trainer = make(f"alpha-{alpha}", lora_alpha=alpha)
        trainer.prepare()
        with torch.no_grad():
            for weight in trainer.parameters:
                weight.copy_(0.01 * noise(tuple(weight.shape), 5, "test-alpha"))
        layer = trainer.model.denoiser.get_submodule("blocks.0.attn1.to_q")
        assert isinstance(layer, LoraLinear)
        entry = torch.ones(1, layer.in_features)
        with torch.no_grad():
            changes.append(layer(entry) - layer.base_layer(entry))
    torch.testing.assert_close(4 * changes[0], changes[1])


def test_seeds_decide_everything_that_is_drawn(make: Make) -> None:
    one, again, other = (make(name, seed=seed).train() for name, seed in (("one", 5), ("again", 5), ("other", 6)))
    assert contents(one.saved) == contents(again.saved)
    assert rows_of(one) == rows_of(again)
    assert contents(one.saved) != contents(other.saved)
    assert rows_of(one)[1]["loss"] != rows_of(other)[1]["loss"]


def test_seeds_decide_order_draws_and_initial_weights_alike(make: Make) -> None:
    parts: list[Part] = []

    def noting(load: Callable[..., Part]) -> Callable[..., Part]:
        def note(visits: Sequence[Visit], law: DrawLaw | None = None) -> Part:
            parts.append(load(visits, law))
            return parts[-1]

        return note

    one, other = (make(seed=seed, batch_size=6, micro_batch_size=6) for seed in (5, 6))
    for trainer in (one, other):
        trainer.prepare()
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))
    for trainer in (one, other):
        trainer.load = noting(trainer.load)  # type: ignore[method-assign]
        trainer.train_step(0)
    orders = [[item.pair_id for item in part.items] for part in parts]
    assert orders[0] != orders[1]
    of_one_pair = [part.draw.t[order.index("p0")] for part, order in zip(parts, orders, strict=True)]
    assert of_one_pair[0] != of_one_pair[1]


def test_a_model_may_be_given_by_name(
    items: list[PairItem], tiny_model_folder: Path, tmp_path: Path, make: Make
) -> None:
    config = DenseDPOConfig.model_validate({**SMALL, "output_dir": tmp_path / "named"})
    output = DenseDPOTrainer(str(tiny_model_folder), config, items[:6], items[6:]).train()
    assert contents(output.saved) == contents(make().train().saved)


# -- every loss --------------------------------------------------------------------------------------------------------

TERMS: list[dict[str, object]] = [
    {"loss_type": "sigmoid"},
    {"loss_type": "sigmoid", "label_smoothing": 0.2},
    {"loss_type": "robust", "label_smoothing": 0.2},
    {"loss_type": "ipo"},
    {"loss_type": "tie_aware"},
    {"loss_type": "sft"},
    {"loss_type": "sft_clip"},
    {"loss_type": "sigmoid,sft", "loss_weights": "1,5"},
    {"loss_type": "sigmoid,ipo", "loss_weights": "1,2"},
    {"loss_type": "sigmoid,robust,ipo,tie_aware,sft,sft_clip"},
    {"loss_type": "sigmoid", "dpop_lambda": 0.5},
    {"loss_type": "sigmoid", "sdpo_mu": 0.1},
    {"loss_type": "tie_aware,sft_clip", "averaging": "pair", "dpop_lambda": 0.5, "sdpo_mu": 0.5},
    {"loss_type": "sigmoid", "averaging": "pair", "confidence_weights": False},
]
AT_THE_START = {"sigmoid": LOG_2, "robust": LOG_2, "ipo": 0.25}


@pytest.mark.parametrize("method", ["dense", "dense_sum", "structural", "vanilla"])
def test_every_combination_of_losses_trains(make: Make, method: str) -> None:
    trainer = make(method=method)
    trainer.prepare()
    start = [weight.detach().clone() for weight in trainer.parameters]
    for changes in TERMS:
        settings = {**SMALL, "method": method, "output_dir": trainer.folder, **changes}
        trainer.config = DenseDPOConfig.model_validate(settings)
        trainer.optimizer = make_optimizer(trainer.parameters, trainer.config)
        with torch.no_grad():
            for weight, value in zip(trainer.parameters, start, strict=True):
                weight.copy_(value)
        rows = [trainer.train_step(step) for step in range(2)]
        terms = trainer.config.weighted_loss_types
        if all(name in AT_THE_START for name, _ in terms):
            expected = sum(factor * AT_THE_START[name] for name, factor in terms)
            assert rows[0]["loss"] == pytest.approx(expected, abs=1e-6), changes
        assert rows[0]["rewards/margins"] == 0
        assert rows[1]["rewards/margins"] != 0, changes
        assert all(torch.tensor(list(row.values())).isfinite().all() and row["grad_norm"] > 0 for row in rows), changes
        assert not any(torch.equal(a, b) for a, b in zip(trainer.parameters, start, strict=True)), changes


def test_ties_teach_where_the_loss_knows_them(make: Make, items: list[PairItem]) -> None:
    no_labels = (0.0,) * SHAPE[1]
    ties = [replace(i, frame_labels=no_labels, frame_ties=(True,) * SHAPE[1], clip_label=0.0) for i in items[:2]]
    with pytest.raises(TrainingError, match="none of 2 pairs has a preference"):
        make(train=ties)
    trainer = make(train=ties, loss_type="tie_aware", learning_rate=1e-4)
    trainer.prepare()
    with torch.no_grad():
        for weight in trainer.parameters:
            weight.add_(0.05 * noise(tuple(weight.shape), 1, "test-ties"))
    losses = [trainer.train_step(0)["loss"] for _ in range(4)]  # the same draws, so that the losses can be compared
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[3]  # held to the reference again


def test_sft_needs_no_labels(make: Make, items: list[PairItem]) -> None:
    unlabelled = [replace(i, frame_labels=(0.0,) * SHAPE[1], clip_label=0.0) for i in items[:2]]
    rows = rows_of(make(train=unlabelled, method="sft", max_steps=2, held_out=()).train())
    assert rows[1]["loss"] == rows[1]["policy_winner_error"]
    assert "rewards/margins" not in rows[0]


# -- settings of the draws and labels ----------------------------------------------------------------------------------


def test_t_limit_eta_draws_below_the_level_that_the_pair_was_made_from(make: Make, items: list[PairItem]) -> None:
    visits = [Visit(items[0], epoch) for epoch in range(50)]
    levels = {}
    for limit in ("none", "eta"):
        trainer = make(t_limit=limit)
        trainer.prepare()
        levels[limit] = trainer.load(visits).draw.t
    assert levels["eta"].max() <= items[0].eta < levels["none"].max()
    assert levels["eta"].unique().numel() == 50  # drawn anew, not cut off at eta


def test_frames_that_look_alike_count_as_ties(make: Make, items: list[PairItem], tmp_path: Path) -> None:
    masked: list[PairItem] = []
    dropped: list[PairItem] = []
    for number, item in enumerate(items[:4]):
        tensors = load_file(item.latents_path)
        alike = [0, 1] if number < 3 else list(range(SHAPE[1]))
        tensors["b"][:, alike] = tensors["a"][:, alike] + 0.01
        path = tmp_path / f"alike-{number}.safetensors"
        save_file(tensors, path)
        (masked if number < 3 else dropped).append(replace(item, latents_path=path, sha256_latents=sha256_file(path)))
    trainer = make("masked", train=[*masked, *dropped], latent_tie_rms=0.1, max_steps=3)
    rows = rows_of(trainer.train())
    assert [item.pair_id for item in trainer.items] == [
        item.pair_id for item in masked
    ]  # nothing is left of the fourth
    assert all(item.frame_labels[:2] == (0, 0) and all(item.frame_ties[:2]) for item in trainer.items)
    by_hand = [
        replace(i, frame_labels=(0.0, 0.0, *i.frame_labels[2:]), frame_ties=(True, True, *i.frame_ties[2:]))
        for i in masked
    ]
    assert rows == rows_of(make("by-hand", train=by_hand, max_steps=3).train())
    assert rows != rows_of(make("off", train=masked, max_steps=3).train())
    with pytest.raises(TrainingError, match="none of 1 pairs"):
        make("none", train=dropped, latent_tie_rms=0.1).train()


def test_pairs_of_two_lengths_train_together(make: Make, items: list[PairItem], tmp_path: Path) -> None:
    short = make_items(tmp_path / "short", 2, shape=(8, 3, 4, 4))
    short = [replace(item, pair_id=f"short-{item.pair_id}") for item in short]
    rows = rows_of(make(train=[*items[:2], *short], batch_size=4, micro_batch_size=4, dpop_lambda=0.0).train())
    assert rows[0]["loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert rows[0]["non_tie_frames"] == 2 * 4 + 2 * 3
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_auto_beta_switches_once_and_a_resumed_run_has_the_same(make: Make) -> None:
    changes = {"beta": "auto", "beta_target_z": 0.05, "max_steps": 14, "save_steps": 4, "save_total_limit": 9}
    before_and_after_the_switch = (8, 12)
    betas = [row["beta"] for row in rows_of(assert_resumes_exactly(make, *before_and_after_the_switch, **changes))]
    assert betas[:10] == [500.0] * 10
    assert len(set(betas[10:])) == 1 and betas[10] != 500.0


# -- the same numbers by other ways ------------------------------------------------------------------------------------


def test_checkpointing_of_activations_changes_no_result(make: Make) -> None:
    policies = ("none", "full", "save-attention", "auto")
    none, *others = (lora_of(make(p, activation_checkpointing=p, max_steps=2).train()) for p in policies)
    for other in others:
        for name, weight in none.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-6)


def test_fused_adamw_does_the_same_steps(make: Make) -> None:
    plain, fused = (lora_of(make(name, optim=name).train()) for name in ("adamw", "adamw_fused"))
    for name, weight in plain.items():
        torch.testing.assert_close(fused[name], weight, rtol=1e-2, atol=1e-4)


def test_parts_of_a_batch_change_no_result(make: Make) -> None:
    whole, parts = (lora_of(make(f"m{m}", batch_size=6, micro_batch_size=m, max_steps=2).train()) for m in (6, 1))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-4)


# -- the cached reference ----------------------------------------------------------------------------------------------

CACHED = {"precompute_ref_errors": True, "ref_draws": 2}


class Passes:
    """Counts how often a denoiser runs."""

    def __init__(self, trainer: DenseDPOTrainer) -> None:
        self.count = 0
        trainer.model.denoiser.register_forward_hook(self._note)

    def _note(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self.count += 1


def test_a_cached_reference_gives_the_live_ones_numbers(make: Make, tmp_path: Path) -> None:
    cached = make("cached", cache_dir=tmp_path / "cache", **CACHED)
    live = make("live", cache_dir=tmp_path / "cache", **CACHED)
    for trainer in (cached, live):
        trainer.prepare()
    live.reference = AdapterOff(live.model)
    passes = Passes(cached), Passes(live)
    for step in range(4):
        one, other = cached.train_step(step), live.train_step(step)
        assert one.keys() == other.keys()
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["rewards/margins"] == pytest.approx(other["rewards/margins"], rel=1e-3, abs=1e-4)
        if step == 0:
            assert one["loss"] == pytest.approx(LOG_2, abs=1e-5)
    assert [counted.count for counted in passes] == [4, 8]


def test_a_second_run_reads_the_cache_that_the_first_made(make: Make, tmp_path: Path) -> None:
    common = {**CACHED, "cache_dir": tmp_path / "cache"}
    first = make("first", **common)
    passes = Passes(first)
    first.prepare()
    assert passes.count == 3 * 2  # parts of two pairs, two draws of each
    files = contents(tmp_path / "cache")
    for changes in ({"seed": 9, "beta": 100.0}, {"method": "structural", "loss_type": "ipo", "learning_rate": 1e-5}):
        other = make("other", **common, **changes)
        passes = Passes(other)
        other.prepare()
        assert passes.count == 0
    assert contents(tmp_path / "cache") == files
    more = make("more", **{**common, "ref_draws": 3})
    passes = Passes(more)
    more.prepare()
    assert passes.count == 3 * 3  # other draws are other noise levels


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": "adamw_fused"},
        {**CACHED, "ema_decay": 0.9},
        {"tuning": "full", "ema_decay": 0.9, "learning_rate": 1e-4},
        {"early_stopping_patience": 3, "t_limit": "eta", "share_noise": False},
    ],
    ids=["fused", "cached-ema", "full-ema", "patience"],
)
def test_resume_is_exact(make: Make, changes: dict[str, object]) -> None:
    assert_resumes_exactly(make, 2, **changes)


def test_what_is_not_trained_may_change_on_resume(make: Make) -> None:
    whole = make("whole").train()
    shutil.copytree(whole.saved.parent, whole.saved.parent.with_name("part"))
    undo(whole.saved.parent.with_name("part"), 4)
    others = {"save_steps": 1, "guards": "off", "self_check": False, "eval_steps": 4, "eval_pairs": 1}
    resumed = make("part", activation_checkpointing="full", **others).train()
    assert resumed.resumed_from == 2
    assert contents(resumed.saved) == contents(whole.saved)


@pytest.mark.parametrize(
    "change",
    [
        {"frame_labels": (1.0, 1.0, -0.5, 0.0, 1.0)},
        {"frame_ties": (False,) * SHAPE[1]},
        {"clip_label": 0.5},
        {"caption": "a blue circle"},
        {"eta": 0.5},
        {"num_segments": 4},
        {"sha256_latents": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_pairs_are_another_run(items: list[PairItem], tmp_path: Path, change: dict[str, Any]) -> None:
    config = DenseDPOConfig.model_validate({**SMALL, "output_dir": tmp_path})
    own = run_digest(config, "base", items)
    assert run_digest(config, "base", [replace(items[0], **change), *items[1:]]) != own
    moved = replace(items[0], latents_path=tmp_path / "elsewhere.safetensors")
    assert run_digest(config, "base", [moved, *items[1:]]) == own


def test_a_folder_of_another_run_is_refused(make: Make, items: list[PairItem]) -> None:
    make().train()
    for changes in ({"beta": 100.0}, {"seed": 1}, {"train": items[:5]}):
        with pytest.raises(CheckpointError, match="other settings, labels or base model"):
            make(**changes).train()


# -- guards and early stopping -----------------------------------------------------------------------------------------


def test_a_guard_stops_the_run_at_the_last_good_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alarm_at(monkeypatch, 5)
    recorder = Recorder()
    changes = {"guards": "stop", "max_steps": 8, "save_total_limit": 9}
    output = make(callbacks=[recorder], **changes).train()
    assert output.steps == 5
    assert output.stopped is not None and "planted at step 5" in output.stopped and "look at the test" in output.stopped
    assert "what is written is the state of step 4, before the alarm" in capsys.readouterr().err
    assert recorder.events[-4:] == [("", "save", 4), ("", "step", 5), ("", "alarm", 5), ("", "end")]
    folder = output.saved.parent
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-4"]
    good = load_checkpoint(folder / "checkpoints" / "step-4").tensors
    saved = lora_of(output)
    for name, weight in good.items():
        if name.startswith("weights."):
            plain = name.removeprefix("weights.").replace(".default.", ".")
            assert torch.equal(saved[f"transformer.{plain}"], weight)
    before = contents(folder)
    again = make(**changes).train()
    assert (again.steps, again.resumed_from, again.stopped) == (5, 4, output.stopped)
    assert contents(folder) == before


@pytest.mark.parametrize("step", [4, 8], ids=["saving step", "last step"])
def test_the_state_of_the_alarm_itself_is_never_kept(make: Make, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    alarm_at(monkeypatch, step)
    output = make(guards="stop", max_steps=8, save_total_limit=9).train()
    kept = sorted(int(p.name.removeprefix("step-")) for p in (output.saved.parent / "checkpoints").iterdir())
    assert kept == list(range(2, step, 2))


def test_a_guard_that_stops_before_any_checkpoint_writes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    alarm_at(monkeypatch, 1)
    trainer = make(guards="stop")
    with pytest.raises(TrainingError, match=r"planted at step 1.*no checkpoint from before; nothing was written"):
        trainer.train()
    assert not (trainer.folder / "lora").exists()


def test_a_guard_that_warns_does_not_stop(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alarm_at(monkeypatch, 1, 3)
    recorder = Recorder()
    output = make("warned", callbacks=[recorder], guards="warn").train()
    assert output.stopped is None and output.steps == 4
    assert [event for event in recorder.events if event[1] == "alarm"] == [("", "alarm", 1), ("", "alarm", 3)]
    assert "step 3: planted: it looks wrong" in capsys.readouterr().err
    recorder = Recorder()
    off = make("off", callbacks=[recorder], guards="off").train()
    assert not [event for event in recorder.events if event[1] == "alarm"]
    assert contents(off.saved) == contents(output.saved)


def test_early_stopping_keeps_what_was_trained_until_then(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.5, 0.8, 0.8, 0.7, 0.9])

    def measure(_held_out: HeldOut, _beta: float) -> dict[str, float]:
        changes = {"eval/winner_change": 0.1, "eval/loser_change": 0.1, "eval/reference_winner_error": 1.0}
        return {"eval/rewards/accuracies": next(measured), **changes}

    monkeypatch.setattr(HeldOut, "measure", measure)
    trainer = make(max_steps=12, early_stopping_patience=2, save_steps=5)
    output = trainer.train()
    assert output.steps == 8 and len(rows_of(output)) == 8
    assert output.stopped is not None and "have not gained for 2 measurements" in output.stopped
    saved = lora_of(output)
    for name, weight in trainer.state.named.items():
        assert torch.equal(saved[f"transformer.{name.replace('.default.', '.')}"], weight)


def test_the_probe_measures_at_its_steps_and_at_the_end(make: Make) -> None:
    rows = rows_of(make(probe_steps=2, probe_prompts=2, max_steps=3).train())
    assert [any(name.startswith("probe/") for name in row) for row in rows] == [False, True, True]
