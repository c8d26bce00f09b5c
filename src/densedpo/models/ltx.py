"""The LTX-Video family through diffusers: 0.9.0 and 0.9.1, ``LTXPipeline``, and from 0.9.5 on ``LTXConditionPipeline``.

The denoiser sees one token per latent position. It is told where a token lies in seconds and pixels, so the frame rate
matters, and which text tokens count. The pipelines differ in three ways, known from ``model_index.json``: when the
first latent frame ends (the later one counts it as a single frame), how the sampler's levels are spaced (an even grid
with a shift that grows with the number of tokens, against a linear-quadratic one), and whether the text encoder itself
is told what is padding (the earlier one's is not).

The VAE of 0.9.1 and later is a denoiser itself: it is given latents with a little noise and a level to clean them at,
and adds grain. That noise is the same for every video of a size, so the sides of a pair differ by their latents alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.grid import even_grid, linear_quadratic_grid
from densedpo.diffusion.levels import LOGIT_NORMAL, Shifted
from densedpo.errors import ModelError
from densedpo.keys import noise, seeded_library
from densedpo.models.base import InferenceDefaults
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.models.flow import FlowModel
from densedpo.models.folder import (
    inference_settings,
    load_part,
    load_tokenizer,
    naming_folder,
    number,
    read_config,
    scheduler_file,
    tokenize,
)
from densedpo.models.text import TextCondition

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
LTX = InferenceDefaults(
    steps=50,
    cfg=3.0,
    shift=1.0,
    fps=25.0,
    num_frames=161,
    height=512,
    width=704,
    text_length=128,
    lora_targets=LORA_TARGETS,
)
LTX_CONDITION = replace(LTX, text_length=256)
# how the scheduler of 0.9.0 and 0.9.1 shifts
SHIFT_0_9 = {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}
DECODE_LEVEL = 0.05  # what the model cards of 0.9.1 and later recommend: level told to the VAE
DECODE_NOISE = 0.025  # and share of noise in what it decodes


class LtxModel(FlowModel):
    """LTX-Video, text to video."""

    family = "ltx"
    vae: AutoencoderKLLTXVideo
    denoiser: LTXVideoTransformer3DModel

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load what text to video needs; see ``VideoModel``."""
        self.folder, self.device, self.dtype = folder, device, dtype
        self.defaults = _defaults(folder)
        self._is_condition = _is_condition(folder)
        self._terminal = _terminal(folder)
        self._train_steps = number(scheduler_file(folder), "num_train_timesteps", default=1000)
        self.temporal_stride, self.spatial_stride = _strides(folder)
        if self._is_condition:  # its sampler does not shift; training drew its levels as the earlier models' did
            self.level_law = Shifted(LOGIT_NORMAL, _dynamic_shift(_tokens(folder, self.defaults), SHIFT_0_9))
        with naming_folder(folder, "LTX-Video"):
            vae = load_part(AutoencoderKLLTXVideo, folder, "vae", torch.float32)
            denoiser = load_part(LTXVideoTransformer3DModel, folder, "transformer", dtype)
            text_encoder = load_part(T5EncoderModel, folder, "text_encoder", dtype)
            tokenizer = load_tokenizer(folder)
            if (denoiser.config["patch_size"], denoiser.config["patch_size_t"]) != (1, 1):
                raise ValueError("its transformer takes patches of latents; only one token a position is supported")
            self.vae, self.denoiser, self.tokenizer = vae, denoiser.to(device), tokenizer
            self.text_encoder, self.text_encoders = text_encoder, (text_encoder,)
            self.latent_channels = int(vae.config["latent_channels"])
            self._scale = float(vae.config["scaling_factor"])
        self.settle()
        self.fingerprint = fingerprint_folder(folder)

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        return _defaults(folder).geometry(_strides(folder)[0])

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextCondition:
        """Return embeddings, padding included, and the mask of the tokens that the denoiser looks at."""
        with self.in_use(self.text_encoder):
            tokens = tokenize(self.tokenizer, prompts, self.defaults.text_length).to(self.device)
            mask = tokens.attention_mask if self._is_condition else None  # the earlier pipeline's encoder sees padding
            hidden: Tensor = self.text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state
            return TextCondition({"hidden": hidden, "mask": tokens.attention_mask.bool()})

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return normalised latents."""
        with self.in_use(self.vae):
            latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
            mean, std = self._statistics()
            return (latents - mean) * self._scale / std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return video in [-1, 1]."""
        with self.in_use(self.vae):
            mean, std = self._statistics()
            raw = latents.to(self.device, self.vae.dtype) * std / self._scale + mean
            level = None
            if self.vae.config["timestep_conditioning"]:
                drawn = noise(tuple(raw.shape[1:]), None, "ltx-decode").to(raw)
                raw = (1 - DECODE_NOISE) * raw + DECODE_NOISE * drawn
                level = torch.full((len(raw),), DECODE_LEVEL, device=raw.device, dtype=raw.dtype)
            with seeded_library(self.device, None, "ltx-decode-grain"):
                video: Tensor = self.vae.decode(raw, level, return_dict=False)[0]
            return video.clamp(-1, 1)

    def predict(self, latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        """Return the predicted velocity."""
        frames, height, width = latents.shape[2:]
        prediction: Tensor = self.denoiser(
            hidden_states=latents.flatten(2).transpose(1, 2).to(self.dtype),
            encoder_hidden_states=text.hidden.to(self.dtype),
            timestep=t.to(self.device) * self._train_steps,
            encoder_attention_mask=text.tensors["mask"],
            video_coords=self._coordinates(frames, height, width),
            return_dict=False,
        )[0]
        return prediction.transpose(1, 2).reshape(-1, self.latent_channels, frames, height, width)

    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the levels of the checkpoint's own pipeline."""
        return linear_quadratic_grid(steps, shift) if self._is_condition else even_grid(steps, shift, self._terminal)

    def _coordinates(self, frames: int, height: int, width: int) -> Tensor:
        """Return where each token lies, in seconds and pixels, [1, 3, F H W]."""
        first = torch.arange(frames, dtype=torch.float32, device=self.device)
        if self._is_condition:  # the first latent frame holds one frame, every other one ``temporal_stride``
            time = (first * self.temporal_stride + 1 - self.temporal_stride).clamp(min=0) * (1.0 / self.defaults.fps)
        else:
            time = first * (self.temporal_stride / self.defaults.fps)
        rows, columns = (
            torch.arange(count, dtype=torch.float32, device=self.device) * self.spatial_stride
            for count in (height, width)
        )
        return torch.stack(torch.meshgrid(time, rows, columns, indexing="ij")).flatten(1)[None]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.vae.latents_mean.view(1, -1, 1, 1, 1), self.vae.latents_std.view(1, -1, 1, 1, 1)


def _is_condition(folder: Path) -> bool:
    return bool(read_config(folder / "model_index.json").get("_class_name") == "LTXConditionPipeline")


def _strides(folder: Path) -> tuple[int, int]:
    """Return how many frames and pixels a latent position stands for, read off the VAE's configuration.

    Raises:
        ModelError: if it says something else than numbers.
    """
    path = folder / "vae" / "config.json"
    config = read_config(path)
    scaling = config.get("spatio_temporal_scaling", (True, True, True, False))
    if not isinstance(scaling, list | tuple):
        raise ModelError(f"{path}: spatio_temporal_scaling must be a list, got {scaling!r}")
    doubled: int = 2 ** sum(bool(item) for item in scaling)

    def stride(name: str, patch: str, default: int) -> int:
        if config.get(name) is not None:
            return int(number(path, name, default=1))
        return int(number(path, patch, default=default)) * doubled

    return (
        stride("temporal_compression_ratio", "patch_size_t", 1),
        stride("spatial_compression_ratio", "patch_size", 4),
    )


def _tokens(folder: Path, settings: InferenceDefaults) -> int:
    """Return the number of latent positions of a full clip."""
    temporal, spatial = _strides(folder)
    return ((settings.num_frames - 1) // temporal + 1) * (settings.height // spatial) * (settings.width // spatial)


def _dynamic_shift(tokens: int, config: Mapping[str, Any]) -> float:
    """Return exp(mu), mu on a straight line over the number of tokens; beyond the line's ends it goes on."""
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    fewest, most = float(config.get("base_image_seq_len", 256)), float(config.get("max_image_seq_len", 4096))
    mu = low + (high - low) * (tokens - fewest) / (most - fewest)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def _terminal(folder: Path) -> float | None:
    """Return the level that the sampler's grid ends at before 0, if it has one.

    Raises:
        ModelError: if it is no level below 1.
    """
    path = scheduler_file(folder)
    if not read_config(path).get("shift_terminal"):
        return None
    level = number(path, "shift_terminal", default=1)
    if level >= 1:
        raise ModelError(f"{path}: shift_terminal must lie below 1, got {level:g}")
    return level


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the family's settings; the shift is the one of the pipeline's scheduler at the model's clip size."""
    base = LTX_CONDITION if _is_condition(folder) else LTX
    path = scheduler_file(folder)
    config = read_config(path)
    multiple_px = _strides(folder)[1]
    if not config.get("use_dynamic_shifting"):
        base = replace(base, shift=float(number(path, "shift", default=1.0)))
        return inference_settings(folder, base, multiple_px=multiple_px)
    if _is_condition(folder):
        raise ModelError(f"{path}: use_dynamic_shifting does not go with LTXConditionPipeline, whose grid has no mu")
    try:
        shift = _dynamic_shift(_tokens(folder, inference_settings(folder, base)), config)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(f"{path}: its dynamic shift cannot be computed ({error})") from None
    return inference_settings(folder, replace(base, shift=shift), multiple_px=multiple_px)
