"""Which files ``clips add`` looks at: what the user named, and what looks like video in the folders named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from densedpo.clips.probe import looks_like_video
from densedpo.errors import MediaError, ProjectError

_ISO = (".mp4", ".m4v", ".mov", ".3gp")
_MPEG = (".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob")
_OTHER = (".mkv", ".webm", ".avi", ".flv", ".ogv", ".ogg", ".gif", ".y4m", ".wmv", ".asf", ".ivf")
VIDEO_SUFFIXES = frozenset((*_ISO, *_MPEG, *_OTHER))


def find_files(sources: list[Path], excluded: Iterable[Path] = ()) -> list[Path]:
    """Return the video files below ``sources``, sorted within each source.

    A file named by the caller is always taken. In a folder those with a known suffix or a known beginning are; hidden
    files and folders are not, nor is anything below ``excluded``.

    Raises:
        ProjectError: if a source does not exist.
        MediaError: if nothing is found.
    """
    barred = [folder.resolve() for folder in excluded]
    found: dict[Path, None] = {}
    for source in sources:
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if _is_candidate(path, source) and not any(path.absolute().is_relative_to(b) for b in barred):
                    found[path] = None
        elif source.exists() or source.is_symlink():
            found[source] = None
        else:
            raise ProjectError(f"{source}: no such file or folder; give a video file or a folder of videos")
    if not found:
        raise MediaError(f"{', '.join(map(str, sources))}: no video file in it; give a folder that holds some")
    return list(found)


def _is_candidate(path: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
        return False
    return path.suffix.lower() in VIDEO_SUFFIXES or (path.is_file() and looks_like_video(path))
