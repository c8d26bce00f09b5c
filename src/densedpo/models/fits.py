"""How much memory and time pairs and training will take, predicted from a model's configuration files.

The family's own code runs on tensors without numbers (``models.weightless``), and what it makes is counted: bytes from
creation to release (``models.memory``), operations by torch's counter. For n pairs at once

    memory(n) = max(floor, fixed + n * per_pair)        time a pair = operations / (UTILISATION * rate)

``fixed`` are the weights that stay on the device, the trained ones' gradients and the optimizer's moments; ``per_pair``
is what one pair adds at the peak of a pass. ``floor`` is the need of the stages that take one video at a time: VAE and
text encoders, each with the denoiser beside it, as they leave a GPU when they are not in use. On a CPU all parts stay.

Assumed: fused attention; no compiling, no step cache, no sharding; one process; the reference measured in each step,
before the policy; bfloat16 autocast copies every weight in full tuning. Not counted: what kernels and the allocator
take for themselves, for which ``MARGIN`` of what is not weights is kept free; reading and writing files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError
from densedpo.models.activation import MARGIN, MOMENT_BYTES, POLICIES, Policy, apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.lora import add_lora
from densedpo.models.memory import available_memory, peak_memory
from densedpo.models.operations import operations
from densedpo.models.sampling import denoise
from densedpo.models.storage import StorageDtype, keep_stored
from densedpo.models.text import TextCondition
from densedpo.models.weightless import META, on_paper

UTILISATION = 0.5  # of the rate of large matrix products that a whole pass reaches; seen from 0.35 to 0.7
_MATRIX = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Size:
    """A clip's height and width in px and its number of frames."""

    height: int
    width: int
    num_frames: int

    @classmethod
    def parse(cls, text: str, model: VideoModel) -> Size:
        """Read ``480x832x81``.

        Raises:
            ConfigError: if it is no such text, or the model does not take the size.
        """
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part) < 10**5 for part in parts):
            raise ConfigError(f"--size: {text!r} is no size; give HEIGHTxWIDTHxFRAMES, for example 480x832x81")
        size = cls(*(int(part) for part in parts))
        multiple = model.spatial_stride
        if size.height % multiple or size.width % multiple:
            raise ConfigError(f"--size: height and width must be multiples of {multiple}, got {text!r}")
        if (size.num_frames - 1) % model.temporal_stride:
            raise ConfigError(f"--size: frames must be of the form {model.temporal_stride}k + 1, got {size.num_frames}")
        return size


@dataclass(frozen=True)
class Need:
    """What one kind of work takes; bytes on the device, operations and seconds a pair."""

    work: str
    fixed_bytes: int
    per_pair_bytes: int
    floor_bytes: int
    operations_per_pair: int
    seconds_per_pair: float | None = None
    available_bytes: int | None = None

    def memory_bytes(self, pairs: int) -> int:
        """Return the peak for ``pairs`` at once."""
        return max(self.floor_bytes, self.fixed_bytes + pairs * self.per_pair_bytes)

    @property
    def pairs_that_fit(self) -> int | None:
        """How many pairs fit at once, 0 if not even one does; None where nothing is known about the device."""
        if self.available_bytes is None:
            return None
        if self.fixed_bytes + MARGIN * max(0, self.floor_bytes - self.fixed_bytes) > self.available_bytes:
            return 0
        return max(0, int((self.available_bytes - self.fixed_bytes) / (MARGIN * self.per_pair_bytes)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, with the memory of one pair and how many fit."""
        found = {"memory_bytes_of_one_pair": self.memory_bytes(1), "pairs_that_fit": self.pairs_that_fit}
        return asdict(self) | found


@dataclass(frozen=True)
class Machine:
    """A device: its kind, free memory, and rate of matrix products in operations a second by number format."""

    kind: str
    available_bytes: int
    rates: dict[torch.dtype, float]

    @classmethod
    def here(cls, device: torch.device, dtypes: set[torch.dtype]) -> Machine:
        """Measure this machine's device; takes a second."""
        rates = {dtype: _rate(device, dtype) for dtype in dtypes}
        return cls(device.type, available_memory(device), rates)


def needs_of_pairs(
    model: VideoModel, size: Size, *, steps: int, shift: float, cfg: float, eta: float, kind: str
) -> Need:
    """Predict making guided pairs: text and clip encoded, both sides denoised from ``eta`` down, both decoded.

    Args:
        model: without weights, in the number format of the work.
        size: of the clips.
        steps: of the full grid.
        shift: of the grid.
        cfg: guidance scale; 1 means one pass a step instead of two.
        eta: noise level that the sides start from.
        kind: ``cuda``, or ``cpu`` where nothing moves away.
    """
    shape = model.latent_shape(size.num_frames, size.height, size.width)
    video = torch.empty((1, 3, size.num_frames, size.height, size.width), device=META)
    with on_paper(), torch.no_grad():
        text = model.encode_text([""])
        sides, one = torch.empty((2, *shape), device=META), torch.empty((1, *shape), device=META)
        step: Callable[[], object] = partial(denoise, model, sides, [eta, 0.0], text.expand(2), text, cfg)
        encode, decode = partial(model.encode_video, video), partial(model.decode, one)
        floor = max(
            _beside(model, kind, model.text_encoders, partial(model.encode_text, [""])),
            _beside(model, kind, (model.vae,), encode),
            _beside(model, kind, (model.vae,), decode),
        )
        left = len(grid_from(model.grid(steps, shift), eta)) - 1
        cost = left * operations(step) + operations(encode) + 2 * operations(decode)
        return Need("pairs", _resident(model, kind), _peak(step) + sides.nbytes, floor, cost)


def needs_of_training(
    model: VideoModel,
    size: Size,
    *,
    tuning: Literal["lora", "full"],
    rank: int,
    kind: str,
    storage: StorageDtype | None = None,
) -> list[Need]:
    """Predict training under each checkpointing policy, cheapest in operations first.

    Args:
        model: without weights; changed by this.
        size: of the clips.
        tuning: a LoRA of ``rank``, or all weights.
        rank: of the LoRA.
        kind: ``cuda``, or ``cpu``.
        storage: format that a frozen base is kept in.
    """
    with on_paper():
        text = model.encode_text([""]).expand(2)
        floor = _beside(model, kind, model.text_encoders, partial(model.encode_text, [""]))
        numbers = sum(parameter.numel() for parameter in model.denoiser.parameters())
        if tuning == "lora":
            add_lora(model, rank=rank, alpha=rank, seed=0, targets=model.defaults.lora_targets)
            keep_stored(model, storage)
        else:
            model.denoiser.requires_grad_(True)
        base = _resident(model, kind)
        if tuning == "full":
            # float32 weights and reference, and a copy in the computation's format where that is another one
            copies = 0 if model.dtype == torch.float32 else model.dtype.itemsize
            base += numbers * (2 * 4 + copies) - _bytes(model.denoiser)
        trained = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
        gradients = sum(4 * p.numel() for p in trained)
        for parameter in trained:  # so that they are there already, as in all parts of a step but the first
            parameter.grad = torch.empty_like(parameter)
        fixed = base + gradients + MOMENT_BYTES * sum(p.numel() for p in trained)
        shape = model.latent_shape(size.num_frames, size.height, size.width)
        work = partial(_training_pass, model, shape, text)
        found = []
        for policy in POLICIES:
            apply_policy(model, policy)
            found.append(Need(f"train, {policy}", fixed, _peak(work), floor, operations(work)))
        apply_policy(model, "none")
    return found


def judged(need: Need, machine: Machine, dtype: torch.dtype) -> Need:
    """Return a need with the time it takes on a machine and the memory there is."""
    seconds = need.operations_per_pair / (UTILISATION * machine.rates[dtype])
    return Need(**(asdict(need) | {"seconds_per_pair": seconds, "available_bytes": machine.available_bytes}))


def policy_that_fits(needs: list[Need]) -> Policy | None:
    """Return the cheapest policy of ``needs_of_training`` under which one pair fits, or None."""
    return next((policy for policy, need in zip(POLICIES, needs, strict=True) if need.pairs_that_fit), None)


def _training_pass(model: VideoModel, shape: tuple[int, ...], text: TextCondition) -> None:
    """Run the reference and the policy on both sides of a pair, and go backward."""
    clean, drawn = torch.empty((2, *shape), device=META), torch.empty((2, *shape), device=META)
    t = torch.full((2,), 0.5, device=META)

    def errors() -> Tensor:
        residual = model.target(clean, drawn, t).float() - model.predict(model.add_noise(clean, drawn, t), t, text)
        return residual.float().square().mean(dim=(1, 3, 4))

    with torch.no_grad():
        reference = errors()
    (errors() - reference).mean().backward()


def _resident(model: VideoModel, kind: str) -> int:
    """Return the bytes of the weights that are on the device all the time."""
    waiting = (model.vae, *model.text_encoders) if kind == "cpu" else ()
    return sum(_bytes(part) for part in (model.denoiser, *waiting))


def _beside(model: VideoModel, kind: str, parts: tuple[nn.Module, ...], work: Callable[[], object]) -> int:
    """Return the peak of work with ``parts`` beside what is on the device all the time."""
    came = 0 if kind == "cpu" else sum(_bytes(part) for part in parts)
    return _resident(model, kind) + came + _peak(work)


def _peak(work: Callable[[], object]) -> int:
    with peak_memory(META) as peak:
        work()
    return peak.held_bytes


def _bytes(part: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*part.parameters(), *part.buffers()])


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a large matrix product, the best of three after one to warm up."""
    side = _MATRIX[device.type]
    matrix = torch.ones((side, side), device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
