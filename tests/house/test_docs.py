"""What the documents say exists: commands, options, settings, links and the tests behind the promises."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RunCommand = Callable[..., dict[str, Any]]


def documents(root: Path) -> list[Path]:
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def shell_lines(document: Path) -> list[str]:
    """Return the command lines of the ``sh`` blocks; comments are cut and continued lines joined."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))


def split_command(line: str) -> tuple[list[str], list[str]]:
    """Return (verb words, options) of a ``densedpo`` line: words up to the first that cannot be a verb."""
    words = line.split()[1:]
    verbs: list[str] = []
    for word in words[:2]:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        verbs.append(word)
    return verbs, [word.partition("=")[0] for word in words if word.startswith("--")]


def missing_links(document: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [
        target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target and not leads(document, target)
    ]


def leads(document: Path, target: str) -> bool:
    """Return whether a link's file exists and has the heading that it names."""
    name, _, anchor = target.partition("#")
    page = document.parent / name if name else document
    return page.exists() and (not anchor or anchor in anchors(page.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """Return what links may name in a page: its headings, in small letters with hyphens."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def missing_tests(root: Path, text: str) -> list[str]:
    """Return the references ``tests/...py::name`` in ``text`` whose file or function is not there."""
    missing = []
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        file = root / path
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module(body=[], type_ignores=[])
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}:
            missing.append(f"{path}::{name}")
    return missing


def test_make_targets_in_documents_exist(root: Path) -> None:
    targets = make_targets((root / "Makefile").read_text(encoding="utf-8"))
    used = {
        word
        for document in documents(root)
        for line in shell_lines(document)
        if line.startswith("make ")
        for word in line.split()[1:]
        if "=" not in word
    }
    assert {"demo", "test"} <= used
    assert used <= targets


def test_commands_in_documents_exist(root: Path, run_command: RunCommand) -> None:
    lines = [line for document in documents(root) for line in shell_lines(document) if line.startswith("densedpo ")]
    split = [split_command(line) for line in lines]
    assert any(verbs == ["train"] for verbs, _ in split)
    results = run_command([[*verbs, "--help"] for verbs, _ in split])["results"]
    for line, (_, options), result in zip(lines, split, results, strict=True):
        assert result["code"] == 0, f"{line}: {result['text']}"
        assert all(option in result["text"] for option in options), f"{line}: an option is unknown"


def test_an_invented_command_is_found(run_command: RunCommand) -> None:
    verbs, options = split_command("densedpo trian --method dense")
    assert (verbs, options) == (["trian"], ["--method"])
    assert run_command([[*verbs, "--help"]])["results"][0]["code"] == 2


def settings_page_is_current(page: str, root: Path) -> bool:
    """Run the generator's check in a copy of the tree that holds ``page``."""
    command = [sys.executable, str(root / "tools" / "settings_page.py"), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    (root / "docs" / "reference" / "settings.md").write_text(page, encoding="utf-8")
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode == 0


def test_settings_page_is_current(tmp_path: Path) -> None:
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert settings_page_is_current(page, tmp_path), "run: make docs"
    assert not settings_page_is_current(page.replace("| `train.beta` |", "| `train.gamma` |"), tmp_path)


def test_links_lead_somewhere(root: Path) -> None:
    broken = {str(document.relative_to(root)): missing_links(document) for document in documents(root)}
    assert {name: links for name, links in broken.items() if links} == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = "[gone](gone.md) [here](page.md#the-part) [no part](#a-part) [web](https://example.org)"
    page.write_text(f"# The `part`\n{links}", encoding="utf-8")
    assert missing_links(page) == ["gone.md", "#a-part"]


def test_promises_name_tests_that_exist(root: Path) -> None:
    text = (root / "docs/promises.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert rows
    assert [row for row in rows if "::" not in row] == []
    assert missing_tests(root, text) == []


@pytest.mark.parametrize("reference", ["tests/house/test_docs.py::test_gone", "tests/house/test_gone.py::test_docs"])
def test_an_invented_test_is_found(root: Path, reference: str) -> None:
    assert missing_tests(root, f"| 1 | promise | `{reference}` |") == [reference]
    assert missing_tests(root, "`tests/house/test_docs.py::test_an_invented_test_is_found`") == []


def test_changelog_knows_the_version(root: Path) -> None:
    version = re.search(r'^version = "(.+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert version
    assert f"## [{version[1]}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {version[1]}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
