"""Mutation testing: change one thing in a source file at a time and see whether the tests notice.

``python tools/mutate.py src/densedpo/labels/grid.py --tests tests/property/test_segment_grid.py`` ends with the share
of mutants killed and a list of the survivors. The working tree is only read: mutants lie in a temporary copy. Libraries
are imported once; every mutant runs in a process forked after that. Ours, because mutmut 3 leaves properties and other
decorated functions alone, and cosmic-ray rewrites the file in place and starts Python anew for every mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import hypothesis
import pytest
from _mutations import Mutant, mutants

WORDS, MODULES = "mutate.log", "mutate-modules.json"


def chosen(source: str, lines: list[str], only: list[str], sample: int | None) -> list[Mutant]:
    """Return the mutants on ``lines`` ("A-B") and inside the functions or classes ``only``, or an even sample."""
    ranges = [tuple(int(number) for number in text.split("-")) for text in lines]
    defined = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in only
    ]
    if missing := set(only) - {n.name for n in defined}:
        sys.exit(f"mutate: the source defines no {', '.join(sorted(missing))}")
    ranges += [(n.lineno, n.end_lineno or n.lineno) for n in defined]
    found = [m for m in mutants(source) if not ranges or any(a <= m.line <= b for a, b in ranges)]
    count = min(sample or len(found), len(found))
    return [found[index * len(found) // count] for index in range(count)]


def copy_project(root: Path, into: Path, changing: set[str]) -> None:
    """Copy the top-level folders ``changing`` of a project and link the rest, hidden files excepted."""
    for entry in root.iterdir():
        if entry.name in changing:
            shutil.copytree(entry, into / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (into / entry.name).symlink_to(entry)


def forked(arguments: list[str], folder: Path, limit_s: float) -> bool:
    """Run pytest in a forked process; return whether it passed in time. ``folder`` gets its words and modules."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        words = os.open(folder / WORDS, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in range(3):
            os.dup2(words, stream)
        code = 1
        try:
            code = int(pytest.main(arguments))
            files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
            (folder / MODULES).write_text(json.dumps({name: file for name, file in files.items() if file}))
        finally:
            os._exit(code)
    stop = time.monotonic() + limit_s
    status = None
    while status is None and time.monotonic() < stop:
        done, ended = os.waitpid(pid, os.WNOHANG)
        status = ended if done else None
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):  # what a test started ends with it
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
    return status == 0


def warm_up(arguments: list[str], target: Path, folder: Path) -> float:
    """Run the tests on the source as it is, then import the libraries that they did; return a mutant's time limit.

    Our own modules stay out of this process: type checkers remember classes by name and would mix up two versions.
    """
    if not forked(arguments, folder, limit_s=3600):
        sys.exit(f"{(folder / WORDS).read_text()}\nmutate: the tests fail on the source as it is; mend them first")
    modules = json.loads((folder / MODULES).read_text())
    if str(target) not in modules.values():
        sys.exit(f"mutate: these tests do not import {target.relative_to(folder)}")
    for name in [name for name, file in modules.items() if not file.startswith(f"{folder}/")]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.dont_write_bytecode = True
    for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*"):
        compiled.unlink()  # else a mutant of the same size, written within the same second, would be taken for this
    target.write_text(ast.unparse(ast.parse(target.read_text())))  # as mutants are written
    start = time.monotonic()
    if not forked(arguments, folder, limit_s=3600):
        sys.exit(f"{(folder / WORDS).read_text()}\nmutate: the tests do not pass twice; mutants would all seem killed")
    return 30 + 5 * (time.monotonic() - start)


def run(source: Path, tests: list[str], names: str, todo: list[Mutant], limit_s: float | None) -> list[Mutant]:
    """Return the mutants of ``source`` that ``tests``, those with ``names``, let live."""
    root = next(folder for folder in source.parents if (folder / "pyproject.toml").exists())
    here = source.relative_to(root)
    options = ["-x", "-q", "-k", names, "-p", "no:cacheprovider", "--hypothesis-profile=mutation", *tests]
    options += ["-W", "ignore:Module already imported"]  # by the run before the fork
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_project(root, folder, {here.parts[0], *(Path(test).parts[0] for test in tests)})
        os.chdir(folder)
        usual_s = warm_up(options, folder / here, folder)
        start = time.monotonic()
        for done, mutant in enumerate(todo, start=1):
            (folder / here).write_text(mutant.source)
            if forked(options, folder, limit_s or usual_s):
                survivors.append(mutant)
            left_s = (time.monotonic() - start) / done * (len(todo) - done)
            print(
                f"\r{done}/{len(todo)}, {len(survivors)} survived, {left_s:.0f} s left ",
                end="",
                file=sys.stderr,
                flush=True,
            )
        os.chdir(root)
    print(file=sys.stderr)
    return survivors


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Mutation testing of one source file.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--tests", nargs="+", required=True, help="test files or test ids, from the project root")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only tests with such names, as in pytest")
    parser.add_argument("--lines", action="append", default=[], metavar="A-B", help="only these lines; may be repeated")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these functions or classes")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants evenly spread instead of all")
    parser.add_argument("--examples", type=int, default=40, help="examples of a hypothesis test (default: 40)")
    parser.add_argument("--limit-s", type=float, help="seconds after which a mutant counts as hanging, and killed")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file too")
    arguments = parser.parse_args()
    hypothesis.settings.register_profile(
        "mutation", max_examples=arguments.examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    out = arguments.json.resolve() if arguments.json else None
    source = arguments.source.resolve()
    todo = chosen(source.read_text(), arguments.lines, arguments.only, arguments.sample)
    if not todo:
        sys.exit("mutate: nothing to change there")
    survivors = run(source, arguments.tests, arguments.k, todo, arguments.limit_s)
    killed = len(todo) - len(survivors)
    print(f"{arguments.source}: {killed} of {len(todo)} mutants killed, {100 * killed / len(todo):.1f} %")
    for mutant in survivors:
        print(f"  line {mutant.line}: {mutant.before}  ->  {mutant.after}")
    if out:
        listed = [{key: value for key, value in asdict(m).items() if key != "source"} for m in survivors]
        out.write_text(json.dumps({"mutants": len(todo), "killed": killed, "survivors": listed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
