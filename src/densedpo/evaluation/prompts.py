"""Prompt sets: shipped ones by name, or files, with a digest, so that a number can be traced to the prompts behind it.

Files: text (one prompt a line), CSV, JSON or JSONL. The columns known are those of the public sets: ``prompt`` (VMBench
and most others), ``prompt_en`` (VBench), ``caption`` and ``text``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densedpo.errors import ConfigError
from densedpo.keys import content_id

COLUMNS = ("prompt", "prompt_en", "caption", "text")
_SETS = Path(__file__).with_name("prompt_sets")
_LISTS = ("prompts", "data")  # keys below which a JSON object keeps its rows
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Prompt:
    """One prompt and its content id."""

    prompt_id: str
    text: str


def make_prompts(texts: Iterable[str]) -> list[Prompt]:
    """Return prompts for texts; repeated ones are kept once, white space is collapsed, empty ones are dropped."""
    cleaned = dict.fromkeys(" ".join(text.split()) for text in texts)
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
        ConfigError: if there is neither, or the file is not usable.
    """
    if name in (known := shipped_sets()):
        return load_prompts(known[name]), name
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            f"{name}: no such prompt file, and no set of that name; give a .txt, .csv, .json or .jsonl file, or one "
            f"of: {', '.join(known)}"
        )
    return load_prompts(path), path.name


def load_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a file: one a line (.txt), or the first known column of CSV, JSON or JSONL rows.

    JSON may be a list of texts, a list of objects, or an object that holds such a list under ``prompts`` or ``data``.

    Raises:
        ConfigError: if the file is missing, has another format, or holds no prompt.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt file; give a .txt, .csv, .json or .jsonl file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if path.suffix == ".csv":
        texts = _of_csv(text, path)
    elif path.suffix == ".json":
        texts = _of_json(text, path)
    elif path.suffix == ".jsonl":
        rows = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        texts = [_pick(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}") for number, line in rows]
    else:
        texts = text.splitlines()
    prompts = make_prompts(texts)
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt")
    return prompts


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """Return the digest of a prompt set, in order."""
    return content_id("prompts", [prompt.text for prompt in prompts])


def _of_csv(text: str, path: Path) -> list[str]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [_pick(row, f"{path}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _of_json(text: str, path: Path) -> list[str]:
    value = _parsed(text, str(path))
    if isinstance(value, dict):
        value = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list):
        raise ConfigError(f"{path}: expected a list of prompts, or an object with one under {' or '.join(_LISTS)}")
    return [_pick(row, f"{path}, entry {number}") for number, row in enumerate(value, start=1)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ConfigError(f"{where}: not JSON that can be read (nested too deeply)") from None


def _pick(row: Any, where: str) -> str:
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object with a prompt")
    for name in COLUMNS:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise ConfigError(f"{where}: no column named prompt (nor {', '.join(COLUMNS[1:])})")
