"""Stage 1 of the base model: a causal video VAE of the Wan class, trained on drawn clips.

The object covers some 5 % of the pixels, so the error is weighted towards what differs from the background; windows
start short and grow to the full clip, because a causal VAE trained on short windows alone drifts beyond them.

Shape letters: B clips, C channels, T frames, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from densedpo.keys import noise, seeded_initialisation, stream
from densedpo.miniworld import scenes
from densedpo.observe import MetricsLog, say, track
from densedpo.training.checkpoint import load_latest, optimizer_tensors, restore_optimizer, save_checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

LATENT_CHANNELS = 8
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class VaeRecipe:
    """Every number of the VAE's training."""

    steps: int = 4000
    clips: int = 3000
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    kl_weight: float = 2e-4
    object_weight: float = 12.0
    # (share of the steps, frames in a window, clips in a batch)
    windows: tuple[tuple[float, int, int], ...] = ((0.15, 5, 16), (0.65, 13, 8), (0.20, 33, 4))


def build_vae() -> AutoencoderKLWan:
    """Return the untrained VAE: 4x in space, 4x in time (the first frame on its own), as in the real family."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )


def training_scene(index: int, run: str) -> scenes.Scene:
    """Return training scene number ``index``; subjects that are held out never occur."""
    pool = [subject for subject in scenes.subjects() if not scenes.held_out(subject)]
    subject = pool[int(stream("miniworld", "training-subject", run, index).integers(len(pool)))]
    return scenes.draw_scene(subject, run, index)


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """Map 8-bit frames [..., T, H, W, 3] to [..., 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -4))).float() / 127.5 - 1


def _window(recipe: VaeRecipe, step: int) -> tuple[int, int]:
    """Return (frames, clips) of the batch at ``step``."""
    reached = 0.0
    for share, frames, clips in recipe.windows:
        reached += share
        if step < reached * recipe.steps:
            return frames, clips
    return recipe.windows[-1][1:]


def _learning_rate(recipe: VaeRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * warm * (0.02 + 0.98 * cosine)


def train_vae(folder: Path, recipe: VaeRecipe, seed: int) -> AutoencoderKLWan:
    """Train the VAE, resuming from the newest checkpoint in ``folder``; return it in evaluation mode."""
    with seeded_initialisation(seed):
        vae = build_vae()
    vae.to("cuda" if torch.cuda.is_available() else "cpu")  # before the optimizer, whose state follows the weights
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    start = 0
    if (checkpoint := load_latest(folder)) is not None:
        start = checkpoint.step
        vae.load_state_dict({k[4:]: v for k, v in checkpoint.tensors.items() if k.startswith("vae.")})
        restore_optimizer(optimizer, checkpoint.tensors)
    if start < recipe.steps:
        _train_steps(vae, optimizer, folder, recipe, seed, start)
    return vae.eval()


def _train_steps(
    vae: AutoencoderKLWan, optimizer: torch.optim.Optimizer, folder: Path, recipe: VaeRecipe, seed: int, start: int
) -> None:
    run = f"vae-{seed}"
    drawn = [training_scene(index, run) for index in range(recipe.clips)]
    say(f"rendering {recipe.clips} clips for the VAE")
    clips = np.stack([scenes.render(scene) for scene in drawn])
    grounds = np.stack([scenes.background(scene.corners_rgb) for scene in drawn]).astype(np.float32)
    log = MetricsLog(folder / "metrics.jsonl", keep_up_to_step=start)
    device = vae.device
    vae.train()
    for step in track(range(start, recipe.steps), "VAE", total=recipe.steps, done=start):
        frames, count = _window(recipe, step)
        rng = stream("miniworld", "vae-batch", run, step)
        chosen = rng.integers(recipe.clips, size=count)
        first = rng.integers(scenes.NUM_FRAMES - frames + 1, size=count)
        batch = np.stack([clips[c, f : f + frames] for c, f in zip(chosen, first, strict=True)])
        difference = np.abs(batch - grounds[chosen][:, None]).max(axis=-1) / 60
        weight = 1 + recipe.object_weight * torch.from_numpy(np.minimum(difference, 1)).to(device)[:, None]
        video = to_tensor(batch).to(device)
        posterior = vae.encode(video).latent_dist
        spread = noise(tuple(posterior.mean.shape), "miniworld", "vae-posterior", run, step).to(device)
        latents = posterior.mean + posterior.std * spread
        error = vae.decode(latents).sample - video
        l1 = (weight * error.abs()).mean() / weight.mean()
        l2 = (weight * error.square()).mean() / weight.mean()
        kl = posterior.kl().mean() / latents[0].numel()
        loss = l1 + l2 + recipe.kl_weight * kl
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9:
            psnr = -10 * math.log10(error.square().mean().item() / 4)
            row = {"step": step + 1, "loss": loss.item(), "l1": l1.item(), "kl": kl.item(), "psnr_db": psnr}
            log.write(row | {"frames": frames, "gradient_norm": norm.item()})
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.steps:
            log.sync()
            tensors = {f"vae.{k}": v for k, v in vae.state_dict().items()} | optimizer_tensors(optimizer)
            save_checkpoint(folder, step + 1, tensors, {})
    log.close()


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, seed: int, clips: int = 256) -> tuple[list[float], list[float]]:
    """Return per-channel mean and standard deviation of the latents of fresh training clips."""
    sums, squares, count = torch.zeros(LATENT_CHANNELS), torch.zeros(LATENT_CHANNELS), 0
    for index in range(clips):
        frames = scenes.render(training_scene(index, f"statistics-{seed}"))
        latents = vae.encode(to_tensor(frames)[None].to(vae.device)).latent_dist.mode()[0].cpu()
        sums += latents.sum(dim=(1, 2, 3))
        squares += latents.square().sum(dim=(1, 2, 3))
        count += latents[0].numel()
    mean = sums / count
    return mean.tolist(), (squares / count - mean.square()).sqrt().tolist()
