"""Content ids and random streams: the one home of randomness.

A *stream* is a generator derived from (run, purpose, ids) by hashing, so noise at step ``n`` never depends on what ran
before it. Resume is therefore exact with nothing to restore, and a pair can be rebuilt from its manifest row alone.
The global generators of numpy and torch are never used (a lint rule bans them).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Part = str | int | float | bool | None


def content_id(*parts: Any, length: int = 16) -> str:
    """Return a short hexadecimal id of JSON-able ``parts``: equal parts, equal id, on every machine.

    Args:
        *parts: values that ``json.dumps`` accepts; dictionaries are sorted by key.
        length: number of hexadecimal digits kept (64 bits at the default 16).
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stream_seed(run: Part, purpose: str, *ids: Part) -> int:
    """Return the 63-bit seed of the stream named by (run, purpose, ids)."""
    return int(content_id(run, purpose, *ids, length=16), 16) >> 1


def stream(run: Part, purpose: str, *ids: Part) -> np.random.Generator:
    """Return a numpy generator for the stream named by (run, purpose, ids)."""
    return np.random.Generator(np.random.PCG64(stream_seed(run, purpose, *ids)))


def torch_stream(run: Part, purpose: str, *ids: Part) -> torch.Generator:
    """Return a CPU torch generator for the stream named by (run, purpose, ids).

    Noise is always drawn on the CPU and moved, so that CPU and GPU runs see the same numbers.
    """
    import torch

    return torch.Generator(device="cpu").manual_seed(stream_seed(run, purpose, *ids))


def noise(shape: tuple[int, ...], run: Part, purpose: str, *ids: Part) -> torch.Tensor:
    """Draw float32 standard normal noise of ``shape`` from the stream named by (run, purpose, ids)."""
    import torch

    return torch.randn(shape, generator=torch_stream(run, purpose, *ids), dtype=torch.float32)


@contextlib.contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and put it back after.

    For library code that initialises weights and takes no generator; nothing else may use it.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)  # noqa: TID251
        yield


@contextlib.contextmanager
def seeded_library(device: torch.device, run: Part, purpose: str, *ids: Part) -> Iterator[None]:
    """Seed torch's global generators from a stream inside the block and put them back after.

    For library code that draws noise as it runs and takes no generator, such as a decoder that adds grain.
    """
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.manual_seed(stream_seed(run, purpose, *ids))  # noqa: TID251
        yield
