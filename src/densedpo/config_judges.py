"""Settings of machine judges: who is asked, what they see, and what it may cost. Part of ``densedpo.config``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from densedpo.config_section import Listed, Section, is_address


class JudgeSettings(Section):
    """How ``label judge`` asks vision-language models and reward models."""

    base_url: str | None = Field(
        None,
        description="address of an OpenAI-compatible service, for example http://127.0.0.1:8000/v1; by default none",
    )
    model: str | None = Field(
        None, description="the service's name of the model, or the folder of a local one; by default none"
    )
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the service's key")
    frames_per_s: float = Field(8.0, gt=0, description="frames shown for each second of a segment")
    layout: Literal["separate", "side_by_side", "grid"] = Field(
        "separate", description="images shown: every frame, both sides of a moment in one, or one sheet a side"
    )
    max_side_px: int = Field(768, ge=32, description="longer side of a frame that is sent; larger ones are reduced")
    image_format: Literal["jpeg", "png"] = Field("jpeg", description="format of the images that are sent")
    orders: Literal["both", "one"] = Field(
        "both", description="ask twice with the sides exchanged, disagreement is a tie; or once, seeded, as a baseline"
    )
    samples: int = Field(1, ge=1, le=64, description="answers asked for in each order; their vote is the answer")
    temperature: float | None = Field(
        None, ge=0, le=2, description="sampling temperature; by default the service's own, 1 with several samples"
    )
    dimensions: Listed[str] = Field(
        (),
        description=(
            "questions asked one by one, comma-separated, for example motion,detail; none asks one question overall"
        ),
    )
    ask: Literal["segments", "clip"] = Field(
        "segments", description="what is judged: each segment, or the clip as a whole, as a baseline"
    )
    show_caption: bool = Field(False, description="tell the judge the caption")
    prompt_file: Path | None = Field(None, description="file with instructions of your own; by default the built-in")
    max_output_tokens: int = Field(1024, ge=16, description="longest answer; reasoning models need more")
    parallel: int = Field(8, ge=1, le=1024, description="questions asked at the same time")
    timeout_s: float = Field(120.0, gt=0, description="longest wait for one answer")
    max_attempts: int = Field(8, ge=1, description="times that a question is sent before it counts as failed")
    budget: float | None = Field(
        None, ge=0, description="US dollars that a project may spend in all its runs, needs prices; by default no limit"
    )
    price_input: float = Field(0.0, ge=0, description="US dollars for a million tokens sent, images included")
    price_output: float = Field(0.0, ge=0, description="US dollars for a million tokens answered")
    image_tokens: int = Field(300, ge=0, description="tokens that an image counts for in the estimate of the cost")
    batch: bool = Field(False, description="use the service's batch files: cheaper, answered within a day")
    batch_mb: float = Field(100.0, gt=0, description="largest batch file, in MB")
    reward_command: str | None = Field(
        None, description="command that starts a reward model's adapter in its own environment; by default none"
    )
    reward_tie_band: float | None = Field(
        None,
        ge=0,
        description="largest difference of scores that is a tie; by default equal scores alone (see label calibrate)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> JudgeSettings:
        if self.base_url is not None and not is_address(self.base_url):
            raise ValueError(f"base_url must be an address beginning with http:// or https://, got {self.base_url!r}")
        if self.budget is not None and not (self.price_input or self.price_output):
            raise ValueError("budget needs prices; give price_input and price_output in US dollars a million tokens")
        return self
