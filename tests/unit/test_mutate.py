"""The mutation testing command, on a project of one function."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).resolve().parents[2] / "tools" / "mutate.py"
SOURCE = """class Steps:
    @property
    def count(self) -> int:
        return 3


def sum_up(values: list[int]) -> int:
    total = 0
    while values:
        total += values.pop()
    return total


def at_least_two(number: int) -> bool:
    if number < 0:
        raise ValueError("negative")
    return number >= 2
"""
STRONG = """import pytest
from tiny import Steps, at_least_two, sum_up

def test_all():
    assert Steps().count == 3 and sum_up([1, 2]) == 3
    assert [at_least_two(n) for n in range(4)] == [False, False, True, True]
    with pytest.raises(ValueError):
        at_least_two(-1)
"""
WEAK = """from tiny import Steps, at_least_two, sum_up

def test_some():
    assert Steps().count and sum_up([0]) == 0 and at_least_two(5)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["src"]\n',
        "src/tiny.py": SOURCE,
        "tests/test_strong.py": STRONG,
        "tests/test_weak.py": WEAK,
        "tests/test_wrong.py": "import tiny\n\ndef test_wrong():\n    assert tiny.sum_up([1]) == 2\n",
        "tests/test_other.py": "def test_other():\n    pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def mutate(project: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    command = [sys.executable, str(MUTATE), "src/tiny.py", "--tests", tests, *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    return done


def test_a_strong_test_kills_every_mutant(project: Path) -> None:
    done = mutate(project, "tests/test_strong.py", "--limit-s", "5")
    assert done.returncode == 0, done.stderr
    assert "100.0 %" in done.stdout and done.stdout.count("\n") == 1
    assert "0 survived, 0 s left" in done.stderr


def test_a_weak_test_lets_some_live(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out") / "out.json"
    done = mutate(project, "tests/test_weak.py", "--limit-s", "5", "--json", str(out))
    assert "line 4: return 3  ->  return 4" in done.stdout  # inside a property
    assert "line 17: return number >= 2  ->  return number > 2" in done.stdout
    assert "line 16: raise ValueError('negative')  ->  pass" in done.stdout
    found = json.loads(out.read_text())
    assert 0 < found["killed"] == found["mutants"] - len(found["survivors"])
    assert {"line": 17, "before": "return number >= 2", "after": "return number > 2"} in found["survivors"]


def test_a_mutant_that_hangs_is_killed(project: Path) -> None:
    (project / "src/tiny.py").write_text("def zero(n: int) -> int:\n    while n:\n        n -= 1\n    return n\n")
    (project / "tests/test_zero.py").write_text("from tiny import zero\n\ndef test_zero():\n    assert zero(2) == 0\n")
    done = mutate(project, "tests/test_zero.py", "--lines", "3-3", "--sample", "1", "--limit-s", "5")
    assert "1 of 1 mutants killed" in done.stdout  # n += 1 never ends


@pytest.mark.parametrize(
    ("tests", "options", "words"),
    [
        ("tests/test_wrong.py", (), "the tests fail on the source as it is"),
        ("tests/test_other.py", (), "do not import src/tiny.py"),
        ("tests/test_strong.py", ("--only", "missing"), "defines no missing"),
    ],
)
def test_what_would_mean_nothing_is_refused(project: Path, tests: str, options: tuple[str, ...], words: str) -> None:
    done = mutate(project, tests, *options)
    assert done.returncode == 1 and words in done.stderr


def test_a_part_may_be_chosen(project: Path) -> None:
    done = mutate(project, "tests/test_strong.py", "--only", "at_least_two", "--sample", "3")
    assert "3 of 3 mutants killed" in done.stdout
