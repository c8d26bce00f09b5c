"""The videos of a study: found in an evaluation, fingerprinted, and copied so that nothing tells them apart.

scores.parquet, videos/ -> Take (plan.py) -> cache/study/ITEM/{a,b}.mp4 -> the page. Both copies of an item have one
encoding, no metadata and the same number of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from av.error import FFmpegError

from densedpo.errors import MediaError, ProjectError
from densedpo.evaluation.study.plan import Item, Samples, Take
from densedpo.labels.people.asks import Card
from densedpo.labels.people.proxies import PairProxies, file_proxies
from densedpo.observe import track, warn
from densedpo.store.files import inside, sha256_file
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table


def sampled(project: Project, name: str) -> list[Row]:
    """Return the samples of evaluation ``name``: rows with model, prompt_id, prompt, seed and video.

    Raises:
        ProjectError: if there is no such evaluation, or its table lacks a column.
    """
    table = project.evaluation(name) / "scores.parquet"
    rows = read_table(project.need(table, f"densedpo evaluate --name {name}"))
    missing = {"model", "prompt_id", "prompt", "seed", "video"}.difference(*rows[:1])
    if not rows or missing:
        raise ProjectError(f"{table}: {'no rows' if not rows else 'no ' + ', '.join(sorted(missing))}; evaluate again")
    return rows


def take_all(folder: Path, rows: Sequence[Row], models: Sequence[str]) -> Samples:
    """Return the videos of ``models`` by (model, prompt id, seed), each with its digest; missing files are left out."""
    wanted = [row for row in rows if row["model"] in models]
    found = {}
    for row in track(wanted, "fingerprints of videos", total=len(wanted)):
        path = inside(folder, row["video"])
        if not path.is_file():
            warn(f"{path}: no such file; it is left out of the study")
            continue
        take = Take(row["model"], int(row["seed"]), row["video"], sha256_file(path))
        found[take.model, str(row["prompt_id"]), take.seed] = take
    return found


def card_of(folder: Path, item: Item) -> Card:
    """Return what the page has to know of an item.

    Raises:
        MediaError: if a side cannot be read, or they differ in rate, length or size.
    """
    a, b = (_shape(inside(folder, take.video)) for take in (item.a, item.b))
    if a != b:
        raise MediaError(
            f"{item.a.video} and {item.b.video}: {_told(a)} against {_told(b)}; only videos of one rate, length and "
            "size can be compared blindly"
        )
    return Card(item.item_id, item.prompt, *a)


def copies_of(project: Project, name: str, item: Item, card: Card) -> PairProxies:
    """Return the browser copies of an item, made where they are missing.

    Raises:
        MediaError: if a side cannot be read.
    """
    folder = project.evaluation(name)
    sources: dict[str, Path] = {"a": inside(folder, item.a.video), "b": inside(folder, item.b.video)}
    copies = project.cache / "study" / item.item_id
    return file_proxies(copies, sources, card.fps, card.num_frames, same_length=True)


def cards_of(folder: Path, items: Sequence[Item]) -> dict[str, Card]:
    """Return the cards of all items that can be shown, with a warning for each other."""
    cards = {}
    for item in items:
        try:
            cards[item.item_id] = card_of(folder, item)
        except MediaError as error:
            warn(f"left out of the study: {error}")
    return cards


def _shape(path: Path) -> tuple[float, int, int, int]:
    """Return frames per second, frames, height and width in px, from the head of one of our own files."""
    try:
        with path.open("rb") as file, av.open(file, "r", format="mp4") as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            if rate is None:
                raise MediaError(f"{path}: no frame rate; make it again")
            return float(rate), stream.frames, stream.height, stream.width
    except (FFmpegError, OSError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "no video in it"
        raise MediaError(f"{path}: cannot be read ({reason}); make it again") from None


def _told(shape: tuple[float, int, int, int]) -> str:
    fps, count, height, width = shape
    return f"{count} frames of {width}x{height} at {fps:g} a second"
