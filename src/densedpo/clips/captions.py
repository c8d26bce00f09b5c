"""Captions for video files: from a table (CSV, JSONL, Parquet) or from text files beside the videos.

A table has the columns ``path`` and ``caption``; paths are relative to the folder of the videos or of the table, or
absolute. The sidecar of ``name.mp4`` is ``name.txt``; the table has the last word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from densedpo.errors import MediaError, ProjectError
from densedpo.store.rows import ROW_SUFFIXES, read_rows

MAX_CAPTION_CHARACTERS = 10_000


@dataclass
class Captions:
    """Captions by resolved file; ``named`` keeps how the table spelled each path, for messages.

    ``needed`` is False where no file has a caption at all: then all of them get the empty one.
    """

    by_file: dict[Path, str] = field(default_factory=dict)
    named: dict[Path, str] = field(default_factory=dict)
    needed: bool = True

    def of(self, file: Path) -> str:
        """Return the caption of a video file, from the table or else from its sidecar.

        Raises:
            MediaError: if one is needed and there is none, or it is empty, too long or not UTF-8.
        """
        text = self.by_file.get(file.resolve())
        sidecar = file.with_suffix(".txt")
        if text is None and sidecar.is_file():
            try:
                text = clean(sidecar.read_text(encoding="utf-8-sig"))
            except (UnicodeDecodeError, OSError) as error:
                raise MediaError(f"{file}: caption file {sidecar.name} is not readable as UTF-8 ({error})") from None
        if text is None and not self.needed:
            return ""
        if not text:
            raise MediaError(f"{file}: no caption; add a row to the captions table or a file {sidecar.name}")
        if len(text) > MAX_CAPTION_CHARACTERS:
            raise MediaError(f"{file}: caption of {len(text)} characters; at most {MAX_CAPTION_CHARACTERS} are taken")
        return text

    def missing_files(self) -> list[str]:
        """Return the paths in the table, as written there, that lead to no file."""
        return sorted(name for path, name in self.named.items() if not path.exists())


def find_table(sources: Iterable[Path]) -> Path | None:
    """Return the first ``captions.csv``, ``.jsonl`` or ``.parquet`` that lies in a source folder."""
    tables = (source / f"captions{suffix}" for source in sources for suffix in ROW_SUFFIXES)
    return next((table for table in tables if table.is_file()), None)


def clean(text: str) -> str:
    """Return ``text`` as one line: control characters become spaces, runs of white space one space."""
    plain = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    return " ".join(plain.split())


def read_captions(table: Path | None, folders: Iterable[Path]) -> Captions:
    """Read a captions table; without one, only sidecars will be found.

    Args:
        table: CSV, JSONL or Parquet file with the columns ``path`` and ``caption``, UTF-8; or None.
        folders: where relative paths are looked up, in this order, before the folder of the table.

    Raises:
        ProjectError: if the table is missing, of an unknown kind, unreadable or without the two columns.
    """
    captions = Captions()
    if table is None:
        return captions
    places = [*folders, table.parent]
    for line, row in read_rows(table):
        name, text = (row.get("path"), row.get("caption")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not name:
            raise ProjectError(f"{table}: line {line} has no 'path'; each row must have path and caption")
        candidates = [(place / name).resolve() for place in places]
        file = next((path for path in candidates if path.exists()), candidates[0])
        captions.by_file[file] = clean(text) if isinstance(text, str) else ""
        captions.named[file] = name
    return captions
