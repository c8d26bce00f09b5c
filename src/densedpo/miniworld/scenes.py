"""The drawn world: what a scene is, how it is chosen at random and how its frames are rendered.

A scene is one coloured shape on a static, unevenly lit background, moving in one of five ways at a speed that varies
widely and is *not* in the caption. Everything a frame shows follows from the frozen ``Scene`` record, so the examiner's
validation can compare what it measured with what was drawn.

Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.keys import Part, content_id, stream

SIZE_PX = 32
FPS = 8.0
NUM_FRAMES = 33  # 4k + 1, as a causal VAE with temporal stride 4 wants; 4.1 s, hence four 1 s segments

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 55, 45),
    "green": (60, 195, 75),
    "blue": (70, 105, 240),
    "yellow": (240, 210, 55),
    "magenta": (220, 75, 205),
    "cyan": (55, 210, 220),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS: dict[str, str] = {
    "drift": "drifting",
    "bounce": "bouncing",
    "orbit": "orbiting",
    "zigzag": "zigzagging",
    "spin": "spinning",
}
# Angle after which a shape looks the same again; a circle has none to see, so it never spins.
SYMMETRY_RAD = {"square": np.pi / 2, "triangle": 2 * np.pi / 3, "cross": np.pi / 2, "circle": np.inf}

SPEED_PX_S = (1.6, 16.0)  # log-uniform
RADIUS_PX = (3.8, 5.4)  # uniform; radius of the disc of equal area
_SUPERSAMPLE = 4


@dataclass(frozen=True)
class Subject:
    """What a caption names: a colour, a shape and a motion kind."""

    colour: str
    shape: str
    motion: str

    @property
    def caption(self) -> str:
        """Return the caption; speed, size, place and background are left out on purpose."""
        return f"a {self.colour} {self.shape} {MOTIONS[self.motion]}"


@dataclass(frozen=True)
class Scene:
    """One clip of the world, complete: rendering reads nothing else."""

    subject: Subject
    radius_px: float
    centre_px: NDArray[np.float64]  # [T, 2] as (x, y)
    angle_rad: NDArray[np.float64]  # [T]
    corners_rgb: NDArray[np.float64]  # [2, 2, 3]: top-left, top-right / bottom-left, bottom-right
    speed_px_s: float  # mean speed along the path (of the rim, for a spin)


def subjects() -> list[Subject]:
    """Return every subject of the world, in a fixed order (a circle never spins)."""
    return [
        Subject(colour, shape, motion)
        for colour in COLOURS
        for shape in SHAPES
        for motion in MOTIONS
        if not (shape == "circle" and motion == "spin")
    ]


def held_out(subject: Subject) -> bool:
    """Say whether a subject is kept out of every training set and used for evaluation only.

    Decided by a hash of the caption, so the split never depends on order or version: 24 of the 114 subjects. The salt
    was picked, before any training, so that every colour, shape and motion occurs on both sides.
    """
    return int(content_id("held-out/65", subject.caption), 16) % 5 == 0


def parse_caption(caption: str) -> Subject | None:
    """Return the subject that a caption names, or None if it is not a caption of this world."""
    words = caption.lower().replace(".", "").split()
    colour = next((name for name in COLOURS if name in words), None)
    shape = next((name for name in SHAPES if name in words), None)
    motion = next((name for name, phrase in MOTIONS.items() if phrase in words), None)
    if colour is None or shape is None or motion is None:
        return None
    return Subject(colour, shape, motion)


def _fold(position: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Reflect positions at two walls: the triangle wave that equals the identity inside [low, high]."""
    span = high - low
    folded: NDArray[np.float64] = low + span - np.abs((position - low) % (2 * span) - span)
    return folded


def _path(
    rng: np.random.Generator, motion: str, radius_px: float, arc_px: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres [T, 2] and angles [T] for a distance travelled ``arc_px`` [T] along the path."""
    low, high = radius_px + 0.5, SIZE_PX - 1.5 - radius_px
    still = np.zeros_like(arc_px)
    start = rng.uniform(low, high, size=2)
    heading = rng.uniform(0, 2 * np.pi)
    sign = rng.choice([-1.0, 1.0])
    if motion == "drift":
        xy = start + arc_px[:, None] * np.array([np.cos(heading), np.sin(heading)])
        return np.stack([_fold(xy[:, 0], low, high), _fold(xy[:, 1], low, high)], axis=1), still
    if motion == "zigzag":  # sharp turns of 90 degrees along a horizontal advance
        height = rng.uniform(4.0, 8.0)
        advance, sway = arc_px / np.sqrt(2), arc_px / np.sqrt(2)
        middle = rng.uniform(low + height / 2, high - height / 2)
        y = _fold(middle - height / 2 + sway, middle - height / 2, middle + height / 2)
        return np.stack([_fold(start[0] + sign * advance, low, high), y], axis=1), still
    if motion == "bounce":  # parabolas on a floor; the phase advances so that the mean speed is the arc's
        height = rng.uniform(6.0, high - low)
        hop_px = 2.3 * height
        phase = (arc_px / hop_px + rng.uniform()) % 1.0
        y = high - height * (1 - (2 * phase - 1) ** 2)
        return np.stack([_fold(start[0] + sign * arc_px * 0.25, low, high), y], axis=1), still
    if motion == "orbit":
        orbit_px = rng.uniform(4.5, min(8.5, (high - low) / 2))
        middle_xy = rng.uniform(low + orbit_px, high - orbit_px, size=2)
        turn = heading + sign * arc_px / orbit_px
        return middle_xy + orbit_px * np.stack([np.cos(turn), np.sin(turn)], axis=1), still
    return np.repeat(start[None], len(arc_px), axis=0), heading + sign * arc_px / radius_px  # spin


def draw_scene(subject: Subject, *ids: Part) -> Scene:
    """Choose a scene at random for a subject; the same ids always give the same scene."""
    rng = stream("miniworld", "scene", subject.caption, *ids)
    radius = float(rng.uniform(*RADIUS_PX))
    low, high = SPEED_PX_S
    if subject.motion == "spin":  # keep the turn per frame below half the symmetry angle, or it reads backwards
        high = min(high, 0.4 * float(SYMMETRY_RAD[subject.shape]) * radius * FPS)
    speed = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    # Speed breathes slowly within the clip, so that segments of one clip differ in difficulty.
    time_s = np.arange(NUM_FRAMES) / FPS
    breathing = 1 + 0.5 * np.sin(2 * np.pi * (time_s / rng.uniform(3.0, 6.0) + rng.uniform()))
    step_px = speed / FPS * breathing / breathing.mean()
    arc = np.concatenate([[0.0], np.cumsum(step_px[:-1])])
    centre, angle = _path(rng, subject.motion, radius, arc)
    corners = rng.uniform(18, 62, size=(2, 2, 1)) + rng.uniform(0, 34, size=(2, 2, 3))
    return Scene(subject, radius, centre, angle, corners, speed)


def shape_distance(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance-like field of a shape whose area is that of the unit disc: negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1.0
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.sqrt(np.pi) / 2
    if shape == "triangle":  # equilateral, pointing up; inradius from area 3 sqrt(3) r^2 = pi
        inradius = np.sqrt(np.pi / (3 * np.sqrt(3)))
        third = np.sqrt(3) / 2
        return np.maximum(y, np.maximum(third * x - 0.5 * y, -third * x - 0.5 * y)) - inradius
    arm = np.sqrt(np.pi / 5)  # cross: five squares of side ``arm``
    wide = np.maximum(np.abs(x) - 1.5 * arm, np.abs(y) - 0.5 * arm)
    tall = np.maximum(np.abs(x) - 0.5 * arm, np.abs(y) - 1.5 * arm)
    return np.minimum(wide, tall)


def coverage(
    shape: str, centre_px: NDArray[np.float64], radius_px: NDArray[np.float64], angle_rad: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the share of each pixel that the shape covers, [N, H, W] in [0, 1], for N poses.

    Args:
        shape: one of ``SHAPES``.
        centre_px: [N, 2] as (x, y), pixel centres at whole numbers.
        radius_px: [N] radius of the disc of equal area.
        angle_rad: [N] rotation.
    """
    fine = (np.arange(SIZE_PX * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - 0.5
    x = fine[None, None, :] - centre_px[:, 0, None, None]
    y = fine[None, :, None] - centre_px[:, 1, None, None]
    cos, sin = np.cos(angle_rad)[:, None, None], np.sin(angle_rad)[:, None, None]
    radius = radius_px[:, None, None]
    inside = shape_distance(shape, (cos * x + sin * y) / radius, (-sin * x + cos * y) / radius) < 0
    shaped = inside.reshape(len(centre_px), SIZE_PX, _SUPERSAMPLE, SIZE_PX, _SUPERSAMPLE)
    return shaped.mean(axis=(2, 4), dtype=np.float32)


def background(corners_rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bilinear background [H, W, 3] between four corner colours, 0 to 255."""
    across = np.linspace(0, 1, SIZE_PX)
    top = corners_rgb[0, 0] + across[:, None] * (corners_rgb[0, 1] - corners_rgb[0, 0])
    bottom = corners_rgb[1, 0] + across[:, None] * (corners_rgb[1, 1] - corners_rgb[1, 0])
    return top[None] + across[:, None, None] * (bottom - top)[None]


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene to frames [T, H, W, 3], 8-bit RGB."""
    count = len(scene.centre_px)
    alpha = coverage(scene.subject.shape, scene.centre_px, np.full(count, scene.radius_px), scene.angle_rad)
    colour = np.array(COLOURS[scene.subject.colour], dtype=np.float64)
    ground = background(scene.corners_rgb)[None]
    frames = ground + alpha[..., None] * (colour - ground)
    return np.round(frames).astype(np.uint8)
