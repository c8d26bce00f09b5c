"""The segment grid: timestamps, tails and the map to latent frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from densedpo.errors import ConfigError
from densedpo.labels.grid import SegmentGrid

frame_rates = st.sampled_from([8.0, 15.0, 16.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0])


@pytest.mark.parametrize(
    ("num_frames", "fps", "segment_s", "expected"),
    [
        (121, 24, 1.0, 5),  # the paper's clip: a lone last frame is no sixth segment
        (81, 16, 1.0, 5),
        (33, 8, 1.0, 4),
        (33, 8, 0.5, 8),
        (36, 8, 1.0, 5),  # a tail of exactly half a segment stands alone
        (35, 8, 1.0, 4),
        (8, 8, 1.0, 1),
    ],
)
def test_number_of_segments(num_frames: int, fps: float, segment_s: float, expected: int) -> None:
    assert SegmentGrid(num_frames, fps, segment_s).num_segments == expected


@given(st.integers(1, 300), frame_rates, st.sampled_from([0.5, 1.0, 2.0]))
def test_every_frame_is_in_the_segment_of_its_timestamp(num_frames: int, fps: float, segment_s: float) -> None:
    assume(num_frames / fps >= segment_s)
    grid = SegmentGrid(num_frames, fps, segment_s)
    for frame in range(num_frames):
        by_time = min(int(frame / fps / segment_s + 1e-9), grid.num_segments - 1)
        assert grid.frame_segment[frame] == by_time
    covered = [frame for s in range(grid.num_segments) for frame in range(num_frames)[grid.frames_of(s)]]
    assert covered == list(range(num_frames))


@given(st.integers(1, 200), frame_rates, st.floats(1.0, 40.0))
def test_every_segment_has_a_frame(num_frames: int, fps: float, segment_frames: float) -> None:
    assume(num_frames >= segment_frames)
    grid = SegmentGrid(num_frames, fps, segment_frames / fps)
    assert set(grid.frame_segment.tolist()) == set(range(grid.num_segments))


def test_a_tail_in_which_no_frame_begins_is_no_segment() -> None:
    # the tail from 11.2 to 12 frames is half a segment, but frame 11 began before it
    assert SegmentGrid(12, 8, 1.6 / 8).num_segments == 7


@given(st.integers(2, 60), frame_rates, st.sampled_from([1, 2, 4, 8]))
def test_columns_of_the_mapping_sum_to_one(num_latents: int, fps: float, stride: int) -> None:
    num_frames = stride * (num_latents - 1) + 1
    assume(num_frames / fps >= 1.0)
    weights = SegmentGrid(num_frames, fps).latent_weights(stride)
    assert weights.shape == (SegmentGrid(num_frames, fps).num_segments, num_latents)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-12)
    assert (weights >= 0).all()


def test_causal_latents_hold_the_frames_they_should() -> None:
    # 33 frames at 8 fps: latent 2 holds frames 5..8, and frame 8 is the first of segment 1
    weights = SegmentGrid(33, 8).latent_weights(4)
    assert weights.shape == (4, 9)
    assert weights[:, 0].tolist() == [1, 0, 0, 0]
    assert weights[:, 1].tolist() == [1, 0, 0, 0]
    assert weights[:, 2].tolist() == [0.75, 0.25, 0, 0]


def test_labels_cancel_in_proportion_where_a_latent_straddles_a_border() -> None:
    labels = SegmentGrid(33, 8).latent_labels([1, -1, 0, 1])
    assert labels.tolist() == [1, 1, 0.5, -1, -0.75, 0, 0.25, 1, 1]


def test_non_causal_latents() -> None:
    weights = SegmentGrid(32, 8).latent_weights(4, causal=False)
    assert weights.shape == (4, 8)
    assert (weights.max(axis=0) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 24.0, 1.0), "num_frames"),
        ((24, 0.0, 1.0), "fps"),
        ((24, float("nan"), 1.0), "fps"),
        ((24, 24.0, 0.0), "segment_s"),
        ((12, 24.0, 1.0), "shorter than"),
        ((33, 8.0, 0.1), "shorter than one frame at 8 fps; use at least 0.125 s"),
    ],
)
def test_bad_numbers_are_named(arguments: tuple[int, float, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SegmentGrid(*arguments)


def test_a_frame_count_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="4k \\+ 1"):
        SegmentGrid(32, 8).latent_weights(4)
