"""Prompt sets: shipped ones by name, or files, with a digest, so that a number can be traced to the prompts behind it.

Files: text (one prompt a line), CSV, JSON, JSONL or Parquet. The columns known are those of the public sets: ``prompt``
(VMBench and most others), ``prompt_en`` (VBench), ``caption`` and ``text``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densedpo.clips.captions import clean
from densedpo.errors import ConfigError
from densedpo.keys import content_id
from densedpo.store.rows import ROW_SUFFIXES, read_rows

COLUMNS = ("prompt", "prompt_en", "caption", "text")
_SETS = Path(__file__).with_name("prompt_sets")
_LISTS = ("prompts", "data")  # keys below which a JSON object keeps its rows
_KINDS = ".txt, .csv, .json, .jsonl or .parquet"
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Prompt:
    """One prompt and its content id."""

    prompt_id: str
    text: str


def make_prompts(texts: Iterable[str]) -> list[Prompt]:
    """Return prompts for texts; repeated ones are kept once, white space is collapsed, empty ones are dropped."""
    cleaned = dict.fromkeys(clean(text) for text in texts)
    return [Prompt(content_id("prompt", text, length=12), text) for text in cleaned if text]


def wording(text: str) -> str:
    """Return what is left of a prompt without case and punctuation: prompts with the same of it ask for the same."""
    return _NOT_WORDS.sub(" ", text).strip().casefold() or text


def shipped_sets() -> dict[str, Path]:
    """Return the prompt sets that come with the package: file by name."""
    return {path.stem: path for path in sorted(_SETS.glob("*.txt"))}


def find_prompts(name: str) -> tuple[list[Prompt], str]:
    """Return the prompts of a shipped set or of a file, and the set's name: the shipped one, or the file's.

    Raises:
        ConfigError: if there is neither, or the file holds no prompts.
        ProjectError: if its rows cannot be read.
    """
    if name in (known := shipped_sets()):
        return load_prompts(known[name]), name
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            f"{name}: no such prompt file, and no set of that name; give a {_KINDS} file, or one of: {', '.join(known)}"
        )
    return load_prompts(path), path.name


def load_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a file: one a line (.txt), or the first known column of CSV, JSON, JSONL or Parquet rows.

    JSON may be a list of texts, a list of objects, or an object that holds such a list under ``prompts`` or ``data``.

    Raises:
        ConfigError: if the file is missing, has another format, or holds no prompt.
        ProjectError: if its rows cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt file; give a {_KINDS} file")
    if path.suffix.lower() in ROW_SUFFIXES:
        texts = [_pick(row, f"{path}, line {line}") for line, row in _rows(path)]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from None
        texts = _of_json(text, path) if path.suffix.lower() == ".json" else text.split("\n")
    prompts = make_prompts(texts)
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt; give one a line, or rows with a column named prompt")
    return prompts


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """Return the digest of a prompt set, in order."""
    return content_id("prompts", [prompt.text for prompt in prompts])


def _rows(path: Path) -> list[tuple[int, Any]]:
    rows = read_rows(path)
    if path.suffix.lower() != ".parquet":
        return rows  # None is a CSV's row that was cut short, or a null that somebody wrote: to be looked at
    return [(line, {name: "" if cell is None else cell for name, cell in row.items()}) for line, row in rows]


def _of_json(text: str, path: Path) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); correct it") from None
    if isinstance(value, dict):
        value = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list):
        raise ConfigError(f"{path}: expected a list of prompts, or an object with one under {' or '.join(_LISTS)}")
    return [_pick(row, f"{path}, entry {number}") for number, row in enumerate(value, start=1)]


def _pick(row: Any, where: str) -> str:
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: expected a prompt, or an object with one")
    found = next((row[name] for name in COLUMNS if name in row), None)
    if not isinstance(found, str):
        columns = ", ".join(repr(name) for name in row)
        others = ", ".join(COLUMNS[1:])
        raise ConfigError(f"{where}: no column named prompt (nor {others}) with a text in it; there are {columns}")
    return found
