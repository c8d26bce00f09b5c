"""One batch on disk: the questions of one file, and how far it is. What a killed command left is gone on with.

NAME.jsonl holds the requests until the batch runs; NAME.json says which replies are expected, where the file and the
batch are at the service, and the money set aside. NAME.json is written last and removed last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from densedpo.errors import LabelError
from densedpo.keys import content_id
from densedpo.store.files import read_object, replacing, write_json

MOST_ROWS = 50_000


@dataclass(frozen=True)
class Part:
    """A batch: its questions, its ids at the service once it has them, and the US dollars set aside.

    ``keys`` gives for the key of each whole reply the one that a reply cut short is kept under.
    """

    name: str
    keys: Mapping[str, str]
    reservation: str
    reserved: float
    file_id: str | None = None
    batch_id: str | None = None


@dataclass
class Filling:
    """A file that is being filled, of at most ``most_bytes`` and MOST_ROWS questions that cost at most ``left``."""

    most_bytes: float
    left: float
    keys: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    bytes: int = 0
    cost: float = 0.0

    def fits(self, line: str) -> bool:
        """Say whether there is room for one more line."""
        return self.bytes + _bytes(line) <= self.most_bytes and len(self.keys) < MOST_ROWS

    def affords(self, cost: float) -> bool:
        """Say whether there is money for a question that may cost so many US dollars."""
        return self.cost + cost <= self.left

    def add(self, key: str, cut_key: str, line: str, cost: float) -> None:
        """Add a question."""
        self.keys[key] = cut_key
        self.lines.append(line)
        self.bytes += _bytes(line)
        self.cost += cost


class PartStore:
    """The open batches of one service and model, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Look into ``folder``; requests that never became a part are removed."""
        self._folder = folder
        for leftover in folder.glob("*.jsonl"):
            if not leftover.with_suffix(".json").exists():
                leftover.unlink()

    def open_parts(self) -> list[Part]:
        """Return the parts that a command before this one left, oldest first.

        Raises:
            LabelError: if one cannot be read.
        """
        return [self._read(path) for path in sorted(self._folder.glob("*.json"))]

    def requests(self, part: Part) -> Path:
        """Return the file of a part's requests; it is there until the batch is started."""
        return self._folder / f"{part.name}.jsonl"

    def add(self, filled: Filling, reservation: str) -> Part:
        """Store a new part durably and return it; its cost is set aside under ``reservation``."""
        # a question that comes back without an answer is sent again: the name must tell the two apart
        name = f"{time.time_ns():020}-{content_id(sorted(filled.keys), length=8)}"
        part = Part(name, filled.keys, reservation, filled.cost)
        with replacing(self.requests(part)) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in filled.lines), encoding="utf-8")
        return self._save(part)

    def uploaded(self, part: Part, file_id: str) -> Part:
        """Remember the uploaded file."""
        return self._save(replace(part, file_id=file_id))

    def started(self, part: Part, batch_id: str) -> Part:
        """Remember the started batch; the requests are not needed any more."""
        part = self._save(replace(part, batch_id=batch_id))
        self.requests(part).unlink(missing_ok=True)
        return part

    def remove(self, part: Part) -> None:
        """Forget a part that is merged or failed."""
        self.requests(part).unlink(missing_ok=True)
        (self._folder / f"{part.name}.json").unlink(missing_ok=True)

    def _save(self, part: Part) -> Part:
        write_json(self._folder / f"{part.name}.json", asdict(part))
        return part

    def _read(self, path: Path) -> Part:
        try:
            return Part(**read_object(path))
        except TypeError as error:
            raise LabelError(f"{path}: not a batch's state ({error}); remove it to send its questions again") from None


def request_line(key: str, body: dict[str, Any]) -> str:
    """Return one line of a batch file."""
    row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _bytes(line: str) -> int:
    return len(line.encode()) + 1
