"""The CogVideoX family through diffusers, text to video: 2B (sinusoidal positions), 5B (rotary) and 1.5.

Every choice follows ``CogVideoXPipeline``: plain T5 without a mask, latents times the VAE's ``scaling_factor``,
v-prediction at whole timesteps. Sampling is always deterministic DDIM on the checkpoint's own timesteps, also where it
ships DPM-Solver (5B, 1.5): that solver has a history and draws noise, and a guided pair starts without either. Where
``steps`` does not divide the trained timesteps, diffusers' DDIM steps beside the timestep that it goes on from; ours
steps onto it.

The VAE decodes 4 F - 3 frames from an odd number F of latent frames, but 4 F from an even one, so clips have 8k + 1
frames. CogVideoX 1.5 takes latent frames two by two: its clips have 16k + 1 frames and one latent frame in front makes
the number even. It is a copy of the first one, has noise of its own, and is cut off before decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn
from transformers import T5EncoderModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion import vp
from densedpo.errors import ConfigError, ModelError
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.fingerprint import fingerprint_folder
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

COGVIDEOX = InferenceDefaults(
    steps=50,
    cfg=6.0,
    shift=1.0,
    fps=8.0,
    num_frames=49,
    height=480,
    width=720,
    text_length=226,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
)
COGVIDEOX_1_5 = replace(COGVIDEOX, fps=16.0, num_frames=81, height=768, width=1360)
_BLOCKS = ["CogVideoXBlock"]
_VAE_BLOCKS = (128, 256, 256, 512)


class CogVideoXModel(VideoModel):
    """CogVideoX 2B, 5B and 1.5, text to video."""

    family = "cogvideox"
    vae: AutoencoderKLCogVideoX
    denoiser: CogVideoXTransformer3DModel

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load what text to video needs; see ``VideoModel``."""
        self.folder, self.device, self.dtype = folder, device, dtype
        self.defaults = _defaults(folder)
        with naming_folder(folder, "CogVideoX"):
            self._scheduler = CogVideoXDDIMScheduler.from_pretrained(
                folder, subfolder="scheduler", local_files_only=True
            )
            self._timesteps = vp.TimestepTable(self._scheduler.alphas_cumprod.tolist())
            self.vae = load_part(AutoencoderKLCogVideoX, folder, "vae", torch.float32)
            self.denoiser = load_part(CogVideoXTransformer3DModel, folder, "transformer", dtype).to(device)
            self.text_encoder: nn.Module = load_part(T5EncoderModel, folder, "text_encoder", dtype)
            self.tokenizer = load_tokenizer(folder)
        self._check_schedule()
        # diffusers names no repeated blocks for this family; compiling and FSDP need them
        self.denoiser._repeated_blocks = _BLOCKS
        self.text_encoders = (self.text_encoder,)
        self.settle()
        self.level_law = vp.EvenTimesteps(self._timesteps.levels)
        config = self.vae.config
        self.temporal_stride = int(config["temporal_compression_ratio"])
        self.spatial_stride = _spatial_stride(config["block_out_channels"])
        self.latent_channels = int(config["latent_channels"])
        self._scale = float(config["scaling_factor"])
        self._patch = int(self.denoiser.config["patch_size"])
        self._patch_frames: int | None = self.denoiser.config["patch_size_t"]
        self.frame_step = _frame_step(folder)
        self.lead_frames = -((self.defaults.num_frames - 1) // self.temporal_stride + 1) % (self._patch_frames or 1)
        self.fingerprint = fingerprint_folder(folder)

    def _check_schedule(self) -> None:
        config = self._scheduler.config
        for name, wanted in (("prediction_type", "v_prediction"), ("set_alpha_to_one", True)):
            if config[name] != wanted:
                raise ModelError(
                    f"{scheduler_file(self.folder)}: {name} is {config[name]!r}; CogVideoX models with {wanted!r} are "
                    "supported"
                )

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        stride = int(number(folder / "vae" / "config.json", "temporal_compression_ratio", default=4))
        return _defaults(folder).geometry(stride, _frame_step(folder))

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextCondition:
        """Return embeddings of all positions, padding included, as in the pipeline."""
        with self.in_use(self.text_encoder):
            tokens = tokenize(self.tokenizer, prompts, self.defaults.text_length).to(self.device)
            return TextCondition({"hidden": self.text_encoder(tokens.input_ids).last_hidden_state})

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return normalised latents, with the lead frames in front."""
        with self.in_use(self.vae):
            latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode() * self._scale
            return torch.cat([latents[:, :, :1].expand(-1, -1, self.lead_frames, -1, -1), latents], dim=2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return video in [-1, 1]."""
        with self.in_use(self.vae):
            raw = latents[:, :, self.lead_frames :].to(self.device, self.vae.dtype) / self._scale
            video: Tensor = self.vae.decode(raw, return_dict=False)[0]
            return video.clamp(-1, 1)

    def predict(self, latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        """Return the predicted v."""
        prediction: Tensor = self.denoiser(
            hidden_states=latents.transpose(1, 2).to(self.dtype),
            encoder_hidden_states=text.hidden.to(self.dtype),
            timestep=self._timesteps.timestep(t.to(self.device)),
            image_rotary_emb=self._rotary(*latents.shape[2:]),
            return_dict=False,
        )[0]
        return prediction.transpose(1, 2)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return alpha x + sigma e."""
        return vp.add_noise(clean, noise, t)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v = alpha e - sigma x."""
        return vp.v_target(clean, noise, t)

    def step(self, sample: Tensor, prediction: Tensor, t: Tensor, next_t: Tensor) -> Tensor:
        """Return the sample one DDIM step further."""
        return vp.ddim_step(sample, prediction, t, next_t)

    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the levels of the scheduler's timesteps, then 0; the first is below 1 if the scheduler's is.

        Raises:
            ConfigError: if ``shift`` is not 1, or there are fewer trained timesteps than ``steps``.
        """
        vp.refuse_shift(shift)
        levels = self._timesteps.levels
        if steps > len(levels):
            raise ConfigError(f"steps: {steps} asked for, but {self.folder} has {len(levels)} timesteps")
        self._scheduler.set_timesteps(steps)
        return [*(levels[timestep] for timestep in self._scheduler.timesteps.tolist()), 0.0]

    def _rotary(self, frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Return rotary positions for latents of this size; None where the model has sinusoidal ones."""
        config = self.denoiser.config
        if not config["use_rotary_positional_embeddings"]:
            return None
        here = (height // self._patch, width // self._patch)
        trained = (config["sample_height"] // self._patch, config["sample_width"] // self._patch)
        if self._patch_frames is None:  # stretched to the trained size
            crop = get_resize_crop_region_for_grid(here, trained[1], trained[0])
            where: dict[str, Any] = {"crops_coords": crop, "temporal_size": frames}
        else:  # cut out of the trained size
            where = {"crops_coords": None, "temporal_size": -(-frames // self._patch_frames)}
            where |= {"grid_type": "slice", "max_size": trained}
        table: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
            embed_dim=config["attention_head_dim"], grid_size=here, device=self.device, **where
        )
        return table


def _frame_step(folder: Path) -> int:
    """Return the frames by which clips of the model differ in length: 8, or where frames go two by two 16."""
    path = folder / "transformer" / "config.json"
    patch_frames = number(path, "patch_size_t", default=1) if read_config(path).get("patch_size_t") else 1
    return int(8 * patch_frames)


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the settings of the member of the family."""
    path = folder / "transformer" / "config.json"
    base = COGVIDEOX_1_5 if read_config(path).get("patch_size_t") else COGVIDEOX
    length = number(path, "max_text_seq_length", default=base.text_length)
    blocks = read_config(folder / "vae" / "config.json").get("block_out_channels")
    stride = _spatial_stride(blocks if isinstance(blocks, list) else _VAE_BLOCKS)
    multiple_px = stride * int(number(path, "patch_size", default=2))
    return inference_settings(folder, replace(base, text_length=int(length)), multiple_px=multiple_px)


def _spatial_stride(blocks: Sequence[int]) -> int:
    """Return the pixels that one latent stands for, each way, from the channels of the VAE's blocks."""
    return int(2 ** (len(blocks) - 1))
