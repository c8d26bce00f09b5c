"""What is shown of a segment: which frames, how large, in which layout, and encoded how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from tests.unit.labels.judges.doubles import Frames, noise_pair, pixels_of

from densedpo.config import JudgeSettings
from densedpo.labels.judges import images
from densedpo.labels.judges.answerer import Image
from densedpo.labels.judges.base import SegmentPair
from densedpo.labels.judges.images import MOST_FRAMES, MOST_SHEET_SIDE_PX, SegmentImages, chosen_frames, encode_image


def shown(pair: SegmentPair, first: Any = "a", **settings: Any) -> list[Image]:
    parts = SegmentImages(pair, JudgeSettings(**settings)).parts(first)
    return [part for part in parts if isinstance(part, Image)]


@pytest.mark.parametrize(
    ("num_frames", "fps", "rate", "count"),
    [
        (24, 24.0, 8.0, 8),
        (8, 8.0, 8.0, 8),
        (25, 24.0, 8.0, 8),
        (12, 24.0, 8.0, 4),
        (24, 24.0, 0.5, 2),
        (8, 8.0, 99.0, 8),
    ],
)
def test_frames_are_spread_over_time(num_frames: int, fps: float, rate: float, count: int) -> None:
    chosen = chosen_frames(num_frames, fps, rate)
    assert len(chosen) == count
    assert chosen[0] >= 0 and chosen[-1] < num_frames
    steps = np.diff(chosen)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1
    # as much before the first as after the last, to within a frame
    assert abs(int(chosen[0]) - (num_frames - 1 - int(chosen[-1]))) <= 1


def test_a_long_clip_shows_no_more_than_the_most() -> None:
    assert len(chosen_frames(10_000, 24.0, 8.0)) == MOST_FRAMES
    assert len(chosen_frames(1, 24.0, 8.0)) == 1
    assert len(chosen_frames(0, 24.0, 8.0)) == 0


def test_separate_shows_the_first_clip_then_the_second() -> None:
    pair = noise_pair()
    seen = shown(pair, image_format="png")
    assert len(seen) == 16
    for image, frame in zip(seen, [*pair.frames_a, *pair.frames_b], strict=True):
        assert image.media_type == "image/png"
        np.testing.assert_array_equal(pixels_of(image), frame)
    assert shown(pair, "b", image_format="png") == seen[8:] + seen[:8]


def test_words_stand_before_each_clip() -> None:
    parts = SegmentImages(noise_pair(), JudgeSettings()).parts("b")
    words = [(number, part) for number, part in enumerate(parts) if isinstance(part, str)]
    assert [number for number, _ in words] == [0, 9]
    assert "first" in words[0][1] and "second" in words[1][1]


def test_large_frames_are_reduced_and_keep_their_shape() -> None:
    pair = noise_pair(2, 90, 160)
    assert [pixels_of(image).shape for image in shown(pair, max_side_px=64)] == [(36, 64, 3)] * 4
    assert pixels_of(shown(pair)[0]).shape == (90, 160, 3)


def test_side_by_side_has_both_sides_of_each_moment() -> None:
    pair = noise_pair(4)
    forward = [pixels_of(image) for image in shown(pair, layout="side_by_side", image_format="png")]
    backward = [pixels_of(image) for image in shown(pair, "b", layout="side_by_side", image_format="png")]
    assert len(forward) == 4
    for index in range(4):
        np.testing.assert_array_equal(forward[index][:, :40], pair.frames_a[index])
        np.testing.assert_array_equal(forward[index][:, -40:], pair.frames_b[index])
        assert (forward[index][:, 40:-40] == 255).all()
        np.testing.assert_array_equal(backward[index][:, :40], pair.frames_b[index])


def test_grid_is_one_sheet_a_side() -> None:
    pair = noise_pair(7)
    first, second = (pixels_of(image) for image in shown(pair, layout="grid", image_format="png"))
    np.testing.assert_array_equal(first[:24, :40], pair.frames_a[0])
    np.testing.assert_array_equal(first[:24, 44:84], pair.frames_a[1])
    np.testing.assert_array_equal(second[28:52, :40], pair.frames_b[3])
    assert (first[56:, 44:] == 255).all()


def test_a_sheet_stays_within_what_services_look_at() -> None:
    wide = np.zeros((32, 200, 1000, 3), np.uint8)
    sheet = pixels_of(shown(SegmentPair(wide, wide, 8.0), layout="grid", max_side_px=4000)[0])
    assert 0.9 * MOST_SHEET_SIDE_PX < max(sheet.shape) <= MOST_SHEET_SIDE_PX + 32


@pytest.mark.parametrize(("layout", "count"), [("separate", 16), ("grid", 2), ("side_by_side", 16)])
def test_both_orders_encode_each_frame_once(monkeypatch: pytest.MonkeyPatch, layout: str, count: int) -> None:
    encoded = []
    encode: Callable[[Frames, str], Image] = encode_image

    def counting(pixels: Frames, image_format: str) -> Image:
        encoded.append(pixels.shape)
        return encode(pixels, image_format)

    monkeypatch.setattr(images, "encode_image", counting)
    both = SegmentImages(noise_pair(), JudgeSettings(layout=layout))
    for _ in range(3):
        both.parts("a"), both.parts("b")
    assert len(encoded) == count


def test_digests_follow_the_content() -> None:
    pixels = noise_pair().frames_a[0]
    same, other = encode_image(pixels.copy(), "jpeg"), encode_image(255 - pixels, "jpeg")
    assert same == encode_image(pixels, "jpeg")
    assert len({same.digest, other.digest, encode_image(pixels, "png").digest}) == 3


def test_jpeg_stays_close_to_the_frame() -> None:
    frame = noise_pair().frames_a[0]
    assert cv2.PSNR(pixels_of(encode_image(frame, "jpeg")), frame) > 30
