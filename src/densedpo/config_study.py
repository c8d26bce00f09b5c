"""Settings of the blind study of whole videos. Part of ``densedpo.config``."""

from __future__ import annotations

from pydantic import Field

from densedpo.config_section import Hosted


class StudySettings(Hosted):
    """The study page: where it listens, how much is compared, and how people are measured."""

    port: int = Field(8754, ge=0, le=65535, description="port to listen on; 0 takes any free one")
    overlap: int = Field(1, ge=1, le=100, description="people who compare each pair of videos")
    seeds_per_prompt: int = Field(1, ge=1, description="seeds compared for each prompt, the same for all models")
    control_every: int = Field(
        20, ge=0, description="one in so many pairs is the same video twice, unrecognisably; 0 is never"
    )
    repeat_every: int = Field(20, ge=0, description="one in so many pairs is shown once more, mirrored; 0 is never")
    same_model_every: int = Field(
        10, ge=0, description="for so many pairs, one more compares a model with itself from two seeds; 0 is never"
    )
