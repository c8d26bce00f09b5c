"""Typed settings: defaults, then ``densedpo.yaml``, then flags of the same names; an unknown key fails.

Names follow TRL where one exists. Units are in the names.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from densedpo.config_clips import ClipSettings, FilterSettings
from densedpo.config_evaluation import EvaluateSettings, SampleSettings
from densedpo.config_judges import JudgeSettings
from densedpo.config_labels import LabelSettings, ServeSettings
from densedpo.config_section import MAX_SEED, Listed, Section, Share
from densedpo.config_study import StudySettings
from densedpo.errors import ConfigError

__all__ = [
    "MAX_SEED",
    "PAPER_TRAIN",
    "PRESETS",
    "ClipSettings",
    "EvaluateSettings",
    "FilterSettings",
    "JudgeSettings",
    "LabelSettings",
    "Listed",
    "LossType",
    "Method",
    "PairSettings",
    "SampleSettings",
    "Section",
    "ServeSettings",
    "Settings",
    "Share",
    "StudySettings",
    "TrainSettings",
    "dump_settings",
    "load_settings",
    "parse_settings",
    "service_key",
]

Method = Literal["dense", "dense_sum", "vanilla", "structural", "sft"]
LossType = Literal["sigmoid", "robust", "ipo", "tie_aware", "sft", "sft_clip"]


class PairSettings(Section):
    """How pairs are made. ``None`` means the model family's own default, which is recorded in each row."""

    mode: Literal["guided", "independent"] = Field(
        "guided",
        description="both sides from partly noised copies of one clip (guided), or from pure noise (independent)",
    )
    eta_low: Share | None = Field(
        None, description="lowest noise level of a guided pair; by default the model family's"
    )
    eta_high: Share | None = Field(
        None, description="highest noise level of a guided pair; by default the model family's"
    )
    steps: int | None = Field(None, ge=1, description="sampling steps of the full grid; by default the model family's")
    cfg: float | None = Field(None, ge=0, description="classifier-free guidance scale; by default the model family's")
    shift: float | None = Field(None, gt=0, description="timestep shift of the grid; by default the model family's")
    pairs_per_clip: int = Field(1, ge=1, description="pairs made from one clip")
    batch_size: int = Field(8, ge=1, description="pairs denoised together, as many of them as fit")
    storage_dtype: Literal["bfloat16", "float8"] | None = Field(
        None, description="number format that the denoiser's weights are kept in between products; by default as loaded"
    )
    step_cache: float | None = Field(
        None, gt=0, lt=1, description="skip blocks where the first one changed by less than this share; by default off"
    )
    vae_tiling: bool = Field(
        False, description="encode and decode in overlapping tiles: less memory, faint differences where they meet"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="number format of denoiser and text encoder; auto: bfloat16 on a GPU, float32 elsewhere"
    )
    compile: bool = Field(False, description="compile the denoiser's repeated blocks")
    attention_backend: str | None = Field(
        None, description="attention backend of diffusers, for example flash or native; by default torch chooses"
    )

    @model_validator(mode="after")
    def _ordered(self) -> PairSettings:
        if self.eta_low is not None and self.eta_high is not None and self.eta_low > self.eta_high:
            raise ValueError(f"eta_low ({self.eta_low}) is above eta_high ({self.eta_high})")
        return self


class TrainSettings(Section):
    """One training run. The defaults are sized for the miniature; ``--preset paper`` gives the paper's recipe."""

    method: Method = Field(
        "dense", description="loss: by latent frame (dense), summed over frames, by whole clip, or none but the clips"
    )
    loss_type: Listed[LossType] = Field(
        ("sigmoid",),
        description="terms of the loss, comma-separated: sigmoid, robust, ipo or tie_aware on the margin; "
        "sft anchors to winning frames, sft_clip to the real clip",
    )
    loss_weights: Listed[float] | None = Field(
        None, description="weight of each term of loss_type, comma-separated; by default 1 each"
    )
    beta: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        500.0, description="strength of the leash, for *mean* squared errors; auto aims at beta_target_z"
    )
    beta_target_z: float = Field(0.3, gt=0, description="median |z| after warm-up that beta auto aims at")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of labels taken to be wrong: conservative in sigmoid, unbiased in robust"
    )
    confidence_weights: bool = Field(True, description="weigh each label by its strength; off: its sign alone counts")
    tie_alpha: float = Field(
        math.log(3), gt=0, description="half-width of a tie in tie_aware, in units of z (Rao-Kupper's log theta)"
    )
    dpop_lambda: float = Field(
        5.0, ge=0, description="DPOP: weight of the winner's error above the reference inside z; 0 is off"
    )
    sdpo_mu: float | None = Field(
        None, ge=0, lt=1, description="SDPO: safety margin of the loser's scale, frame by frame; by default off"
    )
    averaging: Literal["batch", "pair"] = Field(
        "batch", description="mean over all decided frames of the batch, or over those of a pair and then over pairs"
    )
    latent_tie_rms: float = Field(
        0.0, ge=0, description="latent frames in which a and b differ by less than this (rms) count as ties"
    )
    share_noise: bool = Field(True, description="same noise for both sides of a pair")
    t_limit: Literal["none", "eta"] = Field(
        "none", description="noise levels drawn: all, or (eta) those below the level that the pair was made from"
    )
    t_shift: float | None = Field(
        None,
        gt=0,
        description="shift of the logit-normal noise levels; by default the model family's shift for sampling",
    )
    precompute_ref_errors: bool = Field(
        False, description="measure the reference once, before training, on ref_draws fixed draws a pair"
    )
    ref_draws: int = Field(8, ge=1, description="stored draws of (t, noise) a pair, stratified in t")
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    max_steps: int = Field(150, ge=1, description="optimizer steps of the run")
    batch_size: int = Field(16, ge=1, description="pairs in one optimizer step, all processes and parts together")
    micro_batch_size: int = Field(16, ge=1, description="pairs in one forward pass of one process")
    warmup_steps: int = Field(30, ge=0, description="steps in which the learning rate rises from zero to its peak")
    lr_schedule: Literal["constant", "linear"] = Field(
        "linear", description="learning rate after warm-up: kept, or falling to zero"
    )
    optim: Literal["adamw", "adamw_fused", "adamw_8bit"] = Field(
        "adamw", description="optimizer; adamw_8bit keeps its moments in 8 bits (needs the extra `torchao`)"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="norm that gradients are clipped to")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which is then what is saved; by default none",
    )
    tuning: Literal["lora", "full"] = Field("lora", description="what is trained: a LoRA, or every denoiser weight")
    lora_rank: int = Field(32, ge=1, description="rank of the LoRA")
    lora_alpha: int | None = Field(None, ge=1, description="LoRA alpha; by default equal to the rank")
    lora_targets: Listed[str] | None = Field(
        None, description="layers that get a LoRA, comma-separated; by default the model family's"
    )
    lora_format: Literal["diffusers", "comfyui"] = Field(
        "diffusers", description="key layout of the LoRA file; comfyui adds a second file in ComfyUI's layout"
    )
    pairs: Literal["auto", "guided", "independent"] = Field(
        "auto", description="which pairs to learn from; auto: independent for vanilla, guided otherwise"
    )
    eval_share: float = Field(0.1, ge=0, lt=1, description="share of the pairs held out of training")
    eval_pairs: int = Field(64, ge=1, description="held-out pairs measured, at most")
    eval_steps: int = Field(25, ge=1, description="steps between measurements on held-out pairs")
    save_steps: int = Field(50, ge=1, description="steps between checkpoints")
    save_total_limit: int = Field(2, ge=1, description="newest checkpoints kept")
    self_check: bool = Field(True, description="check the maths on this model and data before the first step")
    guards: Literal["off", "warn", "stop"] = Field(
        "warn", description="what to do when training goes wrong: nothing, say it, or stop at the last good checkpoint"
    )
    probe_steps: int = Field(
        0, ge=0, description="steps between sampling a few prompts to watch motion, size and colour; 0 is never"
    )
    probe_prompts: int = Field(8, ge=2, description="captions sampled by the probe; fewer see less")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="measurements on held-out pairs without improvement before stopping; by default never"
    )
    activation_checkpointing: Literal["none", "full", "save-attention", "auto"] = Field(
        "none", description="activations computed again to save memory; auto: the cheapest that fits, by a dry run"
    )
    compile: bool = Field(False, description="compile the denoiser's repeated blocks")
    attention_backend: str | None = Field(
        None, description="attention backend of diffusers, for example flash or native; by default torch chooses"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="number format of a frozen base, or of the computation in full tuning"
    )
    storage_dtype: Literal["bfloat16", "float8"] | None = Field(
        None, description="number format that a frozen base's weights are kept in between products; by default dtype"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="under torchrun: whole copies, or weights sharded over the processes (FSDP2)"
    )
    report_to: Listed[Literal["tensorboard", "wandb", "trackio"]] = Field(
        (), description="trackers beside metrics.jsonl, comma-separated: tensorboard, wandb, trackio"
    )

    @property
    def weighted_loss_types(self) -> tuple[tuple[LossType, float], ...]:
        """The terms of the loss with their weights."""
        return tuple(zip(self.loss_type, self.loss_weights or (1.0,) * len(self.loss_type), strict=True))

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if not self.loss_type or len(set(self.loss_type)) != len(self.loss_type):
            raise ValueError(f"loss_type must name each term once, got {', '.join(self.loss_type) or 'none'}")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} loss_type")
        if self.method == "sft":
            wrong = [
                name
                for name in ("loss_type", "loss_weights", "precompute_ref_errors", "dpop_lambda", "sdpo_mu")
                if getattr(self, name) != type(self).model_fields[name].get_default()
            ]
            if wrong or self.beta == "auto":
                raise ValueError(
                    f"method sft has no preference and no reference; leave out {wrong[0] if wrong else 'beta'}"
                )
        if self.storage_dtype is not None and (self.tuning == "full" or self.parallel == "fsdp"):
            raise ValueError("storage_dtype is for a frozen base in one piece: tuning lora and parallel ddp")
        if self.tuning == "full" and self.lora_format != "diffusers":
            raise ValueError("lora_format belongs to tuning lora; tuning full saves the whole denoiser")
        return self


class Settings(Section):
    """Everything that can be set, one section a stage."""

    model: str = Field(
        "miniature", description="folder in diffusers' layout or hub name; miniature is the small one that comes along"
    )
    revision: str | None = Field(None, description="revision of a hub model; by default its main branch")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of every random stream")
    device: str = Field("auto", description="what computes: auto, cpu, cuda or cuda:N")
    clips: ClipSettings = ClipSettings()
    filter: FilterSettings = FilterSettings()
    pairs: PairSettings = PairSettings()
    label: LabelSettings = LabelSettings()
    serve: ServeSettings = ServeSettings()
    judge: JudgeSettings = JudgeSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    study: StudySettings = StudySettings()


PAPER_TRAIN: dict[str, Any] = {
    # Section 4 and appendix A of arXiv 2506.03517
    "beta": 500.0,
    "dpop_lambda": 0.0,
    "learning_rate": 1e-5,
    "max_steps": 1000,
    "batch_size": 256,
    "warmup_steps": 250,
    "lr_schedule": "constant",
    "max_grad_norm": 1.0,
    "lora_rank": 128,
    "t_shift": 1.0,
}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER_TRAIN}


def load_settings(file: Path | None, overrides: dict[str, Any], preset: str = "default") -> Settings:
    """Resolve settings: defaults, then ``file`` if it exists, then the preset, then ``overrides``.

    The file is checked by itself first, so that it is never blamed for a flag and sections are sure to be mappings.

    Args:
        file: YAML file, or None.
        overrides: values by dotted name (``"train.beta"``); None values are ignored.
        preset: a name in ``PRESETS``, applied to the ``train`` section.

    Raises:
        ConfigError: naming the unknown or wrong key and what was expected.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset: {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    merged: dict[str, Any] = {}
    if file is not None and file.exists():
        merged = _read_yaml(file)
        parse_settings(merged, source=str(file))
    if PRESETS[preset]:
        _merge(merged, {"train": PRESETS[preset]})
    for name, value in overrides.items():
        if value is not None:
            *sections, key = name.split(".")
            place = merged
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
    return parse_settings(merged)


def parse_settings(values: dict[str, Any], source: str = "settings") -> Settings:
    """Validate a nested mapping.

    Raises:
        ConfigError: one line a problem: the key, what is wrong, what was given.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            unknown = item["type"] == "extra_forbidden"
            # after the name of the setting, without the checker's marks
            said = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
            given = "" if unknown or isinstance(item["input"], dict) else f", got {item['input']!r}"
            problems.append(f"{key}: " + ("unknown setting" if unknown else f"{said}{given}"))
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None


def service_key(setting: str, variable: str) -> str:
    """Return the key in the environment variable that ``setting`` names, "none" where it is not set.

    Services of one's own take any key, but their clients insist on one.

    Raises:
        ConfigError: if the variable holds what no request can carry.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{setting}: ${variable} holds characters that no key has; set it to the key alone")
    return key or "none"


def dump_settings(settings: Settings, *, only_changed: bool = False) -> str:
    """Return settings as YAML: every key written out, or only those that differ from the defaults."""
    values = settings.model_dump(mode="json", exclude_defaults=only_changed)
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); it must be a YAML file") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: expected settings by name, got {type(loaded).__name__}")
    return loaded


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value
