"""Recipes of outside models' environments: what they say, and that their steps are taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from densedpo.errors import ConfigError
from densedpo.outside.environments import (
    ADAPTERS,
    Recipe,
    describe,
    install_steps,
    load_recipe,
    make,
    recipe_names,
    start_command,
)
from densedpo.outside.pipe import Adapter, parse_command
from densedpo.outside.wire import Item

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_every_outside_model_of_the_issue_has_a_recipe() -> None:
    assert {"videoreward", "visionreward", "videoscore2", "unifiedreward", "vbench"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_all_that_one_needs_to_know(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert (recipe.adapter is None) != (recipe.serve is None)
    assert recipe.adapter is None or (ADAPTERS / recipe.adapter).is_file()
    assert recipe.sources
    text = "\n".join(describe(recipe, tmp_path))
    for step in install_steps(recipe, tmp_path):
        assert step[-1] in text
    assert recipe.licence in text
    assert "{" not in text.replace('{"image": 32}', "")
    assert "Never run by this project" in text
    assert all(line in text for line in recipe.requirements)


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no such recipe; there are clip, unifiedreward"):
        load_recipe("vebnch")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "not a recipe"),
        ("name: x", "what: Field required"),
        ("name: ../x", "name: String should match"),
        ("a: !!python/object:os.system {}", "not a recipe"),
        ("no: yes\nno: [", "not a recipe"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as raised:
        load_recipe(str(path))
    assert "\n" not in str(raised.value)


def own_recipe(folder: Path, requirement: str) -> Recipe:
    """A recipe of the user's, with an adapter and a package that lie on this disk."""
    adapter = folder / "mine.py"
    adapter.write_text(
        f"import sys\nsys.path.insert(0, {str(ADAPTERS.parent)!r})\nfrom adapter import serve\nimport stand_in_model\n"
        "serve(lambda: lambda video, prompt: {'q': stand_in_model.rate(video)}, name='mine', scores=['q'])\n",
        encoding="utf-8",
    )
    values = {
        "name": "mine", "what": "a stand-in", "scores": "q", "used_by": ["score"], "python": VERSION,
        "requirements": [requirement], "disk_gb": 0.1, "gpu_gb": 0, "licence": "none", "adapter": str(adapter),
    }  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_recipe(str(path))


def local_package(folder: Path) -> str:
    """A wheel made by hand: pip installs it without a network and without building."""
    import zipfile

    wheel = folder / "stand_in_model-1.0-py3-none-any.whl"
    meta = "stand_in_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("stand_in_model.py", "def rate(video):\n    return 42.0\n")
        archive.writestr(f"{meta}/METADATA", "Metadata-Version: 2.1\nName: stand-in-model\nVersion: 1.0\n")
        archive.writestr(
            f"{meta}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{meta}/RECORD", f"stand_in_model.py,,\n{meta}/METADATA,,\n{meta}/WHEEL,,\n{meta}/RECORD,,\n")
    return str(wheel)


@pytest.fixture
def python_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python3.x`` of this version, whatever the machine calls it; no package index."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / f"python{VERSION}").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("python_on_path")
def test_an_environment_is_made_and_its_adapter_scores(tmp_path: Path) -> None:
    recipe = own_recipe(tmp_path, local_package(tmp_path))
    folder = tmp_path / "made"
    assert make(recipe, folder) == folder / "adapter.json"
    with Adapter(parse_command(str(folder), "--command"), tmp_path / "log", start_timeout_s=30) as adapter:
        assert next(adapter.score([Item(tmp_path / "mine.yaml")]))[1].scores == {"q": 42.0}
    before = (folder / "setup.log").read_bytes()
    make(recipe, folder)
    assert (folder / "setup.log").read_bytes() == before, "finished steps were repeated"


@pytest.mark.usefixtures("python_on_path")
def test_a_step_that_fails_is_named_and_repeated_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "bin" / f"python{VERSION}"
    pip.unlink()
    inner = r'printf "#!/bin/sh\necho no such package >&2; exit 7" > "$3/bin/python"'
    pip.write_text(f'#!/bin/sh\nmkdir -p "$3/bin"\n{inner}\nchmod +x "$3/bin/python"\n', encoding="utf-8")
    pip.chmod(0o755)
    recipe = own_recipe(tmp_path, "no-such-package==9")
    for _ in range(2):
        with pytest.raises(ConfigError) as raised:
            make(recipe, tmp_path / "made")
        assert "pip install -r" in str(raised.value)
        assert "failed (exit code 7): 'no such package'" in str(raised.value)
        assert str(tmp_path / "made" / "setup.log") in str(raised.value)
    assert not (tmp_path / "made" / "adapter.json").exists()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=f"python{VERSION}: not installed"):
        make(recipe, tmp_path / "other")


def densedpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "densedpo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_doctor_prints_the_steps_and_the_command() -> None:
    done = densedpo("doctor", "--setup", "vbench", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["command"] == start_command(load_recipe("vbench"), Path(said["folder"]))
    assert "vbench==0.1.5" in done.stderr
    listed = densedpo("doctor", "--setup", "list", "--json")
    assert json.loads(listed.stdout)["recipes"] == recipe_names()
    wrong = densedpo("doctor", "--setup", "nothing")
    assert wrong.returncode == 1
    assert "no such recipe" in wrong.stderr
