"""Settings of labelling: what is asked, where answers go, and how the page is served. Part of ``densedpo.config``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from densedpo.config_section import Hosted, Section


class LabelSettings(Section):
    """How segments are labelled."""

    segment_s: float = Field(1.0, gt=0, description="length of a segment in seconds")
    metric_tie_band: float = Field(
        0.05, ge=0, description="log-quality difference below which the metric judge says tie"
    )
    alike_below: float = Field(
        0.5,
        ge=0,
        description="segments whose sides differ by less, in 8-bit levels averaged over a frame, are ties that no "
        "judge is asked about, and pairs of nothing else are shown to nobody; 0 is never",
    )
    confidence: Literal["calibrated", "weights", "stated", "ignored"] = Field(
        "calibrated",
        description="weight of a judge's preferences in a snapshot: what people's answers say they are worth, the weak "
        "ones ties (label calibrate; 1 without it); the same with no ties made; as the judge states it; or 1",
    )
    agreement_above: float = Field(
        -1.0,
        ge=-1,
        le=1,
        description="guided pairs whose sides agree less on where things move are shown to nobody; -1 is never",
    )
    store_url: str | None = Field(
        None, description="label store in PostgreSQL, as postgresql://…; by default SQLite in the project folder"
    )


class ServeSettings(Hosted):
    """The labelling page: where it listens, what people are asked and in which order."""

    overlap: int = Field(1, ge=1, le=100, description="people who label each pair")
    order: Literal["table", "shuffled", "uncertain", "useful", "plan"] = Field(
        "table",
        description="pairs first: as stored, shuffled, by judges' answers the least certain or most decided, or as "
        "label plan ranks them",
    )
    show_caption: bool = Field(True, description="show the caption beside the videos")
    whole_clip: bool = Field(False, description="ask about the whole clip too, after its segments")
    offer_ties_below: float = Field(
        0.0,
        ge=0,
        description="offer a tie where sides differ by less, in 8-bit levels averaged over a frame; 0 is never",
    )
    qualification: int = Field(0, ge=0, description="pairs with known answers that a new person does first")
    qualification_accuracy: float = Field(
        0.7, ge=0, le=1, description="share of right answers that a new person needs in the qualification"
    )
    gold_every: int = Field(20, ge=0, description="one in so many pairs has known answers, unrecognisably; 0 is never")
    repeat_every: int = Field(20, ge=0, description="one in so many pairs is shown once more, mirrored; 0 is never")
