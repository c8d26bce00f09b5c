"""References: what they measure, what leaves them alone, and a cache that is exact, resumable and never stale."""

from __future__ import annotations

import json
import math
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.training.reference_maker import CAPTIONS, SHAPE, make_items, make_model, make_part, train_a_little
from torch import Tensor

from densedpo.config import TrainSettings
from densedpo.diffusion.grid import shift_level
from densedpo.errors import CheckpointError, TrainingError
from densedpo.keys import content_id
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.text import TextCondition
from densedpo.models.text_book import TextBook
from densedpo.training.data import LatentReader, PairItem, Visit
from densedpo.training.draws import DrawLaw
from densedpo.training.loss import Errors
from densedpo.training.objective import Part, Reference, pair_errors
from densedpo.training.parallel import Parallel
from densedpo.training.reference import (
    MAX_LOGIT_NOISE,
    AdapterOff,
    CachedReference,
    FrozenCopy,
    Payback,
    precompute,
    verify,
)

DRAWS = 3
LORA = TrainSettings(tuning="lora", lora_rank=4, micro_batch_size=2, ref_draws=DRAWS)
FULL = LORA.model_copy(update={"tuning": "full"})
LAW = DrawLaw(seed=0, shift=3.0, stored=DRAWS)


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def texts(base: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> TextBook:
    return TextBook(base, CAPTIONS, tmp_path_factory.mktemp("texts"))


@pytest.fixture
def lora(base: VideoModel) -> VideoModel:
    return make_model(base, LORA)


@pytest.fixture
def full(base: VideoModel) -> VideoModel:
    return make_model(base, FULL)


@pytest.fixture
def items(tmp_path: Path) -> list[PairItem]:
    return make_items(tmp_path / "pairs", 5)


def measure(
    model: VideoModel,
    items: list[PairItem],
    texts: TextBook,
    cache: Path,
    law: DrawLaw = LAW,
    settings: TrainSettings = LORA,
) -> CachedReference:
    return precompute(model, items, LatentReader(), texts, law, settings, cache)


def ask(reference: Reference, part: Part) -> Errors:
    return reference.errors(part.visits, part.latents, part.draw, part.text)


def same(left: Errors, right: Errors) -> bool:
    return torch.equal(left.a, right.a) and torch.equal(left.b, right.b)


def policy_errors(model: VideoModel, part: Part) -> Errors:
    with torch.no_grad():
        return pair_errors(model, part.latents, part.draw, part.text)


class StoppedError(Exception):
    pass


@contextmanager
def failing_after(model: VideoModel, passes: int) -> Iterator[list[int]]:
    """Let the model do ``passes`` forward passes, then fail; the list counts them."""
    predict, count = model.predict, [0]

    def counted(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        if count[0] == passes:
            raise StoppedError
        count[0] += 1
        return predict(latents, t, text)

    model.predict = counted  # type: ignore[method-assign]
    try:
        yield count
    finally:
        model.predict = predict  # type: ignore[method-assign]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- live references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tuning", "kind"), [("lora", AdapterOff), ("full", FrozenCopy)])
def test_training_moves_the_policy_and_not_the_reference(
    tuning: str,
    kind: type[AdapterOff] | type[FrozenCopy],
    items: list[PairItem],
    texts: TextBook,
    request: pytest.FixtureRequest,
) -> None:
    model: VideoModel = request.getfixturevalue(tuning)
    part = make_part(items[:2], LAW, texts)
    base = policy_errors(model, part)
    reference = kind(model)
    assert same(ask(reference, part), base)
    train_a_little(model)
    assert same(ask(reference, part), base)
    assert not same(policy_errors(model, part), base)
    assert not ask(reference, part).a.requires_grad


@pytest.mark.parametrize(("tuning", "kind"), [("lora", AdapterOff), ("full", FrozenCopy)])
def test_the_policy_comes_back_when_the_reference_fails(
    tuning: str,
    kind: type[AdapterOff] | type[FrozenCopy],
    items: list[PairItem],
    texts: TextBook,
    request: pytest.FixtureRequest,
) -> None:
    model: VideoModel = request.getfixturevalue(tuning)
    part = make_part(items[:2], LAW, texts)
    reference, denoiser = kind(model), model.denoiser
    train_a_little(model)
    before = policy_errors(model, part)
    with failing_after(model, 0), pytest.raises(StoppedError):
        ask(reference, part)
    assert model.denoiser is denoiser
    assert same(policy_errors(model, part), before)


def test_a_frozen_copy_shares_no_weight(full: VideoModel) -> None:
    copied = FrozenCopy(full).denoiser
    ours = {weight.data_ptr() for weight in full.denoiser.parameters()}
    assert not ours & {weight.data_ptr() for weight in copied.parameters()}
    assert not any(weight.requires_grad for weight in copied.parameters())


# -- the cache: exact --------------------------------------------------------------------------------------------------


def test_cached_errors_equal_live_ones_bit_for_bit_in_the_same_layout(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    train_a_little(lora)  # a pre-pass with the adapter on would poison the cache
    cached = measure(lora, items, texts, tmp_path / "cache")
    live = AdapterOff(lora)
    for start in range(0, len(items), LORA.micro_batch_size):
        group = items[start : start + LORA.micro_batch_size]
        part = make_part(group, LAW, texts)
        for index in range(DRAWS):
            drawn = replace(part, draw=LAW.stored_draws(group, [index] * len(group), SHAPE))
            assert same(ask(cached, drawn), ask(live, drawn))


@pytest.mark.parametrize(("batch_size", "sizes"), [(16, [6, 4]), (2, [4, 4, 2])])
def test_pairs_are_measured_as_many_at_once_as_in_training(
    batch_size: int, sizes: list[int], lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    settings = LORA.model_copy(update={"micro_batch_size": 3, "batch_size": batch_size})
    found, predict = [], lora.predict

    def counted(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        found.append(len(latents))
        return predict(latents, t, text)

    lora.predict = counted  # type: ignore[method-assign]
    measure(lora, items, texts, tmp_path, settings=settings)
    assert found == [size for size in sizes for _ in range(DRAWS)]


def test_full_tuning_can_do_without_a_copy(
    full: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    frozen = FrozenCopy(full)
    cached = measure(full, items[:2], texts, tmp_path / "cache", settings=FULL)
    train_a_little(full)
    for index in range(DRAWS):
        part = replace(make_part(items[:2], LAW, texts), draw=LAW.stored_draws(items[:2], [index, index], SHAPE))
        assert same(ask(cached, part), ask(frozen, part))


def test_each_visit_gets_the_errors_of_its_own_draw_and_the_model_never_runs(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    cached = measure(lora, items, texts, tmp_path / "cache")
    met: dict[str, list[int]] = {item.pair_id: [] for item in items}
    for epoch in range(DRAWS):
        part = make_part(items, LAW, texts, epoch)
        with failing_after(lora, 0):
            found = ask(cached, part)
        assert part.draw.stored is not None
        for row, (item, index) in enumerate(zip(items, part.draw.stored, strict=True)):
            stored = load_file(cached.folder / f"{item.pair_id}.safetensors")
            assert torch.equal(found.a[row], stored["a"][index]) and torch.equal(found.b[row], stored["b"][index])
            assert stored["t"][index] == part.draw.t[row]
            met[item.pair_id].append(index)
    assert all(sorted(indices) == list(range(DRAWS)) for indices in met.values())
    # the five pairs do not all meet their draws in one order, so the rows above were looked up one by one
    assert len({tuple(indices) for indices in met.values()}) > 1


@pytest.mark.parametrize("limit_to_eta", [False, True])
def test_stored_draws_cover_every_stratum(
    limit_to_eta: bool, lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    law = DrawLaw(seed=0, shift=3.0, limit_to_eta=limit_to_eta, stored=8)
    cached = measure(lora, items[:2], texts, tmp_path / "cache", law)
    eta = items[0].eta if limit_to_eta else 1.0

    def share(t: float) -> float:
        """Return the share of the law below ``t``."""
        plain = shift_level(t, 1 / 3.0)
        return NormalDist().cdf(math.log(plain / (1 - plain))) if plain < 1 else 1.0

    for item in items[:2]:
        levels = load_file(cached.folder / f"{item.pair_id}.safetensors")["t"].tolist()
        assert [int(8 * share(t) / share(eta)) for t in levels] == list(range(8))
        assert max(levels) <= eta


# -- the cache: resumable ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [0, 1, DRAWS, DRAWS + 2, 3 * DRAWS - 1])
def test_a_killed_pass_goes_on_and_equals_one_that_was_not(
    passes: int, lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    whole = measure(lora, items, texts, tmp_path / "whole")
    with failing_after(lora, passes), pytest.raises(StoppedError):
        measure(lora, items, texts, tmp_path / "killed")
    with failing_after(lora, -1) as count:
        resumed = measure(lora, items, texts, tmp_path / "killed")
    assert contents(resumed.folder) == contents(whole.folder)
    assert count[0] == 3 * DRAWS - passes // DRAWS * DRAWS  # whole parts are not measured again
    with failing_after(lora, 0):
        measure(lora, items, texts, tmp_path / "killed")


@pytest.mark.parametrize("damage", ["half", "bit", "other format", "no facts", "lacks b", "empty", "odd facts"])
def test_damaged_files_are_measured_again(
    damage: str,
    lora: VideoModel,
    items: list[PairItem],
    texts: TextBook,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cached = measure(lora, items, texts, tmp_path)
    before = contents(cached.folder)
    path = cached.folder / "p1.safetensors"
    data = path.read_bytes()
    if damage == "half":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "bit":  # in the numbers, where the format itself would not notice
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other format":
        path.write_text("not tensors")
    elif damage == "no facts":
        save_file(load_file(path), path)
    elif damage == "odd facts":
        save_file(load_file(path), path, {"densedpo": "[1]"})
    else:
        tensors = load_file(path)
        del tensors["b"]
        save_file(tensors, path)
    untouched = (cached.folder / "p4.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    again = measure(lora, items, texts, tmp_path)
    assert contents(again.folder) == before
    assert (cached.folder / "p4.safetensors").stat().st_mtime_ns == untouched
    assert "p1.safetensors: damaged" in capsys.readouterr().err


def test_two_processes_share_the_work(
    base: VideoModel, lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    alone = measure(lora, items, texts, tmp_path / "alone")
    barrier, passes = threading.Barrier(2, timeout=60), [0, 0]
    models = [make_model(base, LORA) for _ in range(2)]

    class OneOfTwo(Parallel):
        def __init__(self, rank: int) -> None:
            self.rank, self.world, self._sharded = rank, 2, False

        def wait(self) -> None:
            barrier.wait()

    def work(rank: int) -> None:
        with failing_after(models[rank], -1) as count:
            precompute(models[rank], items, LatentReader(), texts, LAW, LORA, tmp_path / "shared", OneOfTwo(rank))
            # what the other one measured is there when the call returns
            assert len(list((tmp_path / "shared").rglob("*.safetensors"))) == len(items)
        passes[rank] = count[0]

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert passes == [2 * DRAWS, DRAWS]
    assert contents(next((tmp_path / "shared" / "reference").iterdir())) == contents(alone.folder)


# -- the cache: never stale --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["latents", "caption"])
def test_a_file_of_other_latents_or_text_is_refused(
    change: str, lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    cached = measure(lora, items, texts, tmp_path)
    if change == "latents":
        other = make_items(tmp_path / "others", 6)[5]
        new = replace(items[1], latents_path=other.latents_path, sha256_latents=other.sha256_latents)
    else:
        new = replace(items[1], caption=CAPTIONS[0])
    with pytest.raises(TrainingError, match=r"pair p1: .*other latents or another caption.*remove"):
        measure(lora, [items[0], new, *items[2:]], texts, tmp_path)
    with pytest.raises(TrainingError, match="pair p1"):
        ask(CachedReference(cached.folder, DRAWS), make_part([new], LAW, texts))


def test_a_lookup_without_a_file_or_at_another_level_is_refused(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    cached = measure(lora, items[:2], texts, tmp_path)
    with pytest.raises(TrainingError, match=r"pair p2: .*missing"):
        ask(cached, make_part(items[2:3], LAW, texts))
    part = make_part(items[:1], LAW, texts)
    with pytest.raises(TrainingError, match=r"pair p0: .*noise level"):
        ask(cached, replace(part, draw=replace(part.draw, t=part.draw.t * 1.0001)))


def folder_for(
    model: VideoModel, items: list[PairItem], texts: TextBook, cache: Path, law: DrawLaw, settings: TrainSettings
) -> Path:
    return measure(model, items, texts, cache, law, settings).folder


@pytest.mark.parametrize(
    "law",
    [replace(LAW, stored=2), replace(LAW, shift=1.0), replace(LAW, share_noise=False), replace(LAW, limit_to_eta=True)],
)
def test_every_property_of_the_law_has_a_cache_of_its_own(
    law: DrawLaw, lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    plain = folder_for(lora, items[:1], texts, tmp_path, LAW, LORA)
    assert folder_for(lora, items[:1], texts, tmp_path, law, LORA) != plain


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"attention_backend": "native"}, {"micro_batch_size": 3}, {"compile": True}]
)
def test_every_setting_that_changes_numbers_has_a_cache_of_its_own(
    change: dict[str, object], lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    plain = folder_for(lora, items[:1], texts, tmp_path, LAW, LORA)
    assert folder_for(lora, items[:1], texts, tmp_path, LAW, LORA.model_copy(update=change)) != plain


def test_another_base_and_another_torch_have_caches_of_their_own(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [measure(lora, items[:1], texts, tmp_path).folder]
    monkeypatch.setattr(lora, "fingerprint", "another")
    folders.append(measure(lora, items[:1], texts, tmp_path).folder)
    monkeypatch.setattr(torch, "__version__", "99.0.0")
    folders.append(measure(lora, items[:1], texts, tmp_path).folder)
    lora.denoiser.bfloat16()
    monkeypatch.setattr(lora, "dtype", torch.bfloat16)
    folders.append(measure(lora, items[:1], texts, tmp_path).folder)
    assert len(set(folders)) == 4
    for folder in folders:
        facts = json.loads((folder / "info.json").read_text())
        assert folder.name == content_id("reference", facts)


def test_seed_beta_and_rate_use_one_cache(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    plain = measure(lora, items, texts, tmp_path).folder
    other = LORA.model_copy(update={"beta": 100.0, "learning_rate": 1.0, "loss_type": ("ipo",), "max_steps": 9})
    with failing_after(lora, 0):
        assert measure(lora, items, texts, tmp_path, replace(LAW, seed=5), other).folder == plain


def test_a_non_number_is_refused_and_not_kept(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    honest = lora.target

    def target(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return honest(clean, noise, t) + torch.tensor([0.0, float("inf"), 0.0, 0.0]).view(4, 1, 1, 1, 1)

    lora.target = target  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"pair p1: .*not finite"):
        measure(lora, items[:2], texts, tmp_path)
    assert not list(tmp_path.rglob("p*.safetensors.*")) and not list((tmp_path / "reference").rglob("*.safetensors"))


def test_a_full_disk_is_one_clear_error(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    (tmp_path / "reference").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (450, before[1]))  # enough for info.json
    try:
        with pytest.raises(TrainingError, match=r"p0\.safetensors: cannot be written"):
            measure(lora, items[:1], texts, tmp_path, replace(LAW, stored=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- step 0 ------------------------------------------------------------------------------------------------------------


def test_a_sound_cache_is_verified(lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path) -> None:
    cached = measure(lora, items, texts, tmp_path)
    train_a_little(lora)  # LoRA runs may be verified at any time
    assert verify(cached, lora, make_part(items[:2], LAW, texts), beta=500.0) < MAX_LOGIT_NOISE


@pytest.mark.parametrize("shift", [2e-5, float("nan")])
def test_a_cache_of_other_numerics_is_refused(
    shift: float,
    lora: VideoModel,
    items: list[PairItem],
    texts: TextBook,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = measure(lora, items, texts, tmp_path)
    part = make_part(items[:2], LAW, texts)
    honest = cached.errors

    def shifted(*args: object) -> Errors:
        found = honest(part.visits, part.latents, part.draw, part.text)
        off = torch.zeros_like(found.a)
        off[1, 2] = shift
        return Errors(found.a + off, found.b)

    monkeypatch.setattr(cached, "errors", shifted)
    if shift == shift:
        assert verify(cached, lora, part, beta=500.0) == pytest.approx(0.5 * 500 * shift, rel=0.05)
    with pytest.raises(CheckpointError, match=r"other numerics; remove this folder"):
        verify(cached, lora, part, beta=50000.0)


def test_a_changed_base_is_found_at_step_0(
    full: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    cached = measure(full, items, texts, tmp_path, settings=FULL)
    part = make_part(items[:2], LAW, texts)
    assert verify(cached, full, part, beta=500.0) < MAX_LOGIT_NOISE
    train_a_little(full)
    with pytest.raises(CheckpointError, match=str(cached.folder)):
        verify(cached, full, part, beta=500.0)


# -- payback -----------------------------------------------------------------------------------------------------------


def test_payback_is_k_epochs_or_less() -> None:
    assert Payback(cost=8 * 100, saved_per_epoch=100, run_epochs=20.0).epochs == 8
    assert Payback(cost=8 * 25, saved_per_epoch=100, run_epochs=20.0).epochs == 2


@pytest.mark.parametrize(("steps", "too_short"), [(7, True), (8, False)])
def test_the_price_is_said_first_and_a_short_run_is_warned(
    steps: int,
    too_short: bool,
    lora: VideoModel,
    items: list[PairItem],
    texts: TextBook,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = LORA.model_copy(update={"max_steps": steps, "batch_size": 2})  # 5 pairs, 3 draws: 15 passes
    capsys.readouterr()
    with failing_after(lora, 0), pytest.raises(StoppedError):
        measure(lora, items, texts, tmp_path, settings=settings)
    said = capsys.readouterr().err
    assert f"15 passes to make, {2 * steps} saved in this run; paid back after 3.0 epochs" in said
    assert f"this run has {2 * steps / 5:.1f}" in said
    assert ("too short" in said) == too_short


def test_what_is_there_already_is_not_charged(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = measure(lora, items, texts, tmp_path)
    (cached.folder / "p4.safetensors").unlink()
    capsys.readouterr()
    measure(lora, items, texts, tmp_path)
    assert "3 passes to make" in capsys.readouterr().err  # one part of one pair
    measure(lora, items, texts, tmp_path)
    assert "passes" not in capsys.readouterr().err


def test_visits_of_one_pair_may_meet_in_one_part(
    lora: VideoModel, items: list[PairItem], texts: TextBook, tmp_path: Path
) -> None:
    cached = measure(lora, items[:1], texts, tmp_path)
    visits = [Visit(items[0], epoch) for epoch in range(2)]
    draw = LAW.draw(visits, SHAPE)
    latents = [LatentReader().read(items[0])] * 2
    found = cached.errors(visits, latents, draw, texts.stack([items[0].caption] * 2))
    assert not torch.equal(found.a[0], found.a[1])
