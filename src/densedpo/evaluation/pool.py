"""The pool of samples: ``PROJECT/samples/DIGEST/``, one folder for all that a video depends on but its prompt and seed.

The base is therefore sampled once for every evaluation of a project, and several machines may fill one folder: shards
do disjoint batches, in any order. An evaluation's own folder gets hard links, so removing either leaves the other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densedpo.evaluation.prompts import Prompt
from densedpo.evaluation.sampling import RECIPE_FILE, SampledVideo, SamplingRecipe, plan_batches
from densedpo.keys import content_id
from densedpo.store.files import replacing, write_json
from densedpo.store.project import Project


@dataclass(frozen=True)
class Maker:
    """What a video depends on besides its prompt and seed.

    Attributes:
        recipe: steps, guidance and shift.
        base: fingerprint of the base.
        dtype: number format of the denoiser.
        tuned: digest of what was tuned; None for the base.
        lora_scale: strength of the LoRA; 0 for the base.
    """

    recipe: SamplingRecipe
    base: str
    dtype: str
    tuned: str | None
    lora_scale: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        recipe = {"steps": self.recipe.steps, "cfg": self.recipe.cfg, "shift": self.recipe.shift}
        return recipe | {"base": self.base, "dtype": self.dtype, "tuned": self.tuned, "lora_scale": self.lora_scale}

    @property
    def digest(self) -> str:
        """Name of its folder in the pool."""
        return content_id("samples", self.as_dict())

    def open(self, project: Project) -> Path:
        """Return the folder, made if need be, with the record of what makes its videos."""
        folder = project.samples / self.digest
        if not (folder / RECIPE_FILE).is_file():
            write_json(folder / RECIPE_FILE, self.as_dict())
        return folder


def plan(prompts: Sequence[Prompt], maker: Maker, project: Project) -> list[list[SampledVideo]]:
    """Return the batches of a maker's videos, in the pool."""
    return plan_batches(prompts, maker.recipe, project.samples / maker.digest)


def publish(videos: Sequence[SampledVideo], folder: Path) -> None:
    """Make ``folder`` hold exactly these videos: hard links, or copies where the file system has no links."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {video.path.name: video.path for video in videos}
    for stale in [path for path in folder.glob("*.mp4") if path.name not in wanted]:
        stale.unlink(missing_ok=True)
    for name, source in wanted.items():
        target = folder / name
        if target.exists() and target.samefile(source):
            continue
        with replacing(target) as temporary:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
