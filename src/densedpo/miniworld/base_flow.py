"""Stage 2 of the base model: tokenizer, text encoder and a small Wan transformer, trained by flow matching in latents.

Rectified flow in normalised VAE latents: x_t = (1 - t) x + t e, target v = e - x. A redundant latent space shows motion
through much noise, so t is drawn from a logit-normal whose mean is well above zero. Matrices inside blocks go to Muon,
everything else to AdamW; an exponential moving average of the weights is what ships.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from densedpo.keys import noise, seeded_initialisation, stream, torch_stream
from densedpo.miniworld import scenes
from densedpo.miniworld.base_vae import LATENT_CHANNELS, to_tensor, training_scene
from densedpo.observe import MetricsLog, say, track
from densedpo.store.files import replacing
from densedpo.training.checkpoint import load_latest, optimizer_tensors, restore_optimizer, save_checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

TEXT_LENGTH = 16
TEXT_WIDTH = 48
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class FlowRecipe:
    """Every number of the transformer's training."""

    steps: int = 5000
    clips: int = 4096
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    decay_share: float = 0.35  # last part of the run, over which the rate falls to zero
    ema_decay: float = 0.998
    caption_dropout: float = 0.12
    logit_mean: float = 1.5
    logit_scale: float = 1.0
    uniform_share: float = 0.2


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word tokenizer over the world's captions; other words become one unknown token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for subject in scenes.subjects() for word in subject.caption.split()})
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_LENGTH
    )


def build_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """Return the untrained text encoder, a UMT5 of two small layers, trained together with the transformer."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=vocabulary_size,
        d_model=TEXT_WIDTH,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def build_transformer() -> WanTransformer3DModel:
    """Return the untrained transformer: the Wan architecture at 1.7 million parameters."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=512,
        num_layers=6,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


class TextToLatents(nn.Module):
    """The trained pair of text encoder and transformer, called on token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Build both parts untrained."""
        super().__init__()
        self.text_encoder = build_text_encoder(len(tokenizer))
        self.transformer = build_transformer()

    def forward(self, latents: Tensor, t: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Predict v for ``latents`` [B, C, F, H, W] at noise levels ``t`` [B] given token ids and mask [B, L]."""
        embeds = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        velocity: Tensor = self.transformer(latents, t * 1000, embeds, return_dict=False)[0]
        return velocity


def draw_t(recipe: FlowRecipe, count: int, run: str, step: int) -> Tensor:
    """Draw noise levels [count]: logit-normal, with a uniform share so that every level is seen."""
    rng = stream("miniworld", "flow-t", run, step)
    level = 1 / (1 + np.exp(-rng.normal(recipe.logit_mean, recipe.logit_scale, count)))
    uniform = rng.uniform(size=count)
    return torch.from_numpy(np.where(rng.uniform(size=count) < recipe.uniform_share, uniform, level)).float()


def _learning_rate(recipe: FlowRecipe, step: int) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    left = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return recipe.learning_rate * warm * min(1.0, left)


def _optimizers(model: TextToLatents) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else."""
    named = list(model.named_parameters())
    inside = [p for name, p in named if name.startswith("transformer.blocks.") and p.ndim == 2]
    chosen = {id(p) for p in inside}
    rest = [p for _, p in named if id(p) not in chosen]
    muon = torch.optim.Muon(inside, lr=1.0, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adamw]


@torch.no_grad()
def encode_dataset(vae: AutoencoderKLWan, folder: Path, recipe: FlowRecipe, run: str) -> tuple[Tensor, list[str]]:
    """Return normalised latents [N, C, F, H, W] and captions of the training clips, cached in ``folder``."""
    from safetensors.torch import load_file, save_file

    drawn = [training_scene(index, run) for index in range(recipe.clips)]
    captions = [scene.subject.caption for scene in drawn]
    path = folder / "latents.safetensors"
    if path.exists():
        return load_file(path)["latents"], captions
    mean = torch.tensor(vae.config["latents_mean"]).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config["latents_std"]).view(1, -1, 1, 1, 1)
    batches = []
    for start in track(range(0, recipe.clips, 16), "encoding clips"):
        frames = np.stack([scenes.render(scene) for scene in drawn[start : start + 16]])
        encoded = vae.encode(to_tensor(frames).to(vae.device)).latent_dist.mode().cpu()
        batches.append((encoded - mean) / std)
    latents = torch.cat(batches)
    with replacing(path) as temporary:
        save_file({"latents": latents}, temporary)
    return latents, captions


@contextmanager
def _fast_cpu() -> Iterator[None]:
    """bf16 products with plain matrix attention: on CPUs the fused bf16 attention is slow backwards."""
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel([SDPBackend.MATH]):
        yield


@contextmanager
def _fast_gpu() -> Iterator[None]:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        yield


def train_flow(
    folder: Path, latents: Tensor, captions: list[str], recipe: FlowRecipe, seed: int
) -> tuple[PreTrainedTokenizerFast, TextToLatents]:
    """Train text encoder and transformer, resuming from ``folder``; return the tokenizer and the averaged model."""
    tokenizer = build_tokenizer()
    with seeded_initialisation(seed):
        model, average = TextToLatents(tokenizer), TextToLatents(tokenizer)
    average.load_state_dict(model.state_dict())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, average = model.to(device), average.to(device)  # before the optimizers, whose state follows the weights
    optimizers = _optimizers(model)
    start = 0
    if (checkpoint := load_latest(folder)) is not None:
        start = checkpoint.step
        for prefix, module in (("model.", model), ("average.", average)):
            state = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
            module.load_state_dict(state)
        for number, optimizer in enumerate(optimizers):
            restore_optimizer(optimizer, checkpoint.tensors, f"optimizer{number}")
    if start < recipe.steps:
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        say(f"training the transformer on {device}, {millions:.2f} M parameters")
        _train_steps(model, average, optimizers, tokenizer, latents, captions, folder, recipe, start)
    return tokenizer, average.cpu().eval()


def _train_steps(
    model: TextToLatents,
    average: TextToLatents,
    optimizers: list[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
    latents: Tensor,
    captions: list[str],
    folder: Path,
    recipe: FlowRecipe,
    start: int,
) -> None:
    run = "flow"  # batches and noise are the same for every seed; clips and first weights are not
    device = next(model.parameters()).device
    tokens = tokenizer([*captions, ""], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    ids, masks = tokens.input_ids.to(device), tokens.attention_mask.to(device)
    latents = latents.to(device)
    fast = _fast_gpu if device.type == "cuda" else _fast_cpu
    log = MetricsLog(folder / "metrics.jsonl", keep_up_to_step=start)
    running = 0.0
    for step in track(range(start, recipe.steps), "transformer", total=recipe.steps, done=start):
        generator = torch_stream("miniworld", "flow-batch", run, step)
        rows = torch.randint(len(latents), (recipe.batch_size,), generator=generator)
        dropped = torch.rand(recipe.batch_size, generator=generator) < recipe.caption_dropout
        text = torch.where(dropped, torch.tensor(len(captions)), rows)
        clean = latents[rows.to(device)]
        t = draw_t(recipe, recipe.batch_size, run, step).to(device)
        eps = noise(tuple(clean.shape), "miniworld", "flow-noise", run, step).to(device)
        level = t.view(-1, 1, 1, 1, 1)
        with fast():
            predicted = model((1 - level) * clean + level * eps, t, ids[text.to(device)], masks[text.to(device)])
        loss = (predicted.float() - (eps - clean)).square().mean()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, step)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(recipe.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        running += loss.item()
        if step % 10 == 9:
            assert math.isfinite(running)
            log.write({"step": step + 1, "loss": running / 10, "gradient_norm": norm.item()})
            running = 0.0
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.steps:
            log.sync()
            tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
            # tied embeddings appear under two names; safetensors wants each to own its memory
            tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
            for number, optimizer in enumerate(optimizers):
                tensors |= optimizer_tensors(optimizer, f"optimizer{number}")
            save_checkpoint(folder, step + 1, {k: v.clone() for k, v in tensors.items()}, {})
    log.close()
