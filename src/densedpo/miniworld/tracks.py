"""What a fitted track says about motion and about breaks in it, kept apart so that neither can be read as the other.

*Speed* comes from curves fitted to short windows, each step taking the best-fitting window that holds it, so corners
stay sharp while jitter averages out; what outruns its surroundings counts as a teleport, not as motion. *Breaks* are
teleports and freezes: steps far above or, for several frames, far below those around them. Comparing step lengths,
never directions, keeps both blind to turns, bounces and reflections.

Shape letters: T frames, D coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

JUMP_SLACK_PX = 1.0
JUMP_RATIO = 1.6
FASTEST_STEP_PX = 6.5  # the world's fastest legitimate step: a quick bounce at the top of its breathing
FREEZE_MISSING_PX = 1.0
FREEZE_SHARE = 0.12
_NEIGHBOURS = 6


def step_lengths(track: Floats) -> Floats:
    """Return the length [T - 1] of each step of a track [T, D], in px a frame."""
    return np.asarray(np.linalg.norm(np.diff(track, axis=0), axis=1))


def surrounding_step(steps: Floats) -> Floats:
    """Return for each step the second longest of its nearest neighbours [T - 1], in px a frame.

    The second longest, so that a pair of teleports (there and back) cannot vouch for each other; the world's fastest
    where there are too few neighbours to tell.
    """
    places = np.arange(len(steps))
    result = np.zeros(len(steps))
    for step in places:
        others = places[places != step]
        nearest = others[np.argsort(np.abs(others - step), kind="stable")[:_NEIGHBOURS]]
        result[step] = np.sort(steps[nearest])[-2] if len(nearest) >= 2 else FASTEST_STEP_PX
    return np.minimum(result, FASTEST_STEP_PX)


def jump_excess(steps: Floats) -> Floats:
    """Return by how many px [T - 1] each step outruns what its neighbourhood explains; 0 for smooth motion."""
    return np.maximum(0.0, steps - JUMP_RATIO * surrounding_step(steps) - JUMP_SLACK_PX)


def freeze_share(steps: Floats, change_px: Floats) -> Floats:
    """Return in [0, 1] how surely each step [T - 1] belongs to a freeze: repeated frames amid motion.

    Args:
        steps: [T - 1] in px.
        change_px: [T - 1] change of the picture, as the displacement in px that would cause it.
    """
    result = np.zeros(len(steps))
    still = change_px < FREEZE_SHARE * np.quantile(steps, 0.7)
    if still.all() or not still.any():
        return result
    expected = _surrounding_median(steps, still)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(np.int8), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        missing = float((expected[start:stop] - steps[start:stop]).sum())
        if stop - start >= 2:
            result[start:stop] = np.clip(missing - FREEZE_MISSING_PX, 0.0, 1.0)
    return result


def _surrounding_median(steps: Floats, ignored: NDArray[np.bool_]) -> Floats:
    places, others = np.arange(len(steps)), np.flatnonzero(~ignored)
    nearest = [others[np.argsort(np.abs(others - place), kind="stable")[:_NEIGHBOURS]] for place in places]
    return np.array([np.median(steps[chosen]) for chosen in nearest])


def line_speeds(track: Floats) -> Floats:
    """Return the speed [T - 1] in px a frame along a track [T, D], free of jitter and of teleports.

    The window is longer where the object is slow: jitter weighs more there, and turns are further apart.
    """
    steps = step_lengths(track)
    explained = np.minimum(steps, JUMP_RATIO * surrounding_step(steps) + JUMP_SLACK_PX)
    stride = min(4, len(steps))
    pace = float(np.median(np.linalg.norm(track[stride:] - track[:-stride], axis=1))) / stride
    window = min(int(np.clip(round(3.0 / max(pace, 0.1)), 2, 9)), len(track))
    fitted, spread = _window_speeds(track, window)
    speeds = np.empty(len(steps))
    for step in range(len(steps)):
        starts = np.arange(max(0, step + 2 - window), min(step, len(track) - window) + 1)
        place = step - starts  # which of the window's steps this one is
        off_centre = np.abs(place - (window - 2) / 2)
        best = int(np.argmin(spread[starts] * (1 + 0.3 * off_centre) + 0.03 * off_centre))
        speed = float(fitted[starts[best], place[best]])
        if steps[step] > explained[step]:
            speed = min(speed, float(explained[step]))
        trusted = spread[starts[best]] <= 0.3 + 0.25 * explained[step]
        speeds[step] = speed if trusted else explained[step]
    return speeds


def _window_speeds(track: Floats, window: int) -> tuple[Floats, Floats]:
    """Return the speeds [T - window + 1, window - 1] of a curve fitted to each window, and its residual in px.

    The curve is a parabola, or a line where the window is too short to test a parabola.
    """
    time = np.arange(window) - (window - 1) / 2
    degree = 2 if window >= 5 else 1
    powers = np.stack([time**power for power in range(degree + 1)], axis=1)
    middle = (time[1:] + time[:-1]) / 2
    slopes = np.stack([power * middle ** max(power - 1, 0) for power in range(degree + 1)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(track, window, axis=0)  # [T - window + 1, D, window]
    solve = np.linalg.pinv(powers)
    left_over = windows - windows @ (powers @ solve).T
    speeds = np.linalg.norm(windows @ (slopes @ solve).T, axis=1)
    return speeds, np.sqrt(np.square(left_over).sum(axis=1).mean(axis=1))
