"""What ``doctor`` looks at: versions, extras, devices, codecs and the model."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from densedpo import __version__
from densedpo.config import Settings
from densedpo.errors import DenseDPOError
from densedpo.observe import say, warn

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "pyarrow", "sqlalchemy")
# the extras of the package, and the module that each brings
EXTRAS = {
    "judges": "openai",
    "postgres": "psycopg",
    "ray": "ray",
    "tensorboard": "tensorboard",
    "torchao": "torchao",
    "trackio": "trackio",
    "wandb": "wandb",
}


def examine_environment(settings: Settings) -> dict[str, Any]:
    """Return what was found; problems are listed with their remedy."""
    import av
    import psutil
    import torch

    from densedpo.models.load import load_geometry

    problems: list[str] = []
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed; run `pip install densedpo` again")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if "libx264" not in av.codecs_available:
        problems.append("PyAV has no H.264 encoder; install the `av` wheel from the package index")
    geometry: dict[str, Any] | None = None
    try:
        geometry = load_geometry(settings.model, revision=settings.revision).as_dict()
    except DenseDPOError as error:
        problems.append(str(error))
    missing = [name for name, module in EXTRAS.items() if find_spec(module) is None]
    say(f"GPUs: {', '.join(gpus) or 'none; the miniature needs none, full-size models do'}")
    if geometry is not None:
        size = "{num_frames} frames of {height}x{width} px at {fps:g} fps".format(**geometry)
        say(f"clips of {settings.model}: {size}")
    if missing:
        say(f"extras not installed: {', '.join(missing)}; pip install 'densedpo[NAME]' adds one")
    for problem in problems:
        warn(problem)
    if not problems:
        say("no problem found")
    return {
        "densedpo": __version__,
        "python": platform.python_version(),
        "versions": versions,
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "extras_missing": missing,
        "gpus": gpus,
        "model": settings.model,
        "clip_geometry": geometry,
        "problems": problems,
    }
