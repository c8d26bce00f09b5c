"""The probe: sample a few fixed prompts during training and see whether anything changed that nobody asked for.

Losses cannot show it: motion falls, subjects grow and colours drift while every curve looks healthy. The same captions
are sampled from the same noise each time, so a ratio of 1 means that the policy's videos measure as the base's do, and
a run that was resumed gives the numbers of one that was not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import nn

from densedpo.clips.measure import measure
from densedpo.keys import content_id, noise
from densedpo.models.base import VideoModel
from densedpo.models.lora import ADAPTER, adapter_off
from densedpo.models.sampling import decode_frames, denoise

PROPERTIES = ("motion", "size", "brightness", "saturation", "texture")
MIN_PROMPTS = 2  # without a spread there is no telling chance from change
LEAST_RATIO = 0.1
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Probe:
    """Measures the policy's samples against the base's, on captions chosen by hash order.

    The base is measured here, once: with the adapter off where there is one, else with the weights as they are. In full
    fine-tuning the probe must therefore be made before the weights are trained or restored.
    """

    def __init__(self, model: VideoModel, captions: Sequence[str], seed: int, *, prompts: int = 8) -> None:
        """Choose what is sampled and measure the base.

        Args:
            model: the model that is trained; its denoiser may carry our adapter.
            captions: captions of the training pairs, at least one, in any order.
            seed: the run's seed; it decides which captions and which noise.
            prompts: videos sampled each time, each of another caption while there are enough. Of 4 a fall of motion by
                10 % can be chance, of 8 hardly.
        """
        order = sorted(set(captions), key=lambda caption: content_id("probe", seed, caption))
        self.samples = [(order[place % len(order)], place // len(order)) for place in range(prompts)]
        self._model, self._seed = model, seed
        with torch.no_grad():
            self._texts = {caption: model.encode_text([caption]) for caption in dict(self.samples)}
            self._null_text = model.encode_text([""])
        has_adapter = ADAPTER in getattr(model.denoiser, "peft_config", {})
        with adapter_off(model) if has_adapter else nullcontext():
            self.base = self._properties()

    def measure(self) -> dict[str, float]:
        """Return policy / base of each of ``PROPERTIES``: ``probe/NAME``, and its interval ``..._low``, ``..._high``.

        The ratio and its interval are those of ``mean_ratio`` over the samples. Samples that lack a property in the
        base (a still video has no motion) are left out, and so is a property that fewer than two have. The
        denoiser's mode, its gradients and the global random generators stay as they are.
        """
        measured: dict[str, float] = {}
        policy = self._properties()
        for name in PROPERTIES:
            ratios = [new[name] / old[name] for new, old in zip(policy, self.base, strict=True) if old[name] > 0]
            if len(ratios) >= MIN_PROMPTS:
                ratio, low, high = mean_ratio(ratios)
                measured |= {f"probe/{name}": ratio, f"probe/{name}_low": low, f"probe/{name}_high": high}
        return measured

    @torch.no_grad()
    def _properties(self) -> list[dict[str, float]]:
        with _evaluating(self._model.denoiser):
            return [clip_properties(self._sample(*sample), self._model.defaults.fps) for sample in self.samples]

    def _sample(self, caption: str, number: int) -> NDArray[np.uint8]:
        """Sample one video with the family's own settings; one at a time, as memory is short during training."""
        model, defaults = self._model, self._model.defaults
        shape = model.latent_shape(defaults.num_frames, defaults.height, defaults.width)
        text = self._texts[caption]
        start = noise(shape, self._seed, "probe", caption, number)[None].to(text.device)
        levels = model.grid(defaults.steps, defaults.shift)
        return decode_frames(model, denoise(model, start, levels, text, self._null_text, defaults.cfg))[0]


def mean_ratio(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of at least two ratios and its 90 % interval (t-distribution on logarithms).

    A ratio counts as at least ``LEAST_RATIO`` and at most its inverse, so that one video that froze stays one video.
    """
    logs = [math.log(min(max(ratio, LEAST_RATIO), 1 / LEAST_RATIO)) for ratio in ratios]
    mean = statistics.mean(logs)
    reach = float(stdtrit(len(logs) - 1, 0.95)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def clip_properties(frames: NDArray[np.uint8], fps: float) -> dict[str, float]:
    """Measure one clip [T, H, W, 3].

    Returns:
        motion: mean speed of the fastest 5 % of the picture, px/s. size: share of the picture that the subject takes.
        brightness: mean luma, 0 to 1. saturation: 0 to 1. texture: see ``background_texture``.
    """
    measured = measure(frames, fps)
    return {
        "motion": float(measured.motion_px_s.mean()) if len(frames) > 1 else 0.0,
        "size": float(measured.subject_share.mean()),
        "brightness": float(measured.brightness.mean()),
        "saturation": float(measured.saturation.mean()),
        "texture": background_texture(frames),
    }


def background_texture(frames: NDArray[np.uint8]) -> float:
    """Return the fine detail where there is least of it: grain and block patterns, not the subject's edges.

    |luma - its 3x3 mean|, averaged over the calmer half of each frame's pixels and over frames, 0 to 1.
    """
    total = 0.0
    for frame in frames:
        luma = frame.astype(np.float32) / np.float32(255) @ _LUMA
        detail = np.abs(luma - cv2.blur(luma, (3, 3))).ravel()
        total += float(np.partition(detail, detail.size // 2)[: detail.size // 2 + 1].mean())
    return total / len(frames)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode; every part goes back to the mode that it was in."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True
