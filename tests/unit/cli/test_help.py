"""What the command line says about itself: help that fits, examples that hold, the version, completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from densedpo import __version__
from densedpo.cli.app import app
from densedpo.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[3]


def verbs(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, *path, name)


VERBS = dict(verbs(get_command(app)))


def run(*words: str, **environment: str) -> str:
    command = [sys.executable, "-c", "from densedpo.cli import main; main()", *words]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def mistakes(path: str, command: Any) -> list[str]:
    """Return what is wrong with the examples of one verb."""
    found = []
    for line in command.epilog.splitlines()[2:]:
        words = shlex.split(line)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        found += [word for word in words if word.startswith("--") and word not in known]
        if words[: 1 + len(path.split())] != ["densedpo", *path.split()]:
            found.append(line)
    return found


@pytest.mark.parametrize("path", VERBS)
def test_examples_can_be_typed(path: str) -> None:
    assert len(VERBS[path].epilog.splitlines()) > 2
    assert mistakes(path, VERBS[path]) == []


def test_a_wrong_example_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VERBS["report"], "epilog", "\b\nExample:\n  densedpo report --projekt x\n  densedpo reprot")
    assert mistakes("report", VERBS["report"]) == ["--projekt", "  densedpo reprot"]


def test_lists_of_commands_fit_a_terminal_of_80_columns() -> None:
    groups = {path.partition(" ")[0] for path in VERBS if " " in path}
    for words in ([], *([group] for group in sorted(groups))):
        listed = run(*words, "--help", COLUMNS="80").partition("Commands:")[2]
        assert listed and "..." not in listed, listed


def test_no_help_begins_with_a_word_of_code() -> None:
    helps = [p.help or "" for command in VERBS.values() for p in command.params]
    assert [text for text in helps if text.startswith(("Miniature", "Auto", "Postgresql", "Diffusers"))] == []


def test_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert run("--version") == f"densedpo {project['version']}\n" == f"densedpo {__version__}\n"


def test_the_doctor_knows_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("densedpo lab", ["label"]),
        ("densedpo label fr", ["freeze"]),
        ("densedpo pairs make --mode ", ["guided", "independent"]),
        ("densedpo train --storage-dtype ", ["bfloat16", "float8"]),
    ],
)
def test_completion(typed: str, offered: list[str]) -> None:
    words = typed.split(" ")
    shell = {"_DENSEDPO_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    driver = "import sys; sys.argv = ['densedpo']; from densedpo.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", driver], env=os.environ | shell, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == offered


def test_a_verb_says_what_comes_next_and_json_does_not(labelled_project: Path) -> None:
    command = [sys.executable, "-c", "from densedpo.cli import main; main()", "label", "freeze"]
    for more, ends in (([], f"next: densedpo train --project {labelled_project}\n"), (["--json"], "")):
        words = [*command, "--project", str(labelled_project), *more]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr.endswith(ends) and ("next:" in done.stderr) == bool(ends)
        assert "\nschema version" not in done.stderr
