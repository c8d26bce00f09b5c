"""What moves between two pictures: flow both ways, the camera, and the places that move beside it.

The first half of a step of ``evaluation.video.step``; every pair of pictures comes here once.

Flow smears: around a thing that moves, the ground is carried along. So a place counts as moving beside the camera only
where flow explains the next picture better than the camera's motion does (or better than standing still, where there is
no telling the camera's). Where neither is needed, as on a plain ground, the camera's motion is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.camera_fit import Box, between_bars, camera_flow, fit_camera
from densedpo.clips.flow import STILL_LEVELS, Map, at_ends, follow, lengths, near, pixel_grid, smooth_change

Luma = NDArray[np.uint8]
Places = NDArray[np.bool_]

_FINEST_SCALE = 1  # half resolution: at a quarter, as the fast preset has it, small things read a fifth too slow
_REFINEMENTS = 1  # with none a large thing reads 5.2 % too slow, where 5 % is promised; five cost a quarter more time
_UNEXPLAINED_LEVELS = 8.0
_LEAST_CHANGED = 2e-3
_AROUND_PX = (31, 31)
_EDGE_PX = 4
_FINE_PX = 0.7  # more makes things grow, less lets noise in
_FILL_SHARE = 0.4
_SLACK_PX, _SLACK_SHARE = 0.5, 0.05
_GRAIN = np.ones((2, 2), np.uint8)


@dataclass(frozen=True)
class Between:
    """Motion from one picture to the next, in px of the size that flow is computed at. Maps are [h, w].

    Attributes:
        forward: flow [h, w, 2] at the first picture's pixels: the camera's where nothing moves beside it.
        backward: flow back [h, w, 2] at the second picture's pixels, likewise.
        camera: the camera's flow forward, and ``camera_back`` backward.
        leaving: places of the first picture that move beside the camera, the ground that will be covered included.
        arrived: places of the second picture that have moved, the ground that was uncovered included.
        consistent: places of the first picture from which flow leads back to where it came from.
        astray_px: [h, w] by how much it does not.
        still: whether nothing changes visibly.
        unexplained: share of what changes beside the camera that flow does not explain, 0 to 1.
    """

    forward: Map
    backward: Map
    camera: Map
    camera_back: Map
    leaving: Places
    arrived: Places
    consistent: Places
    astray_px: Map
    still: bool
    unexplained: float


class Follower:
    """Computes flow; keeps its buffers from one pair of pictures to the next."""

    def __init__(self) -> None:
        """Set up DIS flow: the fast preset, but finer."""
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(_FINEST_SCALE)
        self._dis.setVariationalRefinementIterations(_REFINEMENTS)

    def between(self, before: Luma, after: Luma) -> Between:
        """Return what moves from ``before`` to ``after``, [h, w] each."""
        change = smooth_change(before, after)
        changed = _without_grain(change > STILL_LEVELS)
        if not changed.any():
            return _standing(before.shape)
        forward, backward = self._flow(before, after), self._flow(after, before)
        seen = cv2.copyTo(forward, near(changed)).astype(np.float32, copy=False)
        box = between_bars(before, after)
        matrix, _ = fit_camera(before, after, seen, box)
        camera, camera_back = (_within(box, camera_flow(way, before.shape)) for way in (matrix, _inverse(matrix)))
        brought = follow(after, forward), _carried(after, camera)
        leaving, unexplained = _moving(before, *brought), _unexplained(before, *brought, _stays(camera, box))
        arrived = _moving(after, follow(before, backward), _carried(before, camera_back))
        forward = over(camera, forward, leaving)
        backward = over(camera_back, backward, arrived)
        gap = forward + at_ends(backward, forward)
        astray = lengths(gap)
        slack = _SLACK_PX + _SLACK_SHARE * lengths(forward)
        return Between(
            forward=forward,
            backward=backward,
            camera=camera,
            camera_back=camera_back,
            leaving=leaving,
            arrived=arrived,
            consistent=astray <= slack,
            astray_px=astray,
            still=False,
            unexplained=unexplained,
        )

    def _flow(self, before: Luma, after: Luma) -> Map:
        flow: Map = self._dis.calc(before, after, None)  # type: ignore[call-overload]
        return flow


def _standing(shape: tuple[int, ...]) -> Between:
    nothing = np.zeros((*shape, 2), dtype=np.float32)
    nowhere, everywhere = np.zeros(shape, dtype=np.bool_), np.ones(shape, dtype=np.bool_)
    return Between(
        nothing, nothing, nothing, nothing, nowhere, nowhere, everywhere, nothing[..., 0], still=True, unexplained=0.0
    )


def _within(box: Box, flow: Map) -> Map:
    """Return ``flow`` inside ``box`` and none outside: black bars stand still."""
    found = np.zeros_like(flow)
    found[box] = flow[box]
    return found


def _carried(after: Luma, camera: Map) -> Luma:
    return follow(after, camera) if camera.any() else after


def _moving(before: Luma, followed: Luma, carried: Luma) -> Places:
    """Return the places of ``before`` that flow brings back (``followed``) better than the camera (``carried``)."""
    gain = smooth_change(before, carried, _FINE_PX) - smooth_change(before, followed, _FINE_PX)
    return _filled(_without_grain(gain > STILL_LEVELS))


def _unexplained(before: Luma, followed: Luma, carried: Luma, stays: Places) -> float:
    """Return the share of what changes beside the camera that flow cannot explain."""
    changed = _detail_change(before, carried, stays) > _UNEXPLAINED_LEVELS
    count = int(np.count_nonzero(changed))
    if count < _LEAST_CHANGED * changed.size:
        return 0.0
    left = _detail_change(before, followed, stays) > _UNEXPLAINED_LEVELS
    return float(np.count_nonzero(changed & left) / count)


def _stays(camera: Map, box: Box) -> Places:
    """Return the places that the camera does not carry out of the picture ``box``."""
    rows, columns = box
    ends = pixel_grid(*camera.shape[:2]) + camera
    low = columns.start + _EDGE_PX, rows.start + _EDGE_PX
    high = columns.stop - 1 - _EDGE_PX, rows.stop - 1 - _EDGE_PX
    stays = np.zeros(camera.shape[:2], dtype=np.bool_)
    within = slice(low[1], high[1] + 1), slice(low[0], high[0] + 1)  # a bar's edge is half bar
    stays[within] = cv2.inRange(ends[within], low, high).view(np.bool_)
    return stays


def _detail_change(before: Luma, after: Luma, where: Places) -> Map:
    """Return the absolute change of luma in 8-bit levels without what changes alike all around, as flicker does."""
    change = cv2.GaussianBlur(after.astype(np.float32) - before, (0, 0), 1.0) * where
    return np.abs(change - cv2.blur(change, _AROUND_PX)) * where


def over(ground: Map, flow: Map, things: Places) -> Map:
    """Return ``flow`` where things move and ``ground`` elsewhere."""
    return cv2.copyTo(flow, things.view(np.uint8), ground.copy()).astype(np.float32, copy=False)


def _without_grain(places: Places) -> Places:
    return cv2.morphologyEx(places.view(np.uint8), cv2.MORPH_OPEN, _GRAIN).view(np.bool_)


def _filled(places: Places) -> Places:
    """Close gaps of up to ``_FILL_SHARE`` of the short side: the inside of a plain thing shows no change."""
    if not places.any():
        return places
    reach = round(_FILL_SHARE * min(places.shape) / 2)
    padded = cv2.copyMakeBorder(places.view(np.uint8), reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[reach:-reach, reach:-reach]
    return closed.view(np.bool_)


def _inverse(matrix: Map) -> Map:
    return cv2.invertAffineTransform(matrix).astype(np.float32)
