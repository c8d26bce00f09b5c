"""The interface every model family fulfils; training, pairs and sampling see nothing else.

A new family is one file: subclass ``VideoModel``, fill in the methods below and add it to ``load.FAMILIES``.
Guidance (CFG), batching and seeds are handled outside.

Shape letters: B clips, C latent channels, F latent frames, T frames, L text tokens, D text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.levels import LOGIT_NORMAL, LevelLaw
from densedpo.models.parts import Denoiser, Vae
from densedpo.models.text import TextCondition

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class InferenceDefaults:
    """A family's own inference settings; every one can be overridden and is recorded with what it made.

    The bounds are checked where a model folder states settings of its own.
    """

    steps: Count
    cfg: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    shift: Positive
    fps: Positive
    num_frames: Count
    height: Count
    width: Count
    eta_low: Share = 0.65  # the paper's range of noise levels; ``pairs calibrate`` finds a model's own
    eta_high: Share = 0.80
    text_length: Count = 512
    lora_targets: tuple[str, ...] = field(default=())
    embedded_guidance: Positive | None = None  # told to a guidance-distilled denoiser in every pass, training included

    def geometry(self, temporal_stride: int, frame_step: int | None = None) -> ClipGeometry:
        """Return the clip shape that a model with these settings takes."""
        return ClipGeometry(self.fps, self.num_frames, self.height, self.width, temporal_stride, frame_step=frame_step)


class VideoModel(ABC):
    """A loaded text-to-video model: text encoder, video VAE, denoiser and noise schedule."""

    family: str
    name: str  # as the user gave it to ``load_model``: miniature, a folder or a hub name
    folder: Path
    fingerprint: str  # changes whenever a weight or a configuration does
    defaults: InferenceDefaults
    device: torch.device
    dtype: torch.dtype  # of the denoiser's frozen weights
    denoiser: Denoiser  # what LoRA is added to and what training changes
    vae: Vae
    text_encoders: tuple[nn.Module, ...]
    offload: bool = True  # whether VAE and text encoders leave the device when they are not in use
    temporal_stride: int
    spatial_stride: int
    latent_channels: int
    frame_step: int | None = None  # frames by which valid clips differ in length; by default temporal_stride
    lead_frames: int = 0  # latent frames in front of the clip's own, denoised with it and cut off before decoding
    most_at_once: int | None = None  # largest batch of a forward pass in sampling, once a larger one did not fit
    storage_dtype: str | None = None  # format that the denoiser's weights are kept in, where not ``dtype``
    compute_dtype: torch.dtype | None = None  # autocast of training passes, where trained weights are float32
    level_law: LevelLaw = LOGIT_NORMAL  # of the noise levels that training draws

    @property
    def geometry(self) -> ClipGeometry:
        """The clip shape that the model was made for."""
        return self.defaults.geometry(self.temporal_stride, self.frame_step)

    @staticmethod
    @abstractmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (C, F, H, W) of the latents of a clip; F = (T - 1) / stride + 1 for a causal VAE, and lead frames."""
        return (
            self.latent_channels,
            self.lead_frames + (num_frames - 1) // self.temporal_stride + 1,
            height // self.spatial_stride,
            width // self.spatial_stride,
        )

    def settle(self) -> None:
        """Put VAE and text encoders where they wait: on the CPU, or with ``offload`` off on the device."""
        for part in (self.vae, *self.text_encoders):
            part.to("cpu" if self.offload else self.device)

    @contextmanager
    def in_use(self, *parts: nn.Module) -> Iterator[None]:
        """Have parts on the device during the block; where ``offload`` is set, those that came go back to the CPU."""
        came = [part for part in parts if next(part.parameters()).device != self.device]
        for part in came:
            part.to(self.device)
        try:
            yield
        finally:
            for part in came if self.offload else ():
                part.to("cpu")

    @abstractmethod
    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load all parts of the model in ``folder``.

        Raises:
            ModelError: if a part is missing, cannot be read, or is of a kind that is not supported.
        """

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> TextCondition:
        """Return what the family's pipeline tells the denoiser of prompts."""

    @abstractmethod
    def encode_video(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c f hl wl"]:
        """Return normalised latents of video in [-1, 1]: the posterior's mode, (z - mean) / std per channel."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c f hl wl"]) -> Float[Tensor, "b 3 t h w"]:
        """Return video in [-1, 1] from normalised latents."""

    @abstractmethod
    def predict(
        self, latents: Float[Tensor, "b c f hl wl"], t: Float[Tensor, " b"], text: TextCondition
    ) -> Float[Tensor, "b c f hl wl"]:
        """Return the denoiser's prediction of ``target`` at noise levels ``t`` in [0, 1]."""

    @abstractmethod
    def add_noise(
        self, clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the noised sample at levels ``t``."""

    @abstractmethod
    def target(
        self, clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return what ``predict`` is trained to return."""

    @abstractmethod
    def step(
        self,
        sample: Float[Tensor, "b ..."],
        prediction: Float[Tensor, "b ..."],
        t: Float[Tensor, " b"],
        next_t: Float[Tensor, " b"],
    ) -> Float[Tensor, "b ..."]:
        """Return the sample one sampler step further, from levels ``t`` to ``next_t``."""

    @abstractmethod
    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the noise levels of the family's sampler, ``steps + 1`` of them, from 1 down to 0."""
