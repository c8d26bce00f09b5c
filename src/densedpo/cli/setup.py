"""What ``doctor --setup`` does: says how the environment of an outside model is made, or makes it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from densedpo.errors import ConfigError
from densedpo.observe import say
from densedpo.outside.environments import describe, load_recipe, make, recipe_names, start_command, weight_steps


def set_up(name: str | None, folder: Path | None) -> dict[str, Any]:
    """Say the steps of a recipe, or take them in ``folder``; ``list`` says which recipes there are.

    Raises:
        ConfigError: if there is no such recipe, a folder is given without one, or a step fails.
    """
    if name is None:
        raise ConfigError("--make FOLDER needs --setup NAME: what is to be made?")
    if name == "list":
        found = [load_recipe(each) for each in recipe_names()]
        for recipe in found:
            say(f"{recipe.name}: {recipe.what}")
        return {"recipes": [recipe.name for recipe in found]}
    recipe = load_recipe(name)
    where = (folder or Path(recipe.name)).absolute()
    if folder is None:
        for line in describe(recipe, where):
            say(line)
    else:
        made = make(recipe, where)
        say(f"made; its command is in {made}")
        for step in weight_steps(recipe, where):
            say(f"still to do: {shlex.join(step)}")
    return {
        "setup": recipe.name,
        "folder": str(where),
        "made": folder is not None,
        "command": start_command(recipe, where),
        "weights": [shlex.join(step) for step in weight_steps(recipe, where)],
    }
