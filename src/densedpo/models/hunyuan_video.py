"""HunyuanVideo through diffusers, text to video, as ``HunyuanVideoPipeline`` runs it.

Two text encoders: a Llama that reads the caption inside a fixed instruction, whose tokens are cut off again, and CLIP,
whose summary of the caption goes where the noise level goes. Latents are multiplied by one factor.

The released model is distilled for guidance: it is told a guidance scale and gives the guided prediction in one pass,
so cfg is 1. The same scale, ``embedded_guidance``, is told in making pairs, in training and in sampling: the reference
that a preference is measured against is then the model that made the videos, and not one that nobody samples from. For
fine-tuning on real clips alone (``method: sft``) a scale of 1 is the better choice, as clips know no guidance; a model
folder sets it in ``densedpo.json``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn
from transformers import CLIPTextModel, LlamaModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.grid import even_grid
from densedpo.models.base import InferenceDefaults
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.models.flow import FlowModel
from densedpo.models.folder import (
    inference_settings,
    load_part,
    load_tokenizer,
    naming_folder,
    number,
    scheduler_file,
)
from densedpo.models.text import TextCondition

HUNYUAN_VIDEO = InferenceDefaults(
    steps=50,
    cfg=1.0,
    shift=7.0,
    fps=24.0,
    num_frames=129,
    height=720,
    width=1280,
    text_length=256,
    embedded_guidance=6.0,
)
# Attention and feed-forward of both kinds of blocks; the refiner of the text stays as it is.
_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
_LAYERS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
)
_HIDDEN_LAYER = -3  # of the Llama: what its last two layers make of the text is not used
_CLIP_LENGTH = 77


class HunyuanVideoModel(FlowModel):
    """HunyuanVideo, text to video."""

    family = "hunyuan_video"
    vae: AutoencoderKLHunyuanVideo
    denoiser: HunyuanVideoTransformer3DModel

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load what text to video needs; see ``VideoModel``."""
        self.folder, self.device, self.dtype = folder, device, dtype
        self.temporal_stride, self.spatial_stride = _strides(folder)
        self._train_steps = number(scheduler_file(folder), "num_train_timesteps", default=1000)
        with naming_folder(folder, "HunyuanVideo"):
            vae = load_part(AutoencoderKLHunyuanVideo, folder, "vae", torch.float32)
            denoiser = load_part(HunyuanVideoTransformer3DModel, folder, "transformer", dtype)
            llama = load_part(LlamaModel, folder, "text_encoder", dtype)
            clip = load_part(CLIPTextModel, folder, "text_encoder_2", dtype)
            self.tokenizer, self.tokenizer_2 = load_tokenizer(folder), load_tokenizer(folder, "tokenizer_2")
            if denoiser.config["image_condition_type"] is not None:
                raise ValueError("its transformer starts from an image; only text to video is supported")
            vae.enable_tiling()  # above 256 pixels a side, as the family's own code does: whole, 720p takes too much
            self.vae, self.denoiser = vae, denoiser.to(device)
            self.llama, self.clip, self.text_encoders = llama, clip, (llama, clip)
            self.latent_channels = int(vae.config["latent_channels"])
            self._scale = float(vae.config["scaling_factor"])
        self.settle()
        defaults = _defaults(folder)
        self.defaults = replace(defaults, lora_targets=defaults.lora_targets or _lora_targets(denoiser))
        self.fingerprint = fingerprint_folder(folder)

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        return _defaults(folder).geometry(_strides(folder)[0])

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextCondition:
        """Return the Llama's embeddings of the captions with their mask, and CLIP's summaries."""
        cut = DEFAULT_PROMPT_TEMPLATE["crop_start"]
        with self.in_use(self.llama, self.clip):
            tokens = self.tokenizer(
                [DEFAULT_PROMPT_TEMPLATE["template"].format(prompt) for prompt in prompts],
                padding="max_length",
                max_length=self.defaults.text_length + cut,
                truncation=True,
                padding_side="right",  # what is cut off stands in front
                return_tensors="pt",
            ).to(self.device)
            layers = self.llama(tokens.input_ids, tokens.attention_mask, output_hidden_states=True).hidden_states
            clip_tokens = self.tokenizer_2(
                prompts, padding="max_length", max_length=_CLIP_LENGTH, truncation=True, return_tensors="pt"
            ).to(self.device)
            pooled: Tensor = self.clip(clip_tokens.input_ids).pooler_output
        hidden: Tensor = layers[_HIDDEN_LAYER][:, cut:]
        return TextCondition({"hidden": hidden, "mask": tokens.attention_mask[:, cut:].bool(), "pooled": pooled})

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Return normalised latents."""
        with self.in_use(self.vae):
            latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
            return latents * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return video in [-1, 1]."""
        with self.in_use(self.vae):
            raw = latents.to(self.device, self.vae.dtype) / self._scale
            video: Tensor = self.vae.decode(raw, return_dict=False)[0]
            return video.clamp(-1, 1)

    def predict(self, latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        """Return the predicted velocity, at the embedded guidance scale where the denoiser takes one."""
        guidance = self.defaults.embedded_guidance or 1.0
        prediction: Tensor = self.denoiser(
            hidden_states=latents.to(self.dtype),
            timestep=t.to(self.device) * self._train_steps,
            encoder_hidden_states=text.hidden.to(self.dtype),
            encoder_attention_mask=text.tensors["mask"].to(self.dtype),
            pooled_projections=text.tensors["pooled"].to(self.dtype),
            guidance=torch.full((len(latents),), guidance, dtype=self.dtype, device=self.device) * 1000.0,
            return_dict=False,
        )[0]
        return prediction

    def grid(self, steps: int, shift: float) -> list[float]:
        """Return the shifted Euler grid."""
        return even_grid(steps, shift)


def _lora_targets(denoiser: nn.Module) -> tuple[str, ...]:
    """Return the full names of the layers that a LoRA goes to: the refiner has layers of the same short names."""
    return tuple(
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(_BLOCKS) and name.endswith(_LAYERS)
    )


def _strides(folder: Path) -> tuple[int, int]:
    path = folder / "vae" / "config.json"
    temporal = number(path, "temporal_compression_ratio", default=4)
    return int(temporal), int(number(path, "spatial_compression_ratio", default=8))


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the family's settings, with the checkpoint's own shift."""
    base = replace(HUNYUAN_VIDEO, shift=float(number(scheduler_file(folder), "shift", default=1.0)))
    patch = number(folder / "transformer" / "config.json", "patch_size", default=2)
    return inference_settings(folder, base, multiple_px=_strides(folder)[1] * int(patch))
