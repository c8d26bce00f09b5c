"""What ``doctor`` looks at: versions, devices, codecs and the model."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from densedpo.config import Settings
from densedpo.errors import DenseDPOError
from densedpo.observe import say, warn

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "pyarrow", "sqlalchemy")


def examine_environment(settings: Settings) -> dict[str, Any]:
    """Return what was found; problems are listed with their remedy."""
    import av
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
    for name, text in {"python": platform.python_version(), **versions}.items():
        say(f"{name} {text}")
    say(f"devices: {os.cpu_count()} CPU cores, torch uses {torch.get_num_threads()}; GPUs: {', '.join(gpus) or 'none'}")
    say(f"model {settings.model}: {geometry}")
    for problem in problems:
        warn(problem)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
        "model": settings.model,
        "clip_geometry": geometry,
        "problems": problems,
    }
