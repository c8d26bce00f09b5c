"""Numbers of one step, from a picture to the next; see ``STEP_NAMES`` for what they are.

Takes the flow of ``evaluation.video.between`` of this step and of the one before: only a place that moved to get here
and moves on from here belongs to a thing, the rest is ground being covered or uncovered.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import STILL_LEVELS, Map, follow, grey, lengths, scaled, smooth_change, top_mean
from densedpo.clips.measure import flicker
from densedpo.evaluation.video.between import Between, Places, over

UNEXPLAINED_LIMIT = 0.4  # above it speeds were wrong by more than 5 % on clips with known motion, below it right
COVERAGE_LIMIT = 0.75  # below it likewise
SLOWEST_SHARE = 0.02  # of the short side, a second: less is not counted as moving
# of 256, on average and anywhere: what H.264 at its usual quality makes of a repeated picture
_REPEAT_MEAN_LEVELS, _REPEAT_LEVELS = 0.15, 5 * STILL_LEVELS
_RIM_PX = 3  # from a moving thing's outline, flow is mixed with the ground's
_RIM = np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1), np.uint8)


@dataclass(frozen=True)
class Step:
    """Numbers of one step; speeds in px/s of the file.

    Attributes:
        motion_px_s: mean speed over the picture, the camera's included.
        top_motion_px_s: mean of the fastest 5 % of the picture.
        camera_motion_px_s: mean over the picture of the camera's speed.
        object_motion_px_s: mean over the picture of the speed beside the camera.
        moving_share: share of the picture faster than 2 % of its short side a second, camera included.
        flow_acceleration_px_s2: mean change of velocity at this picture, px/s^2; 0 where there is no step before.
        warp_error: mean change of colour along the flow where it is consistent, 0 to 1.
        warp_coverage: share of the picture where it is.
        forward_backward_px: mean distance between a place and where flow there and back leads.
        flicker: mean change of luma in cells of an eighth of the picture, motion compensated, 0 to 1.
        unexplained: share of the change beside the camera's motion that flow does not explain.
        still: 1 where nothing changes visibly.
        duplicate: 1 where the next picture is the same but for what coding changes: 0.15 of 256 levels on average.
    """

    motion_px_s: float
    top_motion_px_s: float
    camera_motion_px_s: float
    object_motion_px_s: float
    moving_share: float
    flow_acceleration_px_s2: float
    warp_error: float
    warp_coverage: float
    forward_backward_px: float
    flicker: float
    unexplained: float
    still: float
    duplicate: float


STEP_NAMES = tuple(field.name for field in fields(Step))


@dataclass(frozen=True)
class Sight:
    """A picture at the size flow is computed at: colour [h, w, 3] and luma [h, w]."""

    colour: NDArray[np.uint8]
    luma: NDArray[np.uint8]


def step(
    before: Sight, after: Sight, now: Between, last: Between | None, seconds: tuple[float, float], per_px: Map
) -> Step:
    """Return the numbers of the step ``now``.

    Args:
        before: the picture it starts from.
        after: the next one.
        now: the motion between them.
        last: the motion from the picture before ``before``, if flow explained it.
        seconds: how long this step and the last one took.
        per_px: (x, y) pixels of the file to a pixel of the flow.
    """
    # without a step before, ground that will be covered shows only by flow there and back that does not meet
    things = now.leaving & (now.consistent if last is None else last.arrived)
    per_px_s = per_px / seconds[0]
    camera = scaled(now.camera, per_px_s)
    velocity = over(camera, scaled(_settled(now.forward, things), per_px_s), things)
    speed = lengths(velocity)
    slowest = SLOWEST_SHARE * min(length * px for length, px in zip(speed.shape[::-1], per_px, strict=True))
    acceleration = 0.0
    if last is not None:
        back_px_s = per_px / seconds[1]
        came = over(scaled(last.camera_back, back_px_s), scaled(_settled(last.backward, things), back_px_s), things)
        acceleration = _mean(lengths(velocity + came)) / (sum(seconds) / 2)
    brought = follow(after.colour, now.forward)
    covered = int(np.count_nonzero(now.consistent))
    change = cv2.norm(brought, before.colour, cv2.NORM_L1, now.consistent.view(np.uint8))
    return Step(
        motion_px_s=_mean(speed),
        top_motion_px_s=top_mean(speed),
        camera_motion_px_s=_mean(lengths(camera)),
        object_motion_px_s=_mean(lengths(velocity - camera)),
        moving_share=np.count_nonzero(speed > slowest) / speed.size,
        flow_acceleration_px_s2=acceleration,
        warp_error=change / (3 * 255 * covered) if covered else 1.0,
        warp_coverage=covered / speed.size,
        forward_backward_px=_mean(now.astray_px) * float(per_px.mean()),
        flicker=flicker(before.luma, grey(brought)),
        unexplained=now.unexplained,
        still=float(now.still),
        duplicate=float(_repeats(before, after)),
    )


def _repeats(before: Sight, after: Sight) -> bool:
    change = cv2.norm(before.colour, after.colour, cv2.NORM_L1) / before.colour.size
    return change <= _REPEAT_MEAN_LEVELS and bool(smooth_change(before.luma, after.luma).max() <= _REPEAT_LEVELS)


def _settled(flow: Map, things: Places) -> Map:
    """Return ``flow`` with the rim of each thing replaced by the mean of what is inside, nearby."""
    inside = cv2.erode(things.view(np.uint8), _RIM)
    box = (4 * _RIM_PX + 1, 4 * _RIM_PX + 1)
    weight = cv2.blur(inside.astype(np.float32), box)
    rim = things & (inside == 0) & (weight > 0)
    if not rim.any():
        return flow
    nearby = cv2.blur(cv2.copyTo(flow, inside), box)
    settled = flow.copy()
    settled[rim] = nearby[rim] / weight[rim][:, None]
    return settled


def _mean(values: Map) -> float:
    # not cv2.mean: its last digits depend on where in memory the values lie
    return float(values.mean(dtype=np.float64))
