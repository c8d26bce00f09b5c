"""The Wan family (2.1 text to video) through diffusers; the miniature is a tiny model of this family.

Every choice follows ``WanPipeline``: prompt cleaning and zero padding of the text, latent normalisation by the VAE's
``latents_mean`` and ``latents_std``, timesteps of 0 to 1000, velocity prediction, the shifted Euler grid.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.flow import euler_step, interpolate, velocity
from densedpo.diffusion.grid import shifted_grid
from densedpo.errors import ModelError
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.store.files import read_json

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
WAN_2_1 = InferenceDefaults(
    steps=50, cfg=5.0, shift=3.0, fps=16.0, num_frames=81, height=480, width=832, lora_targets=LORA_TARGETS
)


class WanModel(VideoModel):
    """Wan 2.1 text to video."""

    family = "wan"

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load all parts of the model in ``folder`` (diffusers layout); weights come from safetensors only.

        Raises:
            ModelError: if a part is missing or cannot be read.
        """
        self.folder, self.device, self.dtype = folder, device, dtype
        local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        try:
            self.vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, **local)
            self.denoiser = WanTransformer3DModel.from_pretrained(
                folder, subfolder="transformer", torch_dtype=dtype, **local
            )
            self.text_encoder = UMT5EncoderModel.from_pretrained(folder, subfolder="text_encoder", dtype=dtype, **local)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: cannot load this Wan model: {' '.join(str(error).split())}") from error
        for part in (self.vae, self.denoiser, self.text_encoder):
            part.requires_grad_(False).eval().to(device)
        config = self.vae.config
        self.temporal_stride = int(config["scale_factor_temporal"])
        self.spatial_stride = int(config["scale_factor_spatial"])
        self.latent_channels = int(config["z_dim"])
        self._mean: Tensor = torch.tensor(config["latents_mean"], device=device).view(1, -1, 1, 1, 1)
        self._std: Tensor = torch.tensor(config["latents_std"], device=device).view(1, -1, 1, 1, 1)
        self._train_steps = int(_scheduler(folder).get("num_train_timesteps", 1000))
        self.defaults = _defaults(folder)
        self.fingerprint = fingerprint_folder(folder)

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        stride = int(read_json(folder / "vae" / "config.json").get("scale_factor_temporal", 4))
        return _defaults(folder).geometry(stride)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Return embeddings [B, L, D]; positions behind the end of a prompt are zero, as in the pipeline."""
        tokens = self.tokenizer(
            [prompt_clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.defaults.text_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        hidden: Tensor = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        padded: Tensor = hidden * tokens.attention_mask[..., None].to(hidden.dtype)
        return padded

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return normalised latents."""
        latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return video in [-1, 1]."""
        raw = latents.to(self.device, self.vae.dtype) * self._std + self._mean
        video: Tensor = self.vae.decode(raw, return_dict=False)[0]
        return video.clamp(-1, 1)

    def predict(self, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Return the predicted velocity."""
        return self.denoiser(
            hidden_states=latents.to(self.dtype),
            timestep=t.to(self.device) * self._train_steps,
            encoder_hidden_states=text.to(self.dtype),
            return_dict=False,
        )[0]

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return (1 - t) x + t e."""
        return interpolate(clean, noise, t)

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return e - x."""
        return velocity(clean, noise)

    def step(self, sample: Tensor, prediction: Tensor, t: Tensor, next_t: Tensor) -> Tensor:
        """Return the sample one Euler step further."""
        return euler_step(sample, prediction, t, next_t)

    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the shifted Euler grid."""
        return shifted_grid(steps, shift, self._train_steps)


def _scheduler(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(folder / "scheduler" / "scheduler_config.json")
    return config


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the family's settings with the checkpoint's own shift, overlaid by ``densedpo.json`` where there is one.

    A model folder may carry that file to state its own inference settings; the miniature does.
    """
    scheduler = _scheduler(folder)
    shift = float(scheduler.get("flow_shift", scheduler.get("shift", WAN_2_1.shift)))
    defaults = replace(WAN_2_1, shift=shift)
    path = folder / "densedpo.json"
    if not path.exists():
        return defaults
    given = read_json(path).get("inference", {})
    known = {item.name for item in fields(InferenceDefaults)}
    if unknown := sorted(set(given) - known):
        raise ModelError(f"{path}: unknown inference settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return replace(defaults, **given)
