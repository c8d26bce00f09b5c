"""What a pair's row says of how aligned its sides are and how much they differ."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from densedpo.clips.decode import read_video
from densedpo.keys import stream
from densedpo.miniworld import scenes
from densedpo.pairs.alignment import alignment, detail_difference, luma, motion_agreement, ssim
from densedpo.store.project import Project
from densedpo.store.tables import read_table


def scene(number: int) -> NDArray[np.uint8]:
    pool = scenes.subjects()
    return scenes.render(scenes.draw_scene(pool[number % len(pool)], "alignment", number))


def test_a_clip_is_aligned_with_itself() -> None:
    found = alignment(scene(0), scene(0).copy())
    assert found["frame_ssim"] == pytest.approx([1.0] * scenes.NUM_FRAMES)
    assert found["frame_difference"] == [0.0] * scenes.NUM_FRAMES
    assert found["frame_motion_agreement"] == pytest.approx([1.0] * (scenes.NUM_FRAMES - 1), abs=1e-5)


def test_only_the_frames_that_differ_differ() -> None:
    first, second = scene(1), scene(1).copy()
    second[10:12] = cv2.GaussianBlur(second[10].copy(), (9, 9), 3)
    changed = {10, 11}
    similar, different = ssim(luma(first), luma(second)), detail_difference(first, second)
    for frame in range(scenes.NUM_FRAMES):
        assert (similar[frame] < 0.99) == (different[frame] > 0) == (frame in changed)


def test_ssim_is_the_published_formula_on_flat_pictures() -> None:
    """Without structure the second factor is 1 and the first is (2 m_a m_b + c1) / (m_a^2 + m_b^2 + c1)."""
    one, other = (np.full((2, 16, 16), value, np.float32) for value in (100.0, 140.0))
    expected = (2 * 100 * 140 + 6.5025) / (100**2 + 140**2 + 6.5025)
    assert ssim(one, other).tolist() == pytest.approx([expected] * 2, rel=1e-9)


def test_ssim_falls_with_noise_and_is_symmetric() -> None:
    clean = luma(scene(2))
    rng = stream("test", "ssim")
    faint, strong = (clean + rng.normal(0, s, clean.shape).astype(np.float32) for s in (2.0, 20.0))
    assert 1 > ssim(clean, faint).mean() > ssim(clean, strong).mean() > 0
    assert ssim(clean, strong).tolist() == pytest.approx(ssim(strong, clean).tolist(), rel=1e-12)


def test_motion_agrees_where_the_same_thing_moves_and_not_where_another_does() -> None:
    same = scene(3).astype(np.float32) * 0.7  # darker, but it moves alike
    moved = luma(scene(3))
    assert motion_agreement(moved, luma(same.astype(np.uint8))).mean() > 0.9
    assert motion_agreement(moved, luma(scene(4))).mean() < 0.5


def test_stillness_agrees_with_stillness_alone() -> None:
    moving = luma(scene(3))
    still = np.repeat(moving[:1], scenes.NUM_FRAMES, axis=0)
    assert motion_agreement(still, still).tolist() == [1.0] * (scenes.NUM_FRAMES - 1)
    moves = np.abs(np.diff(moving, axis=0)).max(axis=(1, 2)) > 5
    assert moves.sum() > 10 and not motion_agreement(still, moving)[moves].any()


def test_every_pairs_row_says_it(pairs_project: Path) -> None:
    project = Project(pairs_project)
    agreement: dict[str, list[float]] = {"guided": [], "independent": []}
    for row in read_table(project.pairs_table):
        assert len(row["frame_ssim"]) == len(row["frame_difference"]) == row["num_frames"]
        assert len(row["frame_motion_agreement"]) == row["num_frames"] - 1
        a, b = (read_video(project.pairs / row["pair_id"] / f"{side}.mp4").frames for side in "ab")
        # measured before encoding, which is near-lossless
        assert row["frame_difference"] == pytest.approx(detail_difference(a, b).tolist(), abs=0.02)
        agreement[row["mode"]].append(float(np.mean(row["frame_difference"])))
    assert np.mean(agreement["guided"]) < np.mean(agreement["independent"])
