"""How the environment of an outside model is made: recipes in YAML, the steps they mean, and taking these steps.

Outside models pin versions that contradict ours and one another, so each gets a virtual environment of its own:
FOLDER/venv, FOLDER/code, FOLDER/weights, and FOLDER/adapter.json, the command that starts its adapter.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from densedpo.config_section import Section
from densedpo.errors import ConfigError
from densedpo.observe import say
from densedpo.outside.pipe import COMMAND_FILE

RECIPES = Path(__file__).parent / "recipes"
ADAPTERS = Path(__file__).parent / "adapters"
_STEP_TIMEOUT_S = 4 * 3600.0


class Recipe(Section):
    """What an outside model needs. ``{code}``, ``{weights}`` and ``{bin}`` stand for its folders."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    what: str
    scores: str
    used_by: tuple[str, ...]
    python: str = Field(pattern=r"^3\.\d+$")
    requirements: tuple[str, ...] = Field(min_length=1)
    then: tuple[str, ...] = ()  # arguments of further pip calls, one after the other
    code: str | None = None
    weights: tuple[str, ...] = ()
    weights_gb: float = 0
    disk_gb: float
    gpu_gb: float
    licence: str
    adapter: str | None = None
    arguments: tuple[str, ...] = ()
    serve: str | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Return a recipe of ours, or that of a YAML file of the user's.

    Raises:
        ConfigError: if there is none of that name, or the file does not hold one.
    """
    path = RECIPES / f"{name}.yaml" if name in recipe_names() else Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise ConfigError(
            f"--setup {name}: no such recipe; there are {', '.join(recipe_names())}, or give a .yaml file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Recipe(**values)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: not a recipe ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place}: {first['msg']}") from None


def install_steps(recipe: Recipe, folder: Path) -> list[list[str]]:
    """Return the commands that make the environment; each is one process, no shell."""
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install"]
    steps = [[f"python{recipe.python}", "-m", "venv", str(folder / "venv")]]
    steps.append([*pip, "-r", str(folder / "requirements.txt")])
    steps += [[*pip, *shlex.split(more)] for more in recipe.then]
    if recipe.code is not None:
        steps.append(["git", "clone", "--depth", "1", recipe.code, str(folder / "code")])
    return steps


def weight_steps(recipe: Recipe, folder: Path) -> list[list[str]]:
    """Return the commands that fetch the weights: large, so they are left to the user."""
    old = any(line.startswith("huggingface-hub") and "<1" in line for line in recipe.requirements)
    hub = str(folder / "venv" / "bin" / ("huggingface-cli" if old else "hf"))
    return [
        [hub, "download", name, "--local-dir", str(folder / "weights" / name.rpartition("/")[2])]
        for name in recipe.weights
    ]


def start_command(recipe: Recipe, folder: Path) -> list[str]:
    """Return what starts the adapter, or the service."""
    places = {"code": folder / "code", "weights": folder / "weights", "bin": folder / "venv" / "bin"}
    if recipe.serve is not None:
        return shlex.split(recipe.serve.format(**{name: shlex.quote(str(path)) for name, path in places.items()}))
    assert recipe.adapter is not None
    script = Path(recipe.adapter) if Path(recipe.adapter).is_absolute() else ADAPTERS / recipe.adapter
    given = [argument.format(**places) for argument in recipe.arguments]
    return [str(folder / "venv" / "bin" / "python"), str(script), *given]


def describe(recipe: Recipe, folder: Path) -> list[str]:
    """Return the lines that tell a person everything: what, how large, licence, exact steps, notes, sources."""
    shown = [
        f"{recipe.name}: {recipe.what}",
        f"scores: {recipe.scores}",
        f"used by: densedpo {', '.join(recipe.used_by)}",
    ]
    shown.append(f"needs: Python {recipe.python}, {recipe.disk_gb:g} GB of disk, a GPU with {recipe.gpu_gb:g} GB")
    shown += [f"licence: {recipe.licence}", "", f"1. Write {folder / 'requirements.txt'}:"]
    shown += [f"       {line}" for line in recipe.requirements]
    shown += ["2. Run:", *(f"       {shlex.join(step)}" for step in install_steps(recipe, folder))]
    if recipe.weights:
        shown.append(f"3. Fetch the weights ({recipe.weights_gb:g} GB):")
        shown += [f"       {shlex.join(step)}" for step in weight_steps(recipe, folder)]
    shown += ["", "The command:", f"       {shlex.join(start_command(recipe, folder))}", ""]
    shown += [f"- {note}" for note in recipe.notes]
    shown.append(f"- Never run by this project. Written from {'; '.join(recipe.sources)}." if recipe.sources else "")
    return shown


def make(recipe: Recipe, folder: Path) -> Path:
    """Make the environment below ``folder`` and return the file with the command; finished steps are not repeated.

    Raises:
        ConfigError: naming the step that failed, its last words and the log.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(recipe.requirements) + "\n", encoding="utf-8")
    done = folder / "steps-done.txt"
    before = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    contents = json.dumps(recipe.requirements)  # other requirements are other steps
    for step in install_steps(recipe, folder):
        line = shlex.join(step)
        if f"{line} {contents}" in before:
            continue
        say(line)
        _run(step, folder / "setup.log")
        with done.open("a", encoding="utf-8") as file:
            file.write(f"{line} {contents}\n")
    made = folder / COMMAND_FILE
    made.write_text(
        json.dumps({"name": recipe.name, "command": start_command(recipe, folder)}) + "\n", encoding="utf-8"
    )
    return made


def _run(step: list[str], log: Path) -> None:
    if shutil.which(step[0]) is None:
        raise ConfigError(f"{step[0]}: not installed; install it, then repeat the command")
    with log.open("ab") as out:
        out.write(f"--- {shlex.join(step)}\n".encode())
        out.flush()
        # a virtual environment that is active here must not leak into the new one
        inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        try:
            done = subprocess.run(
                step,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=inherited,
                timeout=_STEP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{shlex.join(step)}: not done within {_STEP_TIMEOUT_S:g} s; see {log}") from None
    if done.returncode:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise ConfigError(
            f"{shlex.join(step)}: failed (exit code {done.returncode}): {said[-1][:300]!r}; the whole of it is in {log}"
        )
