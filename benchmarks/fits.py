"""Is what ``densedpo doctor --size`` predicts what a device takes? One pair and one training step, measured.

python benchmarks/fits.py --device cpu --json
python benchmarks/fits.py --device cuda --model MODEL --size 480x832x81 --dtype bfloat16

Peaks are the allocator's on a GPU; on a CPU, where nobody counts, those of all tensors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _measure import machine
from torch import nn

from densedpo.keys import noise
from densedpo.models.activation import POLICIES, apply_policy
from densedpo.models.base import VideoModel
from densedpo.models.fits import Size, needs_of_pairs, needs_of_training
from densedpo.models.load import load_model, load_shapes, resolve_device
from densedpo.models.lora import adapter_off, add_lora
from densedpo.models.memory import peak_memory
from densedpo.models.sampling import denoise
from densedpo.models.storage import keep_stored


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="32x32x33")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--storage", default=None, choices=["bfloat16", "float8"])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = compare(given.model, resolve_device(given.device), given.size, given.dtype, given.storage, given.rank)
    result = {"machine": machine(resolve_device(given.device)), "settings": vars(given), "rows": rows}
    if given.json:
        print(json.dumps(result, indent=2))
        return
    for row in rows:
        print(f"{row['work']:24s} predicted {row['predicted'] / 2**20:10.1f} MiB  measured {_shown(row['measured'])}")


def compare(
    name: str, device: torch.device, size_text: str, dtype: str, storage: Any, rank: int
) -> list[dict[str, Any]]:
    """Return predicted and measured bytes of one pair and of a training step under each policy; None: out of memory."""
    shapes = load_shapes(name, dtype=dtype)
    size = Size.parse(size_text, shapes)
    keep_stored(shapes, storage)
    recipe: dict[str, Any] = {"steps": 2, "shift": shapes.defaults.shift, "cfg": 5.0, "eta": 0.75}
    pairs = needs_of_pairs(shapes, size, **recipe, kind=device.type)
    common: dict[str, Any] = {"tuning": "lora", "rank": rank, "kind": device.type, "storage": storage}
    training = needs_of_training(load_shapes(name, dtype=dtype), size, **common)

    model = load_model(name, device=str(device), dtype=dtype)
    model.most_at_once = None
    keep_stored(model, None)
    trained = add_lora(model, rank=rank, alpha=rank, seed=0)
    keep_stored(model, storage)
    text = model.encode_text(["a red circle moves to the right"]).to(device)
    shape = model.latent_shape(size.num_frames, size.height, size.width)
    sides, drawn = (noise((2, *shape), 0, "fits", name).to(device) for name in ("sides", "drawn"))

    def make_pair() -> None:
        with adapter_off(model):
            denoise(model, sides, [0.75, 0.0], text.expand(2), text, 5.0)

    def step() -> None:
        both, t = text.expand(2), torch.full((2,), 0.5, device=device)
        noisy = model.add_noise(sides, drawn, t)
        with torch.no_grad(), adapter_off(model):
            model.predict(noisy, t, both)
        residual = model.target(sides, drawn, t).float() - model.predict(noisy, t, both).float()
        residual.square().mean().backward()

    resident = _resident(model, device) - sum(p.nbytes for p in trained)
    rows = [_row("pairs", pairs.fixed_bytes + pairs.per_pair_bytes, resident, make_pair, device)]
    held = resident + sum(p.nbytes + 12 * p.numel() for p in trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    for policy, need in zip(POLICIES, training, strict=True):
        apply_policy(model, policy)
        rows.append(_row(need.work, need.fixed_bytes + need.per_pair_bytes, held, step, device))
    return rows


def _row(work: str, predicted: int, held: int, run: Callable[[], None], device: torch.device) -> dict[str, Any]:
    try:
        with peak_memory(device) as peak:
            run()
    except torch.OutOfMemoryError:
        return {"work": work, "predicted": predicted, "measured": None, "predicted_over_measured": None}
    measured = held + peak.held_bytes
    return {"work": work, "predicted": predicted, "measured": measured, "predicted_over_measured": predicted / measured}


def _resident(model: VideoModel, device: torch.device) -> int:
    parts: Sequence[nn.Module] = (model.denoiser, *((model.vae, *model.text_encoders) if device.type == "cpu" else ()))
    return sum(tensor.nbytes for part in parts for tensor in [*part.parameters(), *part.buffers()])


def _shown(measured: int | None) -> str:
    return "out of memory" if measured is None else f"{measured / 2**20:10.1f} MiB"


if __name__ == "__main__":
    main()
