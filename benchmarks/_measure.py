"""What is measured of a step: operations, forward passes, memory, time and the gradient."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from torch import Tensor, nn

from densedpo.models.memory import peak_memory

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}  # dense bf16 by the makers' data sheets


@dataclass
class Forwards:
    """Videos that went through a denoiser, with and without a graph, and in how many calls."""

    graded: int = 0
    ungraded: int = 0
    calls: int = 0


@contextmanager
def counted_forwards(denoisers: Sequence[nn.Module]) -> Iterator[Forwards]:
    """Count inside the block by hooks on the denoisers."""
    counts = Forwards()

    def hook(_module: nn.Module, _inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        videos = len(outputs[0])
        counts.calls += 1
        if torch.is_grad_enabled():
            counts.graded += videos
        else:
            counts.ungraded += videos

    handles = [denoiser.register_forward_hook(hook) for denoiser in denoisers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def memory(work: Callable[[], object], loaded: Sequence[nn.Module], device: torch.device) -> int:
    """Return the bytes of the weights in ``loaded`` and of the peak of ``work`` above what was there before it."""
    gc.collect()
    with peak_memory(device) as peak:
        work()
    weights = {w.data_ptr(): w.nbytes for module in loaded for w in [*module.parameters(), *module.buffers()]}
    return peak.held_bytes + sum(weights.values())


def timed_ms(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of ``work`` in milliseconds, until the device is done."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on, without names of hosts or paths."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        facts |= {"gpu": name, "cuda": torch.version.cuda, "peak_bf16_tflops": peak_tflops(device)}
    return facts


def peak_tflops(device: torch.device) -> float | None:
    """Return the GPU's dense bf16 peak, or None where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
