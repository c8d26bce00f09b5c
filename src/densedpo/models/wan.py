"""The Wan family through diffusers: 2.1 text to video, 2.2 A14B and 2.2 TI2V-5B; the miniature is a tiny Wan 2.1.

Every choice follows ``WanPipeline``: prompt cleaning and zero padding of the text, latent normalisation by the VAE's
``latents_mean`` and ``latents_std``, timesteps of 0 to 1000, velocity prediction. Sampling is always by Euler steps on
the grid with the checkpoint's shift, also where the checkpoint ships another solver (UniPC): guided pairs start in the
middle of the grid, where a multistep solver has no history.

Wan 2.2 A14B is two denoisers, one for noise levels from ``boundary_ratio`` up and one for those below. Guided pairs
start below it, so the low-noise expert alone is loaded, tuned and saved; the other is loaded where a level above the
boundary is asked for, that is for videos from pure noise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.grid import shifted_grid
from densedpo.diffusion.levels import Below
from densedpo.errors import ModelError
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
from densedpo.observe import say

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
WAN_2_1 = InferenceDefaults(
    steps=50, cfg=5.0, shift=3.0, fps=16.0, num_frames=81, height=480, width=832, lora_targets=LORA_TARGETS
)
WAN_2_2_A14B = replace(WAN_2_1, steps=40, cfg=3.0, shift=12.0)
WAN_2_2_TI2V = replace(WAN_2_1, shift=5.0, fps=24.0, num_frames=121, height=704, width=1280)


class WanModel(FlowModel):
    """Wan 2.1 and 2.2, text to video."""

    family = "wan"
    vae: AutoencoderKLWan
    denoiser: WanTransformer3DModel
    _boundary: float | None = None  # level from which another denoiser than ours is needed
    _high_noise: WanTransformer3DModel | None = None
    _level_per_token = False
    _train_steps = 1000

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load what text to video needs; see ``VideoModel``."""
        self.folder, self.device, self.dtype = folder, device, dtype
        self.defaults = _defaults(folder)
        self._train_steps = int(number(scheduler_file(folder), "num_train_timesteps", default=1000))
        index = read_config(folder / "model_index.json")
        self._level_per_token = bool(index.get("expand_timesteps"))
        name = "transformer"
        if _has_two_experts(index):
            name = "transformer_2"
            self._boundary = number(folder / "model_index.json", "boundary_ratio", default=0.875)
            self.level_law = Below(self.level_law, self._boundary)
            say(
                f"{folder.name}: transformer_2 is loaded, the expert for noise levels below {self._boundary:g}; it is "
                "what is trained"
            )
        with naming_folder(folder, "Wan"):
            vae = load_part(AutoencoderKLWan, folder, "vae", torch.float32)
            denoiser = load_part(WanTransformer3DModel, folder, name, dtype)
            text_encoder = load_part(UMT5EncoderModel, folder, "text_encoder", dtype)
            self._assemble(vae, denoiser, text_encoder, load_tokenizer(folder))
        self.fingerprint = fingerprint_folder(folder)

    def _assemble(self, vae: Any, denoiser: Any, text_encoder: Any, tokenizer: Any) -> None:
        self.vae, self.denoiser, self.tokenizer = vae, denoiser.to(self.device), tokenizer
        self.text_encoder: nn.Module = text_encoder
        self.text_encoders = (text_encoder,)
        self.settle()
        config = vae.config
        self.temporal_stride = int(config["scale_factor_temporal"])
        self.spatial_stride = int(config["scale_factor_spatial"])
        self.latent_channels = int(config["z_dim"])
        self._mean: Tensor = torch.tensor(config["latents_mean"], device=self.device).view(1, -1, 1, 1, 1)
        self._std: Tensor = torch.tensor(config["latents_std"], device=self.device).view(1, -1, 1, 1, 1)

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        stride = int(number(folder / "vae" / "config.json", "scale_factor_temporal", default=4))
        return _defaults(folder).geometry(stride)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextCondition:
        """Return embeddings; positions behind the end of a prompt are zero, as in the pipeline."""
        with self.in_use(self.text_encoder):
            tokens = tokenize(self.tokenizer, [prompt_clean(p) for p in prompts], self.defaults.text_length).to(
                self.device
            )
            hidden: Tensor = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
            return TextCondition({"hidden": hidden * tokens.attention_mask[..., None].to(hidden.dtype)})

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return normalised latents."""
        with self.in_use(self.vae):
            latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
            return (latents - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return video in [-1, 1]."""
        with self.in_use(self.vae):
            raw = latents.to(self.device, self.vae.dtype) * self._std + self._mean
            video: Tensor = self.vae.decode(raw, return_dict=False)[0]
            return video.clamp(-1, 1)

    def predict(self, latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        """Return the predicted velocity."""
        level = t.to(self.device)
        timestep = level * self._train_steps
        if self._level_per_token:  # the same for all tokens, as nothing of the clip is given
            tokens = latents.shape[2] * (latents.shape[3] // 2) * (latents.shape[4] // 2)
            timestep = timestep[:, None].expand(-1, tokens)
        prediction: Tensor = self._expert(level)(
            hidden_states=latents.to(self.dtype),
            timestep=timestep,
            encoder_hidden_states=text.hidden.to(self.dtype),
            return_dict=False,
        )[0]
        return prediction

    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the shifted Euler grid."""
        return shifted_grid(steps, shift, self._train_steps)

    def _expert(self, level: Tensor) -> nn.Module:
        """Return the denoiser for these levels."""
        if self._boundary is None or bool((level < self._boundary).all()):
            return self.denoiser
        if not bool((level >= self._boundary).all()):
            raise ModelError(
                f"{self.folder}: noise levels on both sides of {self._boundary:g} in one batch, which are two models'; "
                "choose eta_high below it"
            )
        if self._high_noise is None:
            say(f"{self.folder.name}: loading its high-noise expert too, as videos are made from pure noise")
            with naming_folder(self.folder, "Wan"):
                found = load_part(WanTransformer3DModel, self.folder, "transformer", self.dtype)
            self._high_noise = found.to(self.device)
        return self._high_noise


def _has_two_experts(index: dict[str, Any]) -> bool:
    # diffusers writes an absent part as null or [null, null]
    return index.get("transformer_2") not in (None, [None, None])


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the settings of the member of the family, with the checkpoint's own shift."""
    index = read_config(folder / "model_index.json")
    base = WAN_2_2_A14B if _has_two_experts(index) else WAN_2_2_TI2V if index.get("expand_timesteps") else WAN_2_1
    shift = number(scheduler_file(folder), "flow_shift", "shift", default=base.shift)
    return inference_settings(folder, replace(base, shift=float(shift)))
