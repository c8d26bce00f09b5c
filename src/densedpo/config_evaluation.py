"""Settings of sampling and evaluation. Part of ``densedpo.config``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from densedpo.config_section import Section


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
