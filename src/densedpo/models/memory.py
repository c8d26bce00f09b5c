"""Memory: how much one pass takes at its peak, and how much there is.

On a GPU the allocator keeps count. Elsewhere nothing does, so the bytes of every tensor that an operation makes are
counted from its creation to its release; what kernels take inside themselves is not in that count.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Peak:
    """Most bytes that a block of code held at once, above what was held when it began."""

    held_bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the block's peak; the figure is there once the block has ended, also when it failed."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            yield peak
        finally:
            torch.cuda.synchronize(device)
            peak.held_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    counter = _LiveBytes()
    try:
        with counter:
            yield peak
    finally:
        peak.held_bytes = counter.peak


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take: on a GPU free ones and those its allocator holds unused."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, each once, until they are released."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            self._meet(leaf, made_here=False)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self._meet(leaf, made_here=True)
        return result

    def _meet(self, leaf: Any, *, made_here: bool) -> None:
        if not isinstance(leaf, Tensor):
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if made_here else 0
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._release, key, size).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size
