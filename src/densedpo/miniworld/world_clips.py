"""Write clips of the world as real video files with captions: the miniature's stand-in for a folder of footage."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from densedpo.clips.encode import write_video
from densedpo.evaluation.prompts import Prompt, make_prompts
from densedpo.keys import stream
from densedpo.miniworld import scenes
from densedpo.observe import track
from densedpo.store.files import replacing

HELD_OUT = "miniature, held out"  # name of the prompt set


@dataclass(frozen=True)
class WorldClips:
    """Where the files went."""

    folder: str
    captions: str
    clips: int


def write_world_clips(folder: Path, count: int, seed: int) -> WorldClips:
    """Write ``count`` clips of training subjects and ``captions.csv``; existing files are kept.

    Subjects come in shuffled rounds, so that few clips already show many subjects.
    """
    pool = [subject for subject in scenes.subjects() if not scenes.held_out(subject)]
    order = [
        pool[int(place)]
        for turn in range(count // len(pool) + 1)
        for place in stream("miniworld", "world-order", seed, turn).permutation(len(pool))
    ][:count]
    rows = []
    for index, subject in enumerate(track(order, "drawing clips")):
        name = f"{index:04d}-{subject.caption.replace(' ', '-')}.mp4"
        if not (folder / name).exists():
            frames = scenes.render(scenes.draw_scene(subject, "world", seed, index))
            write_video(folder / name, frames, scenes.FPS)
        rows.append((name, subject.caption))
    captions = folder / "captions.csv"
    with replacing(captions) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "caption"), *rows])
    return WorldClips(str(folder), str(captions), count)


def held_out_prompts() -> list[Prompt]:
    """Return the captions that no training set of this world has ever held."""
    return make_prompts(s.caption for s in scenes.subjects() if scenes.held_out(s))
