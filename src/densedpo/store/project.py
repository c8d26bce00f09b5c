"""The project folder: one place that knows where everything lies.

See docs/reference/project-folder.md for what each file holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from densedpo.errors import ProjectError
from densedpo.store.files import inside

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Project:
    """Paths below a project's root. Nothing is created until a stage writes."""

    root: Path
    label_store_url: str | None = field(default=None, repr=False)

    @property
    def settings_file(self) -> Path:
        """``densedpo.yaml``: the settings that made what is here."""
        return self.root / "densedpo.yaml"

    @property
    def clips(self) -> Path:
        """One folder a clip: ``clip.mp4`` in the model's geometry and ``row.json``."""
        return self.root / "clips"

    @property
    def clips_table(self) -> Path:
        """Table of the clips."""
        return self.clips / "clips.parquet"

    @property
    def pairs(self) -> Path:
        """One folder a pair: ``a.mp4``, ``b.mp4``, ``latents.safetensors`` and ``row.json``."""
        return self.root / "pairs"

    @property
    def pairs_table(self) -> Path:
        """Table of the pairs."""
        return self.pairs / "pairs.parquet"

    @property
    def labels(self) -> Path:
        """The label store and what is derived from it."""
        return self.root / "labels"

    @property
    def labels_database(self) -> Path:
        """Append-only answers in SQLite."""
        return self.labels / "labels.db"

    @property
    def label_store(self) -> Path | str:
        """Where the answers lie: ``labels_database``, or the PostgreSQL URL that the settings name."""
        return self.label_store_url or self.labels_database

    @property
    def gold_file(self) -> Path:
        """Answers known to be right, which people are measured by."""
        return self.labels / "gold.jsonl"

    @property
    def snapshots(self) -> Path:
        """Frozen labels, one Parquet file each, named by content."""
        return self.labels / "snapshots"

    @property
    def audit_file(self) -> Path:
        """What ``label audit`` found last."""
        return self.labels / "audit.json"

    @property
    def accuracy_file(self) -> Path:
        """How right judges are, as ``label agreement --against`` found last."""
        return self.labels / "accuracy.json"

    @property
    def cache(self) -> Path:
        """What can be computed again: text embeddings, frame measures."""
        return self.root / "cache"

    @property
    def judge_replies(self) -> Path:
        """What services replied to judges' questions, and what that cost; SQLite."""
        return self.cache / "judge_replies.db"

    @property
    def outside(self) -> Path:
        """Scores and logs of models that run in another process."""
        return self.cache / "outside"

    @property
    def runs(self) -> Path:
        """One folder a training run."""
        return self.root / "runs"

    @property
    def evaluations(self) -> Path:
        """One folder an evaluation."""
        return self.root / "evals"

    @property
    def samples(self) -> Path:
        """What models drew: one folder for each way of making videos, shared by all evaluations."""
        return self.root / "samples"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report"

    def run(self, name: str) -> Path:
        """Return the folder of run ``name``.

        Raises:
            ProjectError: if the name is more than letters, digits, ``.``, ``_`` and ``-``, or leads outside ``runs/``.
        """
        return _named(self.runs, name)

    def evaluation(self, name: str) -> Path:
        """Return the folder of evaluation ``name``.

        Raises:
            ProjectError: as ``run``, for ``evals/``.
        """
        return _named(self.evaluations, name)

    def need(self, path: Path, remedy: str) -> Path:
        """Return ``path`` if it exists.

        Raises:
            ProjectError: naming the path and the command that makes it; of a run or evaluation, the names there are.
        """
        if path.exists():
            return path
        missing = next((each for each in (path, *path.parents) if each.parent.is_dir()), path)
        there = missing.parent in (self.runs, self.evaluations) and sorted(
            each.name for each in missing.parent.iterdir() if each.is_dir()
        )
        named = f", or name one of: {', '.join(there)}" if there else ""
        raise ProjectError(f"{path}: not there yet; run `{remedy}` first{named}")


def _named(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise ProjectError(f"name {name!r} cannot be a folder of {folder}; use letters, digits, '.', '_' and '-'")
    return inside(folder, name)
