"""Settings of clips: how files are read and which clips are kept. Part of ``densedpo.config``."""

from __future__ import annotations

from pydantic import Field, model_validator

from densedpo.config_section import Section, is_address


class ClipSettings(Section):
    """How real videos become clips of the model's geometry."""

    cut_threshold: float = Field(0.35, gt=0, description="colour change that counts as a cut, 0 to 1")
    max_windows: int = Field(8, ge=1, description="clips taken from one shot at most, evenly spread")
    decode_timeout_s: float = Field(60.0, gt=0, description="longest time one file may take to decode")
    decode_memory_mb: int = Field(2048, ge=256, description="memory the decoding process may use")
    max_pixels: int = Field(4096 * 2304, ge=1, description="largest frame accepted, width times height")
    max_duration_s: float = Field(600.0, gt=0, description="part of a file that is read, from its start")


class FilterSettings(Section):
    """Which clips pairs are made of, decided by ``clips filter``. ``None`` means no limit, unless it says otherwise."""

    max_upscale: float = Field(1.0, gt=0, description="times that a source may be enlarged to fill the clip")
    min_duration_s: float = Field(2.0, ge=0, description="shortest clip kept; 0 is no limit")
    max_crop_share: float = Field(
        0.5, ge=0, le=1, description="share of the source's picture that the clip's aspect may cut off; 1 is no limit"
    )
    max_cut_strength: float = Field(
        0.35, gt=0, le=1, description="strongest cut or dissolve that a clip may hold, as clips.cut_threshold; 1 is any"
    )
    min_motion_px_s: float | None = Field(
        None,
        ge=0,
        description="slowest foreground motion kept, camera motion taken out, in px/s of the clip; by default 2 % of "
        "its short side a second; 0 is no limit",
    )
    max_motion_px_s: float | None = Field(
        None, gt=0, description="fastest foreground motion kept, in px/s of the clip; by default no limit"
    )
    max_camera_px_s: float | None = Field(
        None, gt=0, description="fastest camera motion kept, in px/s of the clip; by default no limit"
    )
    caption_endpoint: str | None = Field(
        None,
        description="base URL of an OpenAI-compatible service that is asked yes or no about each caption, for example "
        "http://127.0.0.1:8000/v1; by default nobody is asked and captions do not count",
    )
    caption_model: str | None = Field(
        None, description="the service's name of the model that is asked; by default none"
    )
    caption_key_variable: str = Field(
        "OPENAI_API_KEY", description="environment variable that holds the service's key, where it wants one"
    )
    caption_timeout_s: float = Field(60.0, gt=0, description="longest wait for one answer")
    caption_parallel: int = Field(8, ge=1, le=256, description="captions asked about at the same time")

    @model_validator(mode="after")
    def _consistent(self) -> FilterSettings:
        low, high = self.min_motion_px_s, self.max_motion_px_s
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_motion_px_s ({low:g}) is above max_motion_px_s ({high:g})")
        if (self.caption_endpoint is None) != (self.caption_model is None):
            raise ValueError("caption_endpoint and caption_model belong together; give both or neither")
        if self.caption_endpoint is not None and not is_address(self.caption_endpoint):
            raise ValueError(
                f"caption_endpoint must be an address beginning with http:// or https://, got {self.caption_endpoint!r}"
            )
        return self
