"""Safetensors files that lie, or hold what is no number: one line at once, and nothing is loaded from them."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from densedpo.errors import ModelError
from densedpo.models.base import VideoModel
from densedpo.models.full import load_denoiser
from densedpo.models.load import load_model
from densedpo.models.lora import add_lora, load_lora, save_lora

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(60),
]  # the limit is for a library that hangs where we cannot count

MOST_CALLS = 30_000_000  # a thousand for each of 30,000 names; work that grows with their square makes 900 million
PARTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> VideoModel:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def refused(call: Callable[[], object], *words: str) -> None:
    """One of our errors, in one line."""
    with pytest.raises(ModelError) as found:
        call()
    text = str(found.value)
    assert "\n" not in text and all(word in text for word in words), text


def raw(header: bytes | str, data: bytes = b"") -> bytes:
    """Return a file of this header."""
    head = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(head)) + head + data


def entry(start: int, end: int, shape: int = 1, kind: str = "F32") -> str:
    """Return what a header says of one tensor."""
    return f'{{"dtype":"{kind}","shape":[{shape}],"data_offsets":[{start},{end}]}}'


LIES = {
    "empty": b"",
    "only a length": struct.pack("<Q", 2**62),
    "a length of 90 MB": struct.pack("<Q", 9 * 10**7) + b"{",
    "a header of 3 MB": raw(b'{"w":' + b" " * (3 * 10**6)),
    "too many names": raw("{" + ",".join(f'"{n}":{entry(0, 0, 0)}' for n in range(100_000)) + "}"),
    "many names": raw("{" + ",".join(f'"{n}":{entry(0, 0, 0)}' for n in range(30_000)) + "}"),
    "no JSON": raw("{"),
    "a list": raw("[]"),
    "deep": raw("[" * 10**5),
    "deep metadata": raw('{"__metadata__":' + "[" * 10**5),
    "hole": raw(f'{{"a":{entry(0, 4)},"b":{entry(8, 12)}}}', bytes(12)),
    "overlap": raw(f'{{"a":{entry(0, 4)},"b":{entry(0, 4)}}}', bytes(4)),
    "more than it says": raw(f'{{"a":{entry(0, 4)}}}', bytes(400)),
    "less than it says": raw(f'{{"a":{entry(0, 400, 100)}}}', bytes(4)),
    "a name twice": raw(f'{{"a":{entry(0, 4)},"a":{entry(0, 4)}}}', bytes(4)),
    "a name twice, spelt apart": raw(f'{{"a":{entry(0, 4)},"\\u0061":{entry(0, 4, 1, "I32")}}}', bytes(4)),
    "a size that overflows": raw(f'{{"a":{entry(0, 4, 2**63)}}}', bytes(4)),
    "an unknown type": raw(f'{{"a":{entry(0, 4, 1, "F99")}}}', bytes(4)),
    "offsets backwards": raw(f'{{"a":{entry(4, 0)}}}', bytes(4)),
}


def bounded(call: Callable[[], object], *words: str) -> None:
    """One of our errors, after work that grows with the file and not with its square."""
    calls = 0

    def tick(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(tick)
    try:
        refused(call, *words)
    finally:
        sys.setprofile(None)
    assert calls < MOST_CALLS, calls


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_file_that_lies(model: VideoModel, folder: Path, tmp_path: Path, lie: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(LIES[lie])
    bounded(lambda: load_lora(model, path), str(path))
    weights = folder / "vae" / f"{PARTS['vae']}.safetensors"
    shutil.copy(path, weights)
    if lie != "many names":  # well formed: what is in it is the library's to compare
        bounded(lambda: load_model(str(folder), device="cpu"), str(weights))
    shutil.copy(path, folder / "transformer" / f"{PARTS['transformer']}.safetensors")
    bounded(lambda: load_denoiser(model, folder / "transformer"), str(folder / "transformer"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tiny_model_folder: Path, folder: Path, tmp_path: Path, number: float) -> None:
    source = load_model(str(tiny_model_folder), device="cpu")
    next(iter(add_lora(source, rank=2, alpha=2, seed=0))).data[0, 0] = number
    file = save_lora(source, tmp_path / "lora")
    fresh = load_model(str(tiny_model_folder), device="cpu")
    bounded(lambda: load_lora(fresh, file), str(file), "non-finite")
    for part, stem in PARTS.items():
        path = folder / part / f"{stem}.safetensors"
        kept, tensors = path.read_bytes(), load_file(path)
        next(iter(tensors.values())).view(-1)[0] = number
        save_file(tensors, path, {"format": "pt"})
        refused(lambda: load_model(str(folder), device="cpu"), "non-finite")
        if part == "transformer":
            bounded(lambda: load_denoiser(fresh, folder / "transformer"), "non-finite")
        path.write_bytes(kept)
