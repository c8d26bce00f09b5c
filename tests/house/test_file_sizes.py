"""One concept a file: none above 400 lines, half of them within 150."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

LONGEST = 400
MEDIAN = 150


def line_counts(folder: Path) -> dict[str, int]:
    files = [
        *folder.rglob("*.py"),
        *folder.rglob("*.js"),
        *folder.rglob("*.css"),
        *folder.rglob("*.j2"),
        *folder.rglob("*.html"),
    ]
    return {
        str(path.relative_to(folder)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
        if path.stat().st_size > 0
    }


def assert_small(counts: dict[str, int]) -> None:
    assert counts
    too_long = {name: lines for name, lines in counts.items() if lines > LONGEST}
    assert not too_long, f"split these: {too_long}"
    assert statistics.median(counts.values()) <= MEDIAN


def test_source_files_are_small(root: Path) -> None:
    assert_small(line_counts(root / "src" / "densedpo"))


@pytest.mark.parametrize("lengths", [[LONGEST + 1, 10, 10], [MEDIAN + 1] * 3, []])
def test_long_files_are_found(tmp_path: Path, lengths: list[int]) -> None:
    for number, length in enumerate(lengths):
        (tmp_path / f"planted_{number}.py").write_text("pass\n" * length, encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_small(line_counts(tmp_path))
