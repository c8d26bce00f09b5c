"""Settings of sampling and evaluation. Part of ``densedpo.config``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from densedpo.config_section import Listed, Section, Share


class SampleSettings(Section):
    """Sampling for ``sample`` and ``evaluate``; ``None`` means the family's default."""

    steps: int | None = Field(None, ge=1, description="sampling steps; by default the model family's")
    cfg: float | None = Field(None, ge=0, description="classifier-free guidance scale; by default the model family's")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="number format of denoiser and text encoder; auto: bfloat16 on a GPU, float32 elsewhere"
    )
    shift: float | None = Field(None, gt=0, description="timestep shift of the grid; by default the model family's")
    seeds: int = Field(2, ge=1, description="samples per prompt")
    batch_size: int = Field(8, ge=1, description="videos denoised together")


class EvaluateSettings(Section):
    """What ``evaluate`` compares, and when a model counts as better."""

    scales: Listed[Annotated[float, Field(ge=0, le=4)]] | None = Field(
        None,
        description="LoRA scales that each run is sampled at, comma-separated, for example 0.25,0.5,1; 0 is the base; "
        "by default 1 alone",
    )
    every_checkpoint: bool = Field(False, description="sample the checkpoints of each run too")
    quality: str | None = Field(
        None, description="score that decides; by default the scorer's first that has a direction and is not motion"
    )
    motion_kept: Share = Field(0.9, description="least share of the base's motion that counts as kept")
