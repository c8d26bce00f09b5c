"""Durable files: the one home of write, sync, rename and of digests.

Every writer goes through ``replacing``: temporary name in the same folder, fsync, rename, fsync of the folder. A reader
therefore sees the old file or the new one, never something between, also after a kill or a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densedpo.errors import ProjectError

_TEMPORARY = ".tmp-"
_OWNED = re.compile(rf"{re.escape(_TEMPORARY)}(\d{{1,9}})-")  # the process id of whoever writes


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

    On an exception the temporary file is removed and ``path`` keeps its old content. An error of the system names
    ``path``, not the temporary file or nothing at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: encoders and readers recognise formats by it.
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and str(error.filename) in {"None", str(temporary)}:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success make it durable and put it in place of ``folder``.

    What was there is renamed aside, the new folder renamed in, then the old one deleted: a kill between the two renames
    leaves no ``folder``, never a mixture of both. ``remove_leftovers`` clears an old one that a kill left aside.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_TEMPORARY}{os.getpid()}-{folder.name}")
    aside = folder.with_name(f"{_TEMPORARY}{os.getpid()}-old-{folder.name}")
    for leftover in (temporary, aside):
        _remove(leftover)
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
            folder.replace(aside)
        temporary.replace(folder)
        fsync_folder(folder.parent)
        _remove(aside)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files and folders that killed processes left in ``folder``; return how many.

    Those of processes that are alive on this machine stay: another command may be at work in the same folder.
    """
    found = list(folder.glob(f"{_TEMPORARY}*")) if folder.is_dir() else []
    leftovers = [item for item in found if (match := _OWNED.match(item.name)) and not _is_alive(int(match[1]))]
    for item in leftovers:
        _remove(item)
    return len(leftovers)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
    except (ValueError, RecursionError) as error:  # also of bytes that are no UTF-8, and of a number too long to read
        raise ProjectError(f"{path}: not readable as JSON ({error}); restore or remove it") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises:
        ProjectError: if the file is missing, is not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ProjectError(f"{path}: expected a JSON object, got {type(value).__name__}; restore or remove it")
    return value


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
