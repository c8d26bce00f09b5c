"""Two processes against one: the same gradients and the same weights, step by step, also from each other's checkpoints.

This file is also the program that torchrun starts: every process runs all cases and the main one writes what came out.
The wrong twins are workers that never synchronise; the same comparison must refuse them.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.training.processes import torchrun
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from densedpo.config import TrainSettings
from densedpo.errors import ConfigError, TrainingError
from densedpo.keys import noise
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.lora import adapter_off, add_lora
from densedpo.models.parts import Denoiser
from densedpo.models.text import TextCondition
from densedpo.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from densedpo.training.parallel import Parallel, _buckets, local_device

pytestmark = pytest.mark.timeout(600)  # one fixture runs all that the slow tests compare

LORA, FULL = "lora", "full"
STEPS = 3
SAVED_AFTER = 2  # steps
MICRO = 2
CLIP = 0.05  # below the norms that come up, so that clipping matters


@dataclass(frozen=True)
class Case:
    """One way to train; the same case is run by one process and by two."""

    mode: str
    tuning: str
    batch: int
    dtype: str = "float32"
    checkpointing: bool = False
    resumed: bool = False  # only the steps after the checkpoint that the other number of processes wrote
    twin: bool = False

    @property
    def name(self) -> str:
        words = [self.mode, self.tuning, str(self.batch), self.dtype]
        return "-".join([*words, *["checkpointing"] * self.checkpointing, *["twin"] * self.twin])


EXACT = [
    Case("ddp", LORA, 4),
    Case("ddp", LORA, 5, checkpointing=True),  # three pairs in two parts against two pairs in one
    Case("ddp", LORA, 1),  # the second process has nothing to do
    Case("ddp", FULL, 5),
    Case("fsdp", LORA, 5),
    Case("fsdp", LORA, 3, checkpointing=True),
    Case("fsdp", LORA, 1),
    Case("fsdp", FULL, 5),
    Case("fsdp", FULL, 1, checkpointing=True),
]
ROUNDED = [Case("fsdp", LORA, 5, "bfloat16"), Case("fsdp", FULL, 5, "bfloat16")]
TWINS = [Case("ddp", LORA, 4, twin=True), Case("ddp", FULL, 5, twin=True)]
RESUMED = [replace(case, resumed=True) for case in (EXACT[1], EXACT[7])]


class Apart(Parallel):
    """Workers that share the work and never synchronise."""

    def reduce_gradients(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


def frame_errors(model: VideoModel, pairs: list[int], step: int) -> Tensor:
    """Errors [2, B, F] of both sides of pairs made of noise, from one forward pass whatever their number."""
    shape = (model.latent_channels, 3, 4, 4)
    clean = torch.stack([noise(shape, "test", "clean", pair, side) for side in "ab" for pair in pairs])
    drawn = torch.stack([noise(shape, "test", "drawn", pair, step) for pair in pairs]).repeat(2, 1, 1, 1, 1)
    t = torch.tensor([0.2 + 0.1 * pair for pair in pairs]).repeat(2)
    width = int(model.denoiser.config["text_dim"])
    text = torch.stack([noise((8, width), "test", "text", pair) for pair in pairs]).repeat(2, 1, 1)
    predicted = model.predict(model.add_noise(clean, drawn, t), t, TextCondition({"hidden": text}))
    errors = (model.target(clean, drawn, t) - predicted.float()).square().mean(dim=(1, 3, 4))
    return torch.stack(errors.chunk(2))


def reference_errors(model: VideoModel, frozen: Denoiser | None, pairs: list[int], step: int) -> Tensor:
    """The base's errors: of the frozen copy, or with the adapter off."""
    policy = model.denoiser
    with torch.no_grad(), adapter_off(model) if frozen is None else nullcontext():
        model.denoiser = frozen or policy
        errors = frame_errors(model, pairs, step)
        model.denoiser = policy
    return errors


def part_loss(model: VideoModel, frozen: Denoiser | None, pairs: list[int], step: int, total: int) -> Tensor:
    """DPO of a part's pairs, divided by the global batch; the reference runs first."""
    gap = -reference_errors(model, frozen, pairs, step) + frame_errors(model, pairs, step)
    return nn.functional.softplus(50 * (gap[0] - gap[1])).mean(dim=1).sum() / total


def run_case(case: Case, folder: Path, out: Path) -> None:
    """Train; the main process writes gradients and weights by step and name, and one checkpoint."""
    settings = TrainSettings(parallel=case.mode, tuning=case.tuning, dtype=case.dtype)
    parallel = (Apart if case.twin else Parallel)(settings, "cpu", timeout_s=240)
    model = load_model(str(folder), device="cpu", dtype=case.dtype if case.tuning == LORA else "float32")
    frozen = None
    if case.tuning == LORA:
        add_lora(model, rank=4, alpha=4, seed=0)
    else:
        frozen = copy.deepcopy(model.denoiser)
        model.denoiser.requires_grad_(True)
    if case.checkpointing:
        model.denoiser.enable_gradient_checkpointing()
    model.denoiser.train()
    parameters = parallel.shard(model.denoiser)
    if frozen is not None:
        assert parallel.shard(frozen) == []
    assert_cut_up(model.denoiser, parallel, case)
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=case.tuning == FULL and case.dtype == "bfloat16")
    with narrow:
        frame_errors(model, [0], 0)  # a pass whose graph is dropped, as self-checks and measurements make
    assert_cut_up(model.denoiser, parallel, case)
    named = {name: weight for name, weight in model.denoiser.named_parameters() if weight.requires_grad}
    # steps in proportion to gradients: Adam would blow up those that are zero but for rounding (keys' biases)
    optimizer = torch.optim.SGD(parameters, lr=1.0 if case.tuning == LORA else 0.2, momentum=0.9)
    start = 0
    if case.resumed:
        start = restore(parallel, named, optimizer, out.parent / ("two" if out.name == "one" else "one") / case.name)
    found: dict[str, Tensor] = {}
    for step in range(start, STEPS):
        batch = list(range(case.batch))
        mine = parallel.share(batch)
        parts = [mine[i : i + MICRO] for i in range(0, len(mine), MICRO)]
        optimizer.zero_grad()
        loss = 0.0
        for part, weight in parallel.in_step(parts, batch[:1]):
            with narrow:
                share = part_loss(model, frozen, part, step, len(batch)) * weight
            share.backward()
            loss += share.item()
        assert parallel.finite_here(parameters)
        parallel.reduce_gradients(parameters, bucket_bytes=4096)
        norm = parallel.clip_(parameters, CLIP)
        found |= {f"{step}/norm": torch.tensor(norm), f"{step}/loss": torch.tensor(parallel.sum([loss])[0])}
        gradients = {f"{step}/gradient/{n}": w.grad for n, w in named.items() if w.grad is not None}
        found |= parallel.full_tensors(gradients)
        optimizer.step()
        weights = parallel.full_tensors({f"{step}/{n}": w for n, w in named.items()})
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in weights.values())  # what safetensors asks for
        found |= {name: tensor.clone() for name, tensor in weights.items()}
        if step + 1 == SAVED_AFTER:
            tensors = parallel.full_tensors({**named, **optimizer_tensors(optimizer)})
            if parallel.is_main:
                save_checkpoint(out / case.name, SAVED_AFTER, tensors, {})
    if parallel.is_main:
        ending = "-resumed" * case.resumed
        save_file(found, out / f"{case.name}{ending}.safetensors")


def assert_cut_up(denoiser: nn.Module, parallel: Parallel, case: Case) -> None:
    """Under FSDP every frozen base weight, or every trained one, lies on the processes in parts; a LoRA never does."""
    for name, weight in denoiser.named_parameters():
        cut = case.mode == "fsdp" and parallel.world > 1 and "lora_" not in name
        assert isinstance(weight, DTensor) == cut, name
        if isinstance(weight, DTensor) and weight.shape[0] > 1:
            assert weight.to_local().numel() < weight.numel(), name


def restore(parallel: Parallel, named: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Load a checkpoint that another number of processes wrote."""
    checkpoint = load_checkpoint(path / f"step-{SAVED_AFTER}")
    patterns = list(named.values())
    with torch.no_grad():
        for name, weight in named.items():
            weight.copy_(parallel.cut_like(checkpoint.tensors[name], weight))
    moments = {n: t for n, t in checkpoint.tensors.items() if n.startswith("optimizer.")}
    restore_optimizer(optimizer, {n: parallel.cut_like(t, patterns[int(n.split(".")[1])]) for n, t in moments.items()})
    return checkpoint.step


def decisions() -> None:
    """What the processes decide together; run by two."""
    parallel = Parallel(TrainSettings(), "cpu")
    rank = parallel.rank
    assert (parallel.world, parallel.is_main, parallel.device.type) == (2, rank == 0, "cpu")
    assert parallel.share(range(5)) == [[0, 2, 4], [1, 3]][rank]
    assert parallel.sum([rank + 1.0, 10.0]) == [3.0, 20.0]
    assert parallel.sum_by_name({"x": 1.0} if rank else {"y": 2.0, "x": 5.0}) == {"y": 2.0, "x": 6.0}
    assert parallel.sum_by_name({} if rank else {"loss": 2.0}) == {"loss": 2.0}
    assert parallel.every_rank(True)
    assert not parallel.every_rank(rank == 0)
    assert parallel.first_message(None) is None
    assert parallel.first_message("pair ü, 対 failed" if rank else None) == "pair ü, 対 failed"
    assert parallel.first_message(f"from {rank}") == "from 0"
    parallel.agree("the seed", "7")
    with pytest.raises(TrainingError, match=r"the checkpoint differs .*rank 0 has 0, rank 1 has 10"):
        parallel.agree("the checkpoint", str(rank * 10))
    assert parallel.in_step(["p"] * rank, "spare") == [("p", 1.0)] * rank
    cut = Parallel(TrainSettings(parallel="fsdp"), "cpu")
    assert cut.in_step(["p"] * (1 + 2 * rank), "spare") == [
        ("p", 1.0),
        *[("spare" if not rank else "p", float(rank))] * 2,
    ]
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad = torch.full((3,), 1.0 + rank)
    if rank:
        weights[1].grad = torch.ones(3)
    parallel.reduce_gradients(weights)
    assert [None if w.grad is None else w.grad.tolist() for w in weights] == [[3.0] * 3, [1.0] * 3, None]
    parallel.wait()


def work(folder: Path, out: Path) -> None:
    """What each process of torchrun does."""
    decisions()
    for case in [*EXACT, *ROUNDED, *TWINS, *RESUMED]:
        run_case(case, folder, out)
    Parallel(TrainSettings(), "cpu").close()


@pytest.fixture(scope="module")
def outputs(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made, in ``one/``, and what two made, in ``two/``."""
    root = tmp_path_factory.mktemp("processes")
    for name in ("one", "two"):
        (root / name).mkdir()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Mismatch dtype between input and weight", UserWarning
        )  # autocast and RMSNorm
        for case in [*EXACT, *ROUNDED]:
            run_case(case, tiny_model_folder, root / "one")
    code, said = torchrun([__file__, str(tiny_model_folder), str(root / "two")], timeout_s=400)
    assert code == 0, said[-1500:]
    for case in RESUMED:
        run_case(case, tiny_model_folder, root / "one")
    return root


def largest_difference(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Over all tensors, relative to the largest number of each where that is above 1."""
    assert one.keys() == two.keys()
    pairs = [(one[name].double(), two[name].double()) for name in one]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1.0)) for a, b in pairs)


def assert_equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor], most: float = 1e-5) -> None:
    assert largest_difference(one, two) <= most
    gradients = [name for name in one if "/gradient/" in name]
    assert len(gradients) >= 10
    for name in gradients:  # gradients are small numbers: they are compared as vectors too
        gap = float((one[name].double() - two[name].double()).norm())
        assert gap <= most * CLIP, name


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_two_processes_equal_one(case: Case, outputs: Path) -> None:
    one, two = (load_file(outputs / name / f"{case.name}.safetensors") for name in ("one", "two"))
    assert float(one["0/loss"]) == pytest.approx(
        0.6931472, abs=1e-6
    )  # policy and reference agree before the first step
    assert float(two["0/loss"]) == pytest.approx(0.6931472, abs=1e-6)
    assert float(one["2/loss"]) < 0.65
    assert_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("case", ROUNDED, ids=lambda case: case.name)
def test_two_processes_equal_one_but_for_rounding_in_bfloat16(case: Case, outputs: Path) -> None:
    one, two = (load_file(outputs / name / f"{case.name}.safetensors") for name in ("one", "two"))
    assert float(two["0/loss"]) == pytest.approx(0.6931472, abs=1e-6)
    assert_equal(one, two, most=5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_workers_that_never_synchronise_are_found(case: Case, outputs: Path) -> None:
    true = replace(case, twin=False)
    one = load_file(outputs / "one" / f"{true.name}.safetensors")
    two = load_file(outputs / "two" / f"{case.name}.safetensors")
    with pytest.raises(AssertionError):
        assert_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("case", RESUMED, ids=lambda case: case.name)
@pytest.mark.parametrize("resumed_by", ["one", "two"])
def test_checkpoints_cross_the_number_of_processes(case: Case, resumed_by: str, outputs: Path) -> None:
    whole = load_file(outputs / "one" / f"{case.name}.safetensors")
    resumed = load_file(outputs / resumed_by / f"{case.name}-resumed.safetensors")
    assert {name.split("/")[0] for name in resumed} == {"2"}
    assert_equal({name: whole[name] for name in resumed}, resumed)


def test_one_process_talks_to_nobody() -> None:
    parallel = Parallel(TrainSettings(parallel="fsdp"), "cpu")
    assert (parallel.rank, parallel.world, parallel.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    assert parallel.share("abc") == ["a", "b", "c"]
    assert parallel.in_step(["a"], "spare") == [("a", 1.0)]
    assert parallel.sum([1.5]) == [1.5]
    assert parallel.sum_by_name({"x": 2.0}) == {"x": 2.0}
    assert parallel.first_message(None) is None
    assert parallel.first_message("trouble") == "trouble"
    assert parallel.every_rank(True)
    assert not parallel.every_rank(False)
    parallel.agree("anything", "at all")
    parallel.wait()
    layer = nn.Linear(2, 2)
    assert parallel.shard(layer) == list(layer.parameters())
    assert parallel.cut_like(layer.weight, layer.weight) is layer.weight
    assert parallel.full_tensors({"w": layer.weight})["w"].equal(layer.weight)
    parallel.close()


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    Parallel(TrainSettings(), "cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_equals_torch(scale: float) -> None:
    ours, theirs = ([nn.Parameter(torch.zeros(n)) for n in (3, 5)] for _ in range(2))
    for parameters in (ours, theirs):
        for number, weight in enumerate(parameters):
            weight.grad = scale * noise((len(weight),), "test", "gradient", number)
    norm = Parallel(TrainSettings(), "cpu").clip_([*ours, nn.Parameter(torch.zeros(1))], 1.0)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, 1.0)), rel=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_told_and_not_scaled(bad: float) -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([7.0, 0.0]), torch.tensor([0.0, bad])
    parallel = Parallel(TrainSettings(), "cpu")
    assert not parallel.finite_here(weights)
    assert parallel.finite_here(weights[:1])
    assert not torch.isfinite(torch.tensor(parallel.clip_(weights, 1.0)))
    assert weights[0].grad.tolist() == [7.0, 0.0]


@pytest.mark.parametrize(
    ("most_bytes", "sizes"), [(8, [[2], [3], [1, 1], [1]]), (12, [[2], [3], [1, 1], [1]]), (2**20, [[2, 3, 1, 1], [1]])]
)
def test_buckets_are_bounded_and_keep_order_and_format(most_bytes: int, sizes: list[list[int]]) -> None:
    gradients = [torch.zeros(n) for n in (2, 3, 1, 1)] + [torch.zeros(1, dtype=torch.float64)]
    found = list(_buckets(gradients, most_bytes))
    assert [[g.numel() for g in bucket] for bucket in found] == sizes
    assert all(len({g.dtype for g in bucket}) == 1 for bucket in found)


def test_processes_that_would_never_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # accelerate knows this process as the only one already
    with pytest.raises(ConfigError, match="2 processes were started for cpu, but accelerate connects 1"):
        Parallel(TrainSettings(), "cpu")


def test_each_process_gets_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert str(local_device("cuda:3")) == "cuda:3"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert [str(local_device(name)) for name in ("auto", "cuda", "cuda:2", "cpu")] == ["cuda:2"] * 3 + ["cpu"]
    with pytest.raises(ConfigError, match="'cuda:0' is one GPU for several processes"):
        local_device("cuda:0")


def test_a_denoiser_without_repeated_blocks_is_not_cut_up() -> None:
    parallel = Parallel(TrainSettings(parallel="fsdp"), "cpu")
    parallel._sharded = True
    with pytest.raises(ConfigError, match="fsdp cannot cut up Linear, it names no repeated blocks; use ddp"):
        parallel.shard(nn.Linear(1, 1))


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
