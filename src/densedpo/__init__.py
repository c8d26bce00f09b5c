"""densedpo: post-train text-to-video diffusion models on fine-grained temporal preferences (arXiv 2506.03517).

Public names are loaded on first use, so that ``import densedpo`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densedpo.config import Settings
    from densedpo.diffusion.flow import guided_start
    from densedpo.labels.grid import SegmentGrid
    from densedpo.models.load import load_model
    from densedpo.pairs.make import make_pairs
    from densedpo.store.project import Project
    from densedpo.training.loss import dense_dpo_loss
    from densedpo.training.options import DenseDPOConfig
    from densedpo.training.rows import dataset_from_rows
    from densedpo.training.trainer import DenseDPOTrainer

__version__ = "0.1.0"

_HOMES = {
    "DenseDPOConfig": "densedpo.training.options",
    "DenseDPOTrainer": "densedpo.training.trainer",
    "Project": "densedpo.store.project",
    "SegmentGrid": "densedpo.labels.grid",
    "Settings": "densedpo.config",
    "dataset_from_rows": "densedpo.training.rows",
    "dense_dpo_loss": "densedpo.training.loss",
    "guided_start": "densedpo.diffusion.flow",
    "load_model": "densedpo.models.load",
    "make_pairs": "densedpo.pairs.make",
}

__all__ = [
    "DenseDPOConfig",
    "DenseDPOTrainer",
    "Project",
    "SegmentGrid",
    "Settings",
    "dataset_from_rows",
    "dense_dpo_loss",
    "guided_start",
    "load_model",
    "make_pairs",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'densedpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
