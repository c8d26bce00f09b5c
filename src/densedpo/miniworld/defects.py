"""Planted defects: a scene rendered with one known fault, to test that the examiner sees it.

The first six are what the validation promises to catch; the others are typical faults of a video model. All are drawn
from a stream, so the same ids give the same fault.

Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from densedpo.keys import Part, stream
from densedpo.miniworld import scenes

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Defective:
    """A clip with a planted defect.

    Attributes:
        kind: one of ``DEFECTS``.
        frames: [T, H, W, 3], 8-bit RGB.
        touched: the frames that the defect changes or, for a break in time, that follow it directly.
    """

    kind: str
    frames: Frames
    touched: slice


def plant(kind: str, scene: scenes.Scene, *ids: Part) -> Defective:
    """Render ``scene`` with a defect of ``kind`` (a key of ``DEFECTS``), placed by the stream of ``ids``."""
    frames, touched = DEFECTS[kind](scene, stream("miniworld", "defect", kind, *ids))
    return Defective(kind, frames, touched)


def path_steps(scene: scenes.Scene) -> Floats:
    """Return how far the object (for a spin, its rim) truly moves at each step [T - 1], in px a frame."""
    if scene.subject.motion == "spin":
        return np.abs(np.diff(scene.angle_rad)) * scene.radius_px
    return np.asarray(np.linalg.norm(np.diff(scene.centre_px, axis=0), axis=1))


def _span(rng: np.random.Generator, count: int, shortest: int, longest: int) -> slice:
    length = int(rng.integers(shortest, longest + 1))
    start = int(rng.integers(0, count - length + 1))
    return slice(start, start + length)


def _alpha(scene: scenes.Scene) -> Floats:
    count = len(scene.centre_px)
    radius = np.full(count, scene.radius_px)
    return scenes.coverage(scene.subject.shape, scene.centre_px, radius, scene.angle_rad).astype(np.float64)


def _compose(scene: scenes.Scene, alpha: Floats, colours: Floats) -> Frames:
    """Draw colours [T, 3] over the scene's background where ``alpha`` [T, H, W] says so."""
    ground = scenes.background(scene.corners_rgb)[None]
    frames = ground + alpha[..., None] * (colours[:, None, None] - ground)
    return np.round(frames).astype(np.uint8)


def _colours(scene: scenes.Scene, name: str | None = None) -> Floats:
    return np.tile(np.array(scenes.COLOURS[name or scene.subject.colour], dtype=np.float64), (len(scene.centre_px), 1))


def _missing_part(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 8, 20)
    heading = rng.uniform(0, 2 * np.pi)
    keep_px = rng.uniform(-0.1, 0.3) * scene.radius_px
    line = np.arange(scenes.SIZE_PX)
    across = (line - scene.centre_px[:, :1])[:, None, :] * np.cos(heading)
    down = (line - scene.centre_px[:, 1:])[:, :, None] * np.sin(heading)
    alpha = _alpha(scene)
    alpha[touched] *= (across + down < keep_px)[touched]
    return _compose(scene, alpha, _colours(scene)), touched


def _other_colour(scene: scenes.Scene, rng: np.random.Generator) -> str:
    others = [name for name in scenes.COLOURS if name != scene.subject.colour]
    return others[int(rng.integers(len(others)))]


def _wrong_colour(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 8, 20)
    colours = _colours(scene)
    colours[touched] = scenes.COLOURS[_other_colour(scene, rng)]
    return _compose(scene, _alpha(scene), colours), touched


def _wrong_colour_throughout(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    colours = _colours(scene, _other_colour(scene, rng))
    return _compose(scene, _alpha(scene), colours), slice(0, len(colours))


def _flicker(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 8, 20)
    colours = _colours(scene)
    colours[touched.start : touched.stop : 2] *= rng.uniform(0.6, 0.8)
    return _compose(scene, _alpha(scene), colours), touched


def _jump(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    """Move the object elsewhere from some frame on, clearly further than its own longest step."""
    low, high = scene.radius_px + 0.5, scenes.SIZE_PX - 1.5 - scene.radius_px
    wanted_px = 4.0 + 1.5 * float(np.linalg.norm(np.diff(scene.centre_px, axis=0), axis=1).max())
    best: tuple[float, int, Floats] | None = None
    for _ in range(200):
        frame = int(rng.integers(4, len(scene.centre_px) - 4))
        centre = scene.centre_px.copy()
        centre[frame:] = np.clip(centre[frame:] + rng.uniform(-20, 20, size=2), low, high)
        length = float(np.linalg.norm(centre[frame] - centre[frame - 1]))
        if best is None or length > best[0]:
            best = (length, frame, centre)
        if length >= wanted_px:
            break
    assert best is not None
    return scenes.render(replace(scene, centre_px=best[2])), slice(best[1], best[1] + 1)


def _freeze(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    """Repeat a frame until the object has missed 3 px of its way (4 to 14 frames), then go on as if nothing were."""
    steps = path_steps(scene)
    start = int(rng.integers(3, len(steps) - 18))
    missed = np.cumsum(steps[start:])
    length = int(np.clip(np.searchsorted(missed, 3.0) + 1, 4, 14))
    frames = scenes.render(scene)
    frames[start + 1 : start + 1 + length] = frames[start]
    return frames, slice(start + 1, start + 2 + length)


def _blur(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    frames = scenes.render(scene).astype(np.float64)
    reach = np.arange(-5, 6)
    kernel = np.exp(-np.square(reach / rng.uniform(1.2, 1.8)) / 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(frames, [(5, 5) if a == axis else (0, 0) for a in range(4)], mode="edge")
        window = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        frames = window @ kernel
    return np.round(frames).astype(np.uint8), slice(0, len(frames))


def _deformed(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    """Let the outline bulge in two or three lobes, differently in each frame."""
    count = len(scene.centre_px)
    line = np.arange(scenes.SIZE_PX)
    across = (line - scene.centre_px[:, :1])[:, None, :] + np.zeros((1, scenes.SIZE_PX, 1))
    down = (line - scene.centre_px[:, 1:])[:, :, None] + np.zeros((1, 1, scenes.SIZE_PX))
    lobes, phase = int(rng.integers(2, 4)), rng.uniform(0, 2 * np.pi, size=(count, 1, 1))
    bulge = 1 + rng.uniform(0.2, 0.3) * np.cos(lobes * np.arctan2(down, across) + phase)
    cos, sin = np.cos(scene.angle_rad)[:, None, None], np.sin(scene.angle_rad)[:, None, None]
    radius = scene.radius_px * bulge
    distance = scenes.shape_distance(
        scene.subject.shape, (cos * across + sin * down) / radius, (cos * down - sin * across) / radius
    )
    return _compose(scene, np.clip(0.5 - radius * distance, 0, 1), _colours(scene)), slice(0, count)


def _see_through(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 8, 20)
    alpha = _alpha(scene)
    alpha[touched] *= rng.uniform(0.4, 0.6)
    return _compose(scene, alpha, _colours(scene)), touched


def _doubled(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 8, 20)
    middle = (scenes.SIZE_PX - 1) / 2
    away = np.where(scene.centre_px > middle, -1.0, 1.0) * rng.uniform(10, 14, size=2)
    alpha = _alpha(scene)
    second = _alpha(replace(scene, centre_px=scene.centre_px + away))
    alpha[touched] = np.maximum(alpha, second)[touched]
    return _compose(scene, alpha, _colours(scene)), touched


def _vanished(scene: scenes.Scene, rng: np.random.Generator) -> tuple[Frames, slice]:
    touched = _span(rng, len(scene.centre_px), 4, 12)
    alpha = _alpha(scene)
    alpha[touched] = 0
    return _compose(scene, alpha, _colours(scene)), touched


DEFECTS: dict[str, Callable[[scenes.Scene, np.random.Generator], tuple[Frames, slice]]] = {
    "missing part": _missing_part,
    "wrong colour": _wrong_colour,
    "wrong colour throughout": _wrong_colour_throughout,
    "flicker": _flicker,
    "jump": _jump,
    "freeze": _freeze,
    "blur": _blur,
    "deformed": _deformed,
    "see-through": _see_through,
    "doubled": _doubled,
    "vanished": _vanished,
}
