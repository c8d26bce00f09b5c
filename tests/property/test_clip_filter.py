"""The clip filter: what is kept follows from the limits alone, and only a clear yes is a yes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from densedpo.clips.caption_check import read_answer
from densedpo.clips.criteria import broken, limits_of, shape_measures
from densedpo.config import FilterSettings

POSITIVE = st.floats(0.01, 100)
MEASURES = st.fixed_dictionaries(
    {
        "upscale": POSITIVE,
        "duration_s": POSITIVE,
        "crop_share": st.floats(0, 1),
        "cut_strength": st.floats(0, 1),
        "foreground_px_s": POSITIVE,
        "camera_px_s": POSITIVE,
    }
)
LIMITS = st.builds(
    FilterSettings,
    max_upscale=POSITIVE,
    min_duration_s=POSITIVE,
    max_crop_share=st.floats(0, 1),
    max_cut_strength=st.floats(0.1, 1),
    min_motion_px_s=st.none() | st.floats(0, 50),
    max_motion_px_s=st.none() | st.floats(50, 100),
    max_camera_px_s=st.none() | POSITIVE,
)
SIZES = st.integers(1, 4000)


@given(MEASURES, LIMITS, st.floats(1, 10))
def test_laxer_limits_never_break_more(measures: dict[str, float], settings: FilterSettings, factor: float) -> None:
    laxer = settings.model_copy(
        update={
            "max_upscale": settings.max_upscale * factor,
            "min_duration_s": settings.min_duration_s / factor,
            "max_crop_share": min(1.0, settings.max_crop_share * factor),
            "max_cut_strength": min(1.0, settings.max_cut_strength * factor),
            "min_motion_px_s": 0.0,
            "max_motion_px_s": None,
            "max_camera_px_s": None,
        }
    )
    strict, lax = (broken(measures, limits_of(s, 240, 416)) for s in (settings, laxer))
    assert set(lax) <= set(strict)


@given(MEASURES)
def test_no_limits_keep_everything(measures: dict[str, float]) -> None:
    none = FilterSettings(max_upscale=1e6, min_duration_s=0, max_crop_share=1, max_cut_strength=1, min_motion_px_s=0)
    assert broken(measures, limits_of(none, 240, 416)) == {}


@given(SIZES, SIZES, SIZES, SIZES)
def test_shape_measures_are_in_range(h: int, w: int, height: int, width: int) -> None:
    row = {"source_height": h, "source_width": w, "height": height, "width": width, "duration_s": 1.0}
    found = shape_measures(row)
    assert 0 <= found["crop_share"] < 1
    assert found["upscale"] > 0
    if h >= height and w >= width:
        assert found["upscale"] <= 1
    if h < height or w < width:
        assert found["upscale"] > 1


@given(st.text())
def test_a_yes_begins_with_the_word_alone(text: str) -> None:
    found = read_answer(text)
    assert found.answer in ("yes", "no", "unclear")
    if found.answer == "yes":
        lines = [line for line in text.splitlines() if line.strip()]
        assert any("".join(letter for letter in line if letter.isalnum()).lower() == "yes" for line in lines)


@given(st.sampled_from(["yes", "Yes.", "**YES**", " yes "]), st.text())
def test_whatever_stands_behind_a_clear_yes(word: str, rest: str) -> None:
    assert read_answer(f"{word}\n{rest}").answer == "yes"
