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
        (35, 8, 0.5, 9),  # a tail of three frames where a segment has four
        (36, 8, 2.0, 2),  # and of four where it has sixteen
        (6, 0.5, 4.0, 3),  # fewer than one frame a second
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
        ((24, 0.0, 1.0), "fps must be a positive number, got 0.0"),
        ((24, float("nan"), 1.0), "fps must be a positive number, got nan"),
        ((24, float("inf"), 1.0), "fps must be a positive number, got inf"),
        ((24, 24.0, 0.0), "segment_s must be a positive number of seconds, got 0.0"),
        ((24, 24.0, -0.5), "segment_s must be a positive number of seconds, got -0.5"),
        ((24, 24.0, float("inf")), "segment_s must be a positive number of seconds, got inf"),
        ((12, 24.0, 1.0), "shorter than"),
        ((33, 8.0, 0.1), "shorter than one frame at 8 fps; use at least 0.125 s"),
    ],
)
def test_bad_numbers_are_named(arguments: tuple[int, float, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SegmentGrid(*arguments)


def test_a_frame_count_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="4k \\+ 1 frames, for example 29"):
        SegmentGrid(32, 8).latent_weights(4)


def test_a_stride_below_one_is_refused() -> None:
    for causal in (True, False):
        with pytest.raises(ConfigError, match="temporal_stride must be at least 1, got 0"):
            SegmentGrid(32, 8).latent_weights(0, causal)


def test_the_stride_is_four_and_causal_unless_said_otherwise() -> None:
    grid = SegmentGrid(37, 8)  # fits strides of 2, 3 and 4 alike
    np.testing.assert_array_equal(grid.latent_weights(), grid.latent_weights(4, causal=True))
    np.testing.assert_array_equal(grid.latent_labels([1, -1, 0, 1, 1]), [1, -1, 0, 1, 1] @ grid.latent_weights())


def test_bounds_are_those_of_the_frames() -> None:
    grid = SegmentGrid(35, 8)
    assert [grid.bounds_s(segment) for segment in range(4)] == [(0, 1), (1, 2), (2, 3), (3, 4.375)]


@pytest.mark.parametrize("segment", [-1, 4])
def test_a_segment_that_is_not_there_has_no_frames(segment: int) -> None:
    with pytest.raises(AssertionError):
        SegmentGrid(33, 8).frames_of(segment)
