"""The fingerprint of a model folder: what ties a pair, a cache or a LoRA to the weights that made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK_BYTES = 64 * 1024
_NUM_BLOCKS = 64
_SUFFIXES = {".json", ".safetensors", ".model", ".txt"}  # what load.py fetches


def fingerprint_folder(folder: Path) -> str:
    """Return 16 hexadecimal digits over the configuration, weight and tokenizer files of a model folder.

    Files of up to 4 MiB are read whole; of larger ones only the size and 64 evenly spaced blocks of 64 KiB, head and
    tail among them, so that a 14-billion-parameter model takes seconds. A retrained or re-quantised file differs in
    nearly every block; a change of a few bytes between the blocks goes unnoticed: this tells models apart, it is no
    proof against tampering.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _BLOCK_BYTES * _NUM_BLOCKS:
                digest.update(file.read())
                continue
            for block in range(_NUM_BLOCKS):
                file.seek(block * (size - _BLOCK_BYTES) // (_NUM_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
