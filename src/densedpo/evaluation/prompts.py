"""Prompt sets: text, CSV or JSONL files with a digest, so that a number can be traced to the prompts behind it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densedpo.errors import ConfigError
from densedpo.keys import content_id


@dataclass(frozen=True)
class Prompt:
    """One prompt, its content id, and whether no training set has held it."""

    prompt_id: str
    text: str
    held_out: bool = False


def make_prompts(texts: Iterable[str], *, held_out: bool = False) -> list[Prompt]:
    """Return prompts for texts; repeated ones are kept once, white space is collapsed, empty ones are dropped."""
    cleaned = dict.fromkeys(" ".join(text.split()) for text in texts)
    return [Prompt(content_id("prompt", text, length=12), text, held_out) for text in cleaned if text]


def load_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a file: one a line (.txt), or the column ``prompt`` (or ``caption``) of CSV or JSONL.

    Raises:
        ConfigError: if the file is missing, has another format, or holds no prompt.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt file; give a .txt, .csv or .jsonl file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            texts = [_pick(row, path, reader.line_num) for row in reader]
        except csv.Error as error:
            raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    elif path.suffix == ".jsonl":
        texts = [_pick(_json_row(line, path, n), path, n) for n, line in enumerate(text.splitlines(), start=1) if line]
    else:
        texts = text.splitlines()
    prompts = make_prompts(texts)
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt")
    return prompts


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """Return the digest of a prompt set, in order."""
    return content_id("prompts", [prompt.text for prompt in prompts])


def _json_row(line: str, path: Path, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {number}: not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number}: expected an object with a prompt")
    return row


def _pick(row: dict[str, str], path: Path, number: int) -> str:
    for name in ("prompt", "caption"):
        if isinstance(row.get(name), str):
            return row[name]
    raise ConfigError(f"{path}, line {number}: no column named prompt")
