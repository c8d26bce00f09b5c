"""Finding the drawn object in the frames of a clip: background, soft mask and pose, for all frames at once.

This is the examiner's measuring half: it knows the world's rules (bilinear static background, one shape of one size)
but neither the scene nor the model that made the clip. Poses are fitted against a mask that ignores *which* colour the
object has, so a wrong colour does not spoil the measurement of place and size.

Shape letters: T frames, H and W pixels, K pixels across a crop, P pose parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.miniworld import scenes

Floats = NDArray[np.float64]

RADIUS_LIMITS_PX = (3.0, 6.5)  # a little beyond what the world draws; objects outside cannot be recomposed
TYPICAL_RADIUS_PX = 4.6
ANGLES_TRIED = 8
_CROP_PX = 23
_CANDIDATES, _COST_PER_PX = 3, 0.02  # a match is worth 0 to 1, so a teleport of 20 px costs as much as 40 % of it
_SCALE = np.array([1.0, 1.0, 1.0, 1.0 / TYPICAL_RADIUS_PX])  # x, y, radius in px; the angle moves the rim by 1 px
_LUMA_CHROMA = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


@dataclass(frozen=True)
class Poses:
    """Fitted poses of one shape: ``values`` [T, 4] as (x, y, radius, angle) and the squared mask error [T] in px."""

    values: Floats
    error_px: Floats


def luma_chroma(rgb: NDArray[np.floating]) -> Floats:
    """Map RGB [..., 3] to (luma, blue difference, red difference), each in levels (0 to 255, or within +-128)."""
    return np.asarray(np.asarray(rgb, dtype=np.float64) @ _LUMA_CHROMA.T)


def fit_background(frames: NDArray[np.uint8]) -> Floats:
    """Return the static bilinear background [H, W, 3] that explains most pixels of the clip's median frame."""
    height, width = frames.shape[1:3]
    target = np.median(frames, axis=0).reshape(-1, 3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].reshape(2, -1)
    basis = np.stack([np.ones_like(x), x, y, x * y], axis=1)
    weight = np.ones(len(target))
    estimate = np.empty_like(target)
    for spread in (20.0, 12.0, 8.0, 5.0, 3.0, 2.0, 2.0, 2.0):  # re-weighted least squares, ever stricter on outliers
        weighted = basis * weight[:, None]
        estimate = basis @ np.linalg.solve(weighted.T @ basis, weighted.T @ target)
        weight = 1 / (1 + (np.square(target - estimate).sum(axis=1) / spread**2)) ** 2
    return np.asarray(estimate.reshape(height, width, 3))


def object_colours(frames: Floats, ground: Floats) -> Floats:
    """Return the colour [T, 3] of what stands out from the background most, frame by frame."""
    flat = (frames - ground).reshape(len(frames), -1, 3)
    energy = np.square(flat).sum(axis=2)
    top = np.argpartition(energy, -24, axis=1)[:, -24:]
    strongest = np.take_along_axis(flat, top[..., None], axis=1)
    direction = np.median(strongest, axis=1)
    along = (flat * direction[:, None]).sum(axis=2)
    level = np.take_along_axis(along, top, axis=1).mean(axis=1)
    core = (along >= 0.85 * level[:, None]).astype(np.float64)[..., None]
    return np.asarray((frames.reshape(flat.shape) * core).sum(axis=1) / np.maximum(core.sum(axis=1), 1))


def soft_masks(frames: Floats, ground: Floats, colours: Floats) -> Floats:
    """Return the share [T, H, W] in [0, 1.2] by which each pixel has gone from background to object colour."""
    contrast = colours[:, None, None] - ground
    share = ((frames - ground) * contrast).sum(axis=3) / np.maximum(np.square(contrast).sum(axis=3), 1.0)
    return np.asarray(np.clip(share, 0.0, 1.2))


def smooth_coverage(shape: str, x: Floats, y: Floats, poses: Floats) -> Floats:
    """Return pixel coverage [T, K, K] of the shape with edges one pixel wide: a smooth ``scenes.coverage``.

    Args:
        shape: one of ``scenes.SHAPES``.
        x: [T, K] pixel columns.
        y: [T, K] pixel rows.
        poses: [T, 4] as (x, y, radius, angle).
    """
    radius = poses[:, 2, None, None]
    across = (x[:, None, :] - poses[:, 0, None, None]) / radius
    down = (y[:, :, None] - poses[:, 1, None, None]) / radius
    if poses[:, 3].any():
        cos, sin = np.cos(poses[:, 3])[:, None, None], np.sin(poses[:, 3])[:, None, None]
        across, down = cos * across + sin * down, cos * down - sin * across
    return np.clip(0.5 - radius * scenes.shape_distance(shape, across, down), 0.0, 1.0)


def locate(masks: Floats) -> Floats:
    """Return starting poses [T, 4]: where a typical disc matches each mask best, and the radius of the area there.

    Of several candidates the smoothest sequence is taken, so that a second object does not look like wild motion.
    """
    count, size = masks.shape[0], 2 * scenes.SIZE_PX
    middle = np.array([[scenes.SIZE_PX, scenes.SIZE_PX, TYPICAL_RADIUS_PX, 0.0]])
    line = np.arange(size, dtype=np.float64)[None]
    disc = smooth_coverage("circle", line, line, middle)[0]
    spectrum = np.conj(np.fft.rfft2(np.roll(disc, (-scenes.SIZE_PX, -scenes.SIZE_PX), axis=(0, 1))))
    match = np.fft.irfft2(np.fft.rfft2(masks, s=(size, size)) * spectrum, s=(size, size)) / disc.sum()
    columns, rows = _smoothest(match[:, : scenes.SIZE_PX, : scenes.SIZE_PX]).T
    poses = np.stack([columns, rows, np.full(count, TYPICAL_RADIUS_PX), np.zeros(count)], axis=1)
    crops, x, y, _ = crop(masks, poses)
    near = (np.abs(x - poses[:, :1]) <= 9)[:, None, :] & (np.abs(y - poses[:, 1:2]) <= 9)[:, :, None]
    crops = crops * near
    area = crops.sum(axis=(1, 2))
    poses[:, 0] += np.clip((crops * (x - poses[:, :1])[:, None, :]).sum(axis=(1, 2)) / (area + 1e-6), -1, 1)
    poses[:, 1] += np.clip((crops * (y - poses[:, 1:2])[:, :, None]).sum(axis=(1, 2)) / (area + 1e-6), -1, 1)
    poses[:, 2] = np.clip(np.sqrt(area / np.pi), *RADIUS_LIMITS_PX)
    return poses


def _smoothest(match: Floats) -> Floats:
    """Return one place [T, 2] as (x, y) a frame: the best matches [T, H, W], at a small cost for each px moved."""
    count = len(match)
    left = match.copy()
    line = np.arange(scenes.SIZE_PX)
    places, values = np.empty((count, _CANDIDATES, 2)), np.empty((count, _CANDIDATES))
    for number in range(_CANDIDATES):
        flat = left.reshape(count, -1)
        chosen = flat.argmax(axis=1)
        values[:, number] = flat[np.arange(count), chosen]
        rows, columns = np.divmod(chosen, scenes.SIZE_PX)
        places[:, number] = np.stack([columns, rows], axis=1)
        near = ((line - rows[:, None]) ** 2)[:, :, None] + ((line - columns[:, None]) ** 2)[:, None, :] < 7**2
        left[near] = -1.0
    total, came_from = values[0], np.zeros((count, _CANDIDATES), dtype=int)
    for frame in range(1, count):
        moved_px = np.linalg.norm(places[frame][:, None] - places[frame - 1][None], axis=2)
        reached = total[None] - _COST_PER_PX * np.minimum(moved_px, 20.0)
        came_from[frame] = reached.argmax(axis=1)
        total = values[frame] + reached.max(axis=1)
    path = [int(total.argmax())]
    for frame in range(count - 1, 0, -1):
        path.append(int(came_from[frame, path[-1]]))
    return places[np.arange(count), path[::-1]]


def crop(masks: Floats, poses: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Cut a square around each pose: (masks [T, K, K], columns [T, K], rows [T, K], 1 inside the frame [T, K, K])."""
    half = _CROP_PX // 2
    offset = np.arange(-half, half + 1)
    columns = np.rint(poses[:, :1]).astype(int) + offset
    rows = np.rint(poses[:, 1:2]).astype(int) + offset
    last = scenes.SIZE_PX - 1
    inside = (((rows >= 0) & (rows <= last))[:, :, None] & ((columns >= 0) & (columns <= last))[:, None, :]).astype(
        np.float64
    )
    picked = masks[
        np.arange(len(masks))[:, None, None], rows.clip(0, last)[:, :, None], columns.clip(0, last)[:, None, :]
    ]
    return picked * inside, columns.astype(np.float64), rows.astype(np.float64), inside


def with_best_angles(shape: str, masks: Floats, poses: Floats) -> Floats:
    """Return the poses with the best of a few angles over the shape's symmetry, to start a fit of turning objects."""
    crops, x, y, inside = crop(masks, poses)
    tried = np.arange(ANGLES_TRIED) * scenes.SYMMETRY_RAD[shape] / ANGLES_TRIED
    errors = []
    for angle in tried:
        turned = poses.copy()
        turned[:, 3] = angle
        errors.append(np.square(crops - inside * smooth_coverage(shape, x, y, turned)).sum(axis=(1, 2)))
    turned = poses.copy()
    turned[:, 3] = tried[np.argmin(errors, axis=0)]
    return turned


def refine(shape: str, masks: Floats, poses: Floats, free: tuple[int, ...], iterations: int = 7) -> Poses:
    """Fit the ``free`` pose columns of each frame to its mask by damped least squares (Levenberg-Marquardt)."""
    crops, x, y, inside = crop(masks, poses)
    columns = list(free)
    scale = _SCALE[columns]
    damping = np.full(len(masks), 1e-2)

    def model(candidate: Floats) -> Floats:
        return inside * smooth_coverage(shape, x, y, candidate)

    current, covered = poses.copy(), model(poses)
    error = np.square(crops - covered).sum(axis=(1, 2))
    for _ in range(iterations):
        slopes = np.empty((len(masks), len(columns), crops[0].size))
        for row, column in enumerate(columns):
            nudged = current.copy()
            nudged[:, column] += 0.1 * _SCALE[column]
            slopes[:, row] = (model(nudged) - covered).reshape(len(masks), -1) / 0.1
        curvature = slopes @ slopes.transpose(0, 2, 1)
        pull = (slopes @ (crops - covered).reshape(len(masks), -1, 1))[..., 0]
        floor = damping * (np.trace(curvature, axis1=1, axis2=2) / len(columns) + 1e-3)
        step = np.linalg.solve(curvature + floor[:, None, None] * np.eye(len(columns)), pull[..., None])[..., 0]
        trial = current.copy()
        trial[:, columns] += np.clip(step, -1.0, 1.0) * scale
        trial[:, 2] = np.clip(trial[:, 2], *RADIUS_LIMITS_PX)
        trial_covered = model(trial)
        trial_error = np.square(crops - trial_covered).sum(axis=(1, 2))
        better = trial_error < error
        current[better], covered[better], error[better] = trial[better], trial_covered[better], trial_error[better]
        damping = np.where(better, damping * 0.3, damping * 8)
    return Poses(current, error)


def fit_shape(shape: str, masks: Floats, start: Floats, *, turns: bool) -> Poses:
    """Fit one shape to each mask from starting poses [T, 4]: place and size, and the angle if the object ``turns``."""
    if not turns or shape == "circle":
        return refine(shape, masks, start, (0, 1, 2))
    return refine(shape, masks, with_best_angles(shape, masks, start), (0, 1, 2, 3))
