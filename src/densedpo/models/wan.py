"""The Wan family (2.1 text to video) through diffusers; the miniature is a tiny model of this family.

Every choice follows ``WanPipeline``: prompt cleaning and zero padding of the text, latent normalisation by the VAE's
``latents_mean`` and ``latents_std``, timesteps of 0 to 1000, velocity prediction. Sampling is always by Euler steps on
the grid with the checkpoint's shift, also where the checkpoint ships another solver (UniPC): guided pairs start in the
middle of the grid, where a multistep solver has no history. Wan 2.2 is refused: it has two denoisers or a noise level
of its own for each token.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from densedpo.clips.geometry import ClipGeometry
from densedpo.diffusion.flow import euler_step, interpolate, velocity
from densedpo.diffusion.grid import shifted_grid
from densedpo.errors import ModelError, ProjectError
from densedpo.models.base import InferenceDefaults, VideoModel
from densedpo.models.fingerprint import fingerprint_folder
from densedpo.store.files import read_object

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
        _refuse_wan_2_2(folder)
        self.folder, self.device, self.dtype = folder, device, dtype
        self.defaults = _defaults(folder)
        self._train_steps = int(_number(_scheduler_file(folder), "num_train_timesteps", default=1000))
        local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        try:
            self.vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, **local)
            self.denoiser = WanTransformer3DModel.from_pretrained(
                folder, subfolder="transformer", torch_dtype=dtype, **local
            )
            self.text_encoder, found = UMT5EncoderModel.from_pretrained(
                folder, subfolder="text_encoder", dtype=dtype, output_loading_info=True, **local
            )
            self.tokenizer = AutoTokenizer.from_pretrained(
                folder, subfolder="tokenizer", local_files_only=True, trust_remote_code=False
            )
            if missing := sorted(found["missing_keys"]):
                raise ModelError(f"text_encoder lacks {len(missing)} weights ({missing[0]}, …)")
            for part in (self.vae, self.denoiser, self.text_encoder):
                part.requires_grad_(False).eval().to(device)
        # a weight that the files lack stays without storage, which fails with NotImplementedError when it is moved
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ModelError(f"{folder}: cannot load this Wan model: {' '.join(str(error).split())}") from error
        config = self.vae.config
        self.temporal_stride = int(config["scale_factor_temporal"])
        self.spatial_stride = int(config["scale_factor_spatial"])
        self.latent_channels = int(config["z_dim"])
        self._mean: Tensor = torch.tensor(config["latents_mean"], device=device).view(1, -1, 1, 1, 1)
        self._std: Tensor = torch.tensor(config["latents_std"], device=device).view(1, -1, 1, 1, 1)
        self.fingerprint = fingerprint_folder(folder)

    @staticmethod
    def geometry_of(folder: Path) -> ClipGeometry:
        """Return the clip shape of the model in ``folder`` without loading a weight."""
        _refuse_wan_2_2(folder)
        stride = int(_number(folder / "vae" / "config.json", "scale_factor_temporal", default=4))
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


def read_config(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files.

    Raises:
        ModelError: if it is missing or holds no JSON object.
    """
    try:
        return read_object(path)
    except ProjectError as error:
        raise ModelError(str(error)) from None


def _number(path: Path, *keys: str, default: float) -> float:
    """Return the first of ``keys`` that a model's JSON file has: a positive number."""
    config = read_config(path)
    key = next((key for key in keys if key in config), None)
    value = default if key is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"{path}: {key} must be a positive number, got {value!r}")
    return value


def _scheduler_file(folder: Path) -> Path:
    return folder / "scheduler" / "scheduler_config.json"


def _refuse_wan_2_2(folder: Path) -> None:
    path = folder / "model_index.json"
    index = read_config(path)
    # diffusers writes an absent part as null or [null, null]
    if index.get("transformer_2") not in (None, [None, None]):
        reason = "transformer_2"
    elif index.get("boundary_ratio") is not None:
        reason = "boundary_ratio"
    elif index.get("expand_timesteps"):
        reason = "expand_timesteps"
    else:
        return
    raise ModelError(f"{path}: has {reason}, so it is a Wan 2.2 model, which is not supported yet; use a Wan 2.1 model")


def _defaults(folder: Path) -> InferenceDefaults:
    """Return the family's settings with the checkpoint's own shift, overlaid by ``densedpo.json`` where there is one.

    A model folder may carry that file to state its own inference settings; the miniature does.
    """
    shift = _number(_scheduler_file(folder), "flow_shift", "shift", default=WAN_2_1.shift)
    defaults = replace(WAN_2_1, shift=float(shift))
    path = folder / "densedpo.json"
    if not path.exists():
        return defaults
    given = read_config(path).get("inference", {})
    if not isinstance(given, dict):
        raise ModelError(f"{path}: inference must be an object of settings, got {type(given).__name__}")
    known = {item.name for item in fields(InferenceDefaults)}
    if unknown := sorted(set(given) - known):
        raise ModelError(f"{path}: unknown inference settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return TypeAdapter(InferenceDefaults).validate_python(asdict(defaults) | given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path}: inference.{key}: {first['msg']}, got {first['input']!r}") from None
