"""Durable files: the one home of write, sync, rename and of digests.

Every writer goes through ``replacing``: temporary name in the same folder, fsync, rename, fsync of the folder. A reader
therefore sees the old file or the new one, never something between, also after a kill or a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densedpo.errors import ProjectError

_TEMPORARY = ".tmp-"


def fsync_folder(folder: Path) -> None:
    """Make the entries of ``folder`` (names, renames) durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; on success make it durable and rename it to ``path``.

    On an exception the temporary file is removed and ``path`` keeps its old content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: encoders and readers recognise formats by it.
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success make it durable and put it in place of ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_TEMPORARY}{os.getpid()}-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for item in sorted(temporary.rglob("*")):
            if item.is_file():
                fsync_file(item)
            else:
                fsync_folder(item)
        fsync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files and folders that killed processes left in ``folder``; return how many."""
    leftovers = list(folder.glob(f"{_TEMPORARY}*")) if folder.is_dir() else []
    for item in leftovers:
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)
    return len(leftovers)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` durably in place of ``path``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` durably as indented JSON; non-finite numbers are refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ProjectError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProjectError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path}: not readable as JSON ({error}); restore or remove it") from None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, reading in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, relative: str) -> Path:
    """Join ``relative`` to ``root`` and refuse anything that leads outside it.

    Raises:
        ProjectError: if the joined path, symbolic links resolved, is not below ``root``.
    """
    joined = (root / relative).resolve()
    if not joined.is_relative_to(root.resolve()):
        raise ProjectError(f"{relative!r} leads outside {root}; use a path inside the project")
    return joined
