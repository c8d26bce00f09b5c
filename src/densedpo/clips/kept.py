"""Which clips later stages use: all of them, or those that ``clips filter`` kept once it has run."""

from __future__ import annotations

from pathlib import Path

from densedpo.errors import ProjectError
from densedpo.observe import warn
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


def decisions_file(project: Project) -> Path:
    """Return the table of decisions, one row a clip."""
    return project.clips / "filter.parquet"


def kept_clips(project: Project) -> list[Row]:
    """Return the rows of the clips that pairs are made of.

    A clip that was added, or changed, since the filter ran is left out with a warning: nobody has decided about it.

    Raises:
        ProjectError: if there are no clips, or the filter left out all of them.
    """
    clips = read_table(project.clips_table)
    if not clips:
        raise ProjectError(f"{project.clips}: no clips yet; run `densedpo clips add FOLDER` first")
    if not decisions_file(project).exists():
        return clips
    decided = {_identity(row): bool(row["kept"]) for row in read_table(decisions_file(project))}
    if new := sum(_identity(row) not in decided for row in clips):
        warn(f"{new} clips were added or changed since the filter ran and are left out; repeat `densedpo clips filter`")
    kept = [row for row in clips if decided.get(_identity(row))]
    if not kept:
        raise ProjectError(
            f"{decisions_file(project)}: none of {len(clips)} clips is kept; repeat `densedpo clips filter` with other "
            "limits"
        )
    return kept


def _identity(row: Row) -> tuple[str, str, str]:
    return row["clip_id"], row["sha256"], row["caption"]
