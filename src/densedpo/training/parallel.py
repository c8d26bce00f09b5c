"""Several processes, one result: who works on what, and how gradients and decisions come together.

Every process computes the losses of its own part of the global batch, divided by the *global* normaliser that all know
from the data order. The gradients are then *summed* over the processes once a step, so they equal those of one process.
No wrapper goes around the denoiser: it is this that fails with adapters that are switched off and on, with activation
checkpointing, and with unequal work.

``ddp``: every process holds the whole model. ``fsdp``: the denoiser's weights are cut up over the processes (FSDP2) and
gathered block by block; a LoRA stays whole and is summed as under ``ddp``, full tuning cuts up everything.

Every method is collective unless it says otherwise: all processes call it, in the same order. Under plain ``python``
each does the work of one process, without any communication.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from densedpo.config import TrainSettings
from densedpo.errors import ConfigError, TrainingError
from densedpo.models.load import resolve_device

Item = TypeVar("Item")
BUCKET_BYTES = 64 * 2**20  # gradients summed in one call: few calls, and little memory beside the gradients
TIMEOUT_S = 1800.0  # a process that stays away this long is taken for dead; the longest wait is for a save

_LET_GO_S = 0.5


def local_device(name: str = "auto") -> torch.device:
    """Return the device of this process: under torchrun the GPU of its local rank, otherwise as ``name`` says.

    Raises:
        ConfigError: if there is no such device, or one GPU is named for several processes.
    """
    device = resolve_device(name)
    local = os.environ.get("LOCAL_RANK")
    if device.type == "cpu" or local is None:
        return device
    if name not in {"auto", "cuda", f"cuda:{local}"}:
        raise ConfigError(f"device: {name!r} is one GPU for several processes; use auto, which gives each its own")
    return resolve_device(f"cuda:{local}")


class Parallel:
    """The processes of one run, as torchrun's environment describes them; under plain ``python``, just this one.

    Seeds and random generators are left alone: noise and data order are functions of (seed, step) on every process.

    Args:
        settings: ``parallel``, ``tuning`` and ``dtype`` are read.
        device: as for ``load_model``; gloo connects CPUs, NCCL connects GPUs.
        timeout_s: longest wait for another process, in seconds; after it the waiting process fails.

    Raises:
        ConfigError: if the device does not exist, or the processes that were started cannot be connected.
    """

    def __init__(self, settings: TrainSettings, device: str = "auto", *, timeout_s: float = TIMEOUT_S) -> None:
        self.device = local_device(device)
        on_cpu = self.device.type == "cpu"
        backend = {"backend": "gloo"} if on_cpu and "LOCAL_RANK" in os.environ else {}
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout_s), **backend)
        self.rank: int = state.process_index
        self.world: int = state.num_processes
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world != started or (self.world > 1 and state.device.type != self.device.type):
            # each process would train on its own, and nobody would notice
            raise ConfigError(
                f"parallel: {started} processes were started for {self.device.type}, but accelerate connects "
                f"{self.world} on {state.device.type}; create no Accelerator before, and start with torchrun"
            )
        if self.world > 1 and on_cpu:
            # gloo's threads may still hold tensors of the last calls, and need the interpreter to let them go; if it is
            # gone by then, the process aborts and a run that went well seems to have failed
            atexit.register(time.sleep, _LET_GO_S)
        self._sharded = settings.parallel == "fsdp" and self.world > 1
        self._whole_lora = settings.tuning == "lora"
        self._compute = getattr(torch, settings.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells the user."""
        return self.rank == 0

    def close(self) -> None:
        """Disconnect at the end of the program; nothing collective may follow."""
        if dist.is_initialized():
            self.wait()
            dist.destroy_process_group()

    # -- work ----------------------------------------------------------------------------------------------------------

    def share(self, visits: Sequence[Item]) -> list[Item]:
        """Return this process's part of a global batch: every ``world``-th, from ``rank`` on; may be empty.

        Not collective.
        """
        return list(visits[self.rank :: self.world])

    def in_step(self, parts: Sequence[Item], spare: Item) -> list[tuple[Item, float]]:
        """Return the parts with the weights that their losses are multiplied by.

        Under FSDP every forward pass gathers weights from all processes, so all must do equally many: one with fewer
        parts repeats ``spare`` with weight 0. Otherwise nothing is added, and every weight is 1. A part must take the
        same number of forward passes whatever its size.
        """
        padding = self.rounds(len(parts)) - len(parts)
        return [(part, 1.0) for part in parts] + [(spare, 0.0)] * padding

    def rounds(self, count: int) -> int:
        """Return how many forward passes this process must make when it has ``count`` to make itself."""
        return int(self._reduced([float(count)], dist.ReduceOp.MAX)[0]) if self._sharded else count

    # -- decisions -----------------------------------------------------------------------------------------------------

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in float64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def sum_by_name(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums by name; a name that a process lacks counts as zero there."""
        if self.world == 1:
            return dict(values)
        texts = self._gathered(json.dumps(list(values)))
        names = list(dict.fromkeys(name for text in texts for name in json.loads(text)))
        return dict(zip(names, self.sum([values.get(name, 0.0) for name in names]), strict=True))

    def every_rank(self, ok: bool) -> bool:
        """Return whether ``ok`` holds on every process."""
        return self.sum([float(not ok)])[0] == 0.0

    def first_message(self, message: str | None) -> str | None:
        """Return the message of the first process that has one, or None: all then raise the same error.

        Call it after the last backward pass of a step, also where trouble was seen earlier: under FSDP a process that
        leaves early keeps the others waiting.
        """
        if self.every_rank(message is None):
            return None
        return next(text for text in self._gathered(message or "") if text)

    def agree(self, what: str, value: str) -> None:
        """Check that all processes have the same ``value``: the same data, the same checkpoint, the same settings.

        Raises:
            TrainingError: on every process, naming what each has.
        """
        found = self._gathered(value)
        if len(set(found)) > 1:
            each = ", ".join(f"rank {rank} has {text}" for rank, text in enumerate(found))
            raise TrainingError(
                f"{what} differs between the processes: {each}; give every machine the same files and settings"
            )

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            with _others_needed():
                dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    # -- gradients -----------------------------------------------------------------------------------------------------

    def finite_here(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Return whether all gradients that this process made itself are finite; not collective.

        Gradients of cut-up weights are sums over all processes already and say nothing about this one: they are not
        looked at here, ``clip_`` finds them.
        """
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        return math.isfinite(nn.utils.get_total_norm(gradients).item())

    def reduce_gradients(self, parameters: Sequence[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
        """Sum the gradients over the processes, in place; call it once a step, after the last backward pass.

        No gradient counts as zeros, unless no process has one. FSDP has summed those of cut-up weights already.
        """
        if self.world == 1:
            return
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        holders = self.sum([float(parameter.grad is not None) for parameter in whole])
        gradients = []
        for parameter, count in zip(whole, holders, strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients, bucket_bytes):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            with _others_needed():
                dist.all_reduce(flat)
            summed = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, summed, strict=True):
                gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def clip_(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Scale the gradients to a 2-norm of at most ``max_norm`` and return the norm that they had, over all weights.

        It is the same on every process. Where it is not finite nothing is scaled.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        pieces = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        norm = nn.utils.get_total_norm(whole).item()
        if len(whole) < len(gradients):
            elsewhere = self.sum([nn.utils.get_total_norm(pieces).item() ** 2])[0]
            norm = math.sqrt(norm**2 + elsewhere)
        if math.isfinite(norm) and norm > max_norm:
            torch._foreach_mul_([*whole, *pieces], max_norm / norm)
        return norm

    # -- cut-up weights ------------------------------------------------------------------------------------------------

    def shard(self, denoiser: nn.Module) -> list[nn.Parameter]:
        """Cut the denoiser's weights up over the processes under FSDP, and return the trainable parameters.

        Call it after the adapter, the checkpointing policy and compilation are in place, and before the optimizer is
        built; also on a frozen copy that serves as reference, so that both round alike. Where weights are trained in
        float32 and ``dtype`` is bfloat16, they are gathered as bfloat16 and their gradients summed in float32.

        Raises:
            ConfigError: if the denoiser's family does not say which blocks repeat.
        """
        if self._sharded:
            names = getattr(denoiser, "_repeated_blocks", None)
            if not names:
                raise ConfigError(
                    f"parallel: fsdp cannot cut up {type(denoiser).__name__}, it names no repeated blocks; use ddp"
                )
            kept = {p for p in denoiser.parameters() if p.requires_grad} if self._whole_lora else set()
            policy = MixedPrecisionPolicy(cast_forward_inputs=False)
            if not self._whole_lora and self._compute != torch.float32:
                policy = MixedPrecisionPolicy(self._compute, torch.float32, cast_forward_inputs=False)
            mesh = init_device_mesh(self.device.type, (self.world,))
            blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
            for module in [*blocks, denoiser]:
                # the outermost module too gives its weights back after a pass: a copy left over from a pass without a
                # backward one would be stale once weights are restored or averaged
                fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=kept, reshard_after_forward=True)
                assert isinstance(module, FSDPModule)
                module.set_gradient_divide_factor(1.0)  # losses are divided already: gradients are summed
                module.set_force_sum_reduction_for_comms(True)
            # the prediction is a view, which FSDP wants nobody to change in place; nobody does
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        return [parameter for parameter in denoiser.parameters() if parameter.requires_grad]

    def full_tensors(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the CPU, put together one by one; only the main process gets them, others nothing."""
        whole = {}
        for name, tensor in named.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_main:
                cpu = full.detach().cpu()
                # put together, it may be a view of something padded, which safetensors refuses
                whole[name] = cpu if cpu.untyped_storage().nbytes() == cpu.nbytes else cpu.clone()
        return whole

    def cut_like(self, full: Tensor, pattern: Tensor) -> Tensor:
        """Return ``full`` cut up as ``pattern`` is, for weights and moments of a checkpoint that every process read.

        A whole pattern, and a tensor of another shape (an optimizer's step count), leave it as it is.
        """
        if not isinstance(pattern, DTensor) or full.shape != pattern.shape:
            return full
        return distribute_tensor(full.to(self.device), pattern.device_mesh, pattern.placements, src_data_rank=None)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _reduced(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _others_needed():
            dist.all_reduce(tensor, how)
        return tensor.tolist()

    def _gathered(self, text: str) -> list[str]:
        """Return every process's text, as bytes of one length: objects would travel as pickles."""
        if self.world == 1:
            return [text]
        data = text.encode()
        length = int(self._reduced([float(len(data))], dist.ReduceOp.MAX)[0])
        mine = torch.tensor(list(data.ljust(max(1, length), b"\0")), dtype=torch.uint8, device=self.device)
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        with _others_needed():
            dist.all_gather(rows, mine)
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in rows]


@contextmanager
def _others_needed() -> Iterator[None]:
    """Turn a broken connection, or waiting in vain, into an error for the user."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise TrainingError(
            f"another process stopped or does not answer; its own message says why ({reason}); repeat the command to "
            f"go on from the newest checkpoint"
        ) from error


def _buckets(gradients: Sequence[Tensor], most_bytes: int) -> Iterator[list[Tensor]]:
    """Yield neighbours of one number format that together take at most ``most_bytes``, or a single larger one."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > most_bytes or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
