"""Making one guided pair: this package against the family's own pipeline, on the same weights, steps and guidance.

    python benchmarks/make_pairs.py --device cpu                  a table; a few minutes on two slow cores
    python benchmarks/make_pairs.py --device cpu --json --check   one object, exit code 1 if a gate fails
    python benchmarks/make_pairs.py --device cuda                 Wan2.1-1.3B's shape at three sizes

All ways run in this process, in turn; ratios are paired within a round. A pair is everything from the
real clip's pixels and the caption to both sides' pixels. Files are left out, for all alike. The weights are random: the
figures tell speed, operations and memory, nothing about quality. README.md beside this file explains the rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _measure import machine, memory, timed_ms
from _model import CAPTION, LARGE, RandomWan, Shape, random_clips
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanVideoToVideoPipeline
from torch import Tensor, nn

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError
from densedpo.models.execution import compile_for_sampling
from densedpo.models.load import resolve_device
from densedpo.models.operations import operations
from densedpo.models.sampling import decode_frames
from densedpo.models.step_cache import step_cache
from densedpo.observe import print_json, say, warn
from densedpo.pairs.denoise import denoise_pairs
from densedpo.pairs.plan import PlannedPair, Recipe
from densedpo.store.files import write_json

ETA = 0.75
STEPS, CFG, SHIFT = 50, 5.0, 3.0  # Wan 2.1's own at 480p
STEP_CACHE = 0.1
SMALL = Shape(32, 32, 33)  # the miniature world's clips
OURS, TEXT_TO_VIDEO = "ours", "two text-to-video runs"
OBVIOUS, MATCHED = "two video-to-video calls", "two video-to-video calls from the same noise level"
Way = Callable[[], object]


@dataclass
class Case:
    """One size: the model, its pipelines and one real clip."""

    model: RandomWan
    shape: Shape
    clip: Tensor  # [1, 3, T, H, W] in [-1, 1]
    from_text: Any = field(init=False)
    from_video: Any = field(init=False)

    def __post_init__(self) -> None:
        """Build the family's own pipelines around the same modules."""
        m = self.model
        parts = {"tokenizer": m.tokenizer, "text_encoder": m.text_encoder, "vae": m.vae, "transformer": m.denoiser}
        self.from_text = WanPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT))
        self.from_video = WanVideoToVideoPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT))
        for pipeline in (self.from_text, self.from_video):
            pipeline.set_progress_bar_config(disable=True)

    @property
    def modules(self) -> list[nn.Module]:
        """What every way keeps loaded."""
        return [self.model.denoiser, self.model.vae, self.model.text_encoder]

    def ours(self, shift: float = SHIFT, threshold: float | None = None) -> list[Any]:
        """Make a pair as ``densedpo pairs make`` does: clip and text once, sides and branches in one batch."""
        model = self.model
        recipe = Recipe("guided", ETA, ETA, STEPS, CFG, shift, seed=0, step_cache=threshold)
        pair = PlannedPair("benchmark", "clip", CAPTION, ETA, self.shape.frames)
        clean = model.encode_video(self.clip).float()
        text, null_text = model.encode_text([CAPTION]), model.encode_text([""])
        with step_cache(model, threshold):
            sides = denoise_pairs(model, [pair], clean, text, null_text, recipe, model.grid(STEPS, shift))
        return decode_frames(model, sides.flatten(0, 1))

    def text_to_video(self) -> list[Any]:
        """Run the family's pipeline twice from noise."""
        return [self.from_text(num_frames=self.shape.frames, **self._common(side)).frames for side in (0, 1)]

    def video_to_video(self, strength: float) -> list[Any]:
        """Run the family's video-to-video pipeline on the clip, once a side."""
        video = list(((self.clip[0].permute(1, 2, 3, 0).cpu().numpy() + 1) / 2).astype(np.float32))
        return [self.from_video(video=video, strength=strength, **self._common(side)).frames for side in (0, 1)]

    def _common(self, side: int) -> dict[str, Any]:
        return {
            "prompt": CAPTION,
            "negative_prompt": "",
            "height": self.shape.height,
            "width": self.shape.width,
            "num_inference_steps": STEPS,
            "guidance_scale": CFG,
            "max_sequence_length": self.model.defaults.text_length,
            "generator": torch.Generator(device=self.model.device).manual_seed(side),
        }


def ways_of(case: Case) -> dict[str, Way]:
    """Return the ways that are compared; each makes one pair."""
    steps_run = len(grid_from(case.model.grid(STEPS, SHIFT), ETA)) - 1
    return {
        TEXT_TO_VIDEO: case.text_to_video,
        # who reads "strength" as the noise level asks for 0.75 and gets 37 steps from a level of 0.89
        OBVIOUS: lambda: case.video_to_video(ETA),
        MATCHED: lambda: case.video_to_video(steps_run / STEPS),
        OURS: case.ours,
        f"{OURS}, step cache {STEP_CACHE:g}": lambda: case.ours(threshold=STEP_CACHE),
    }


def measure(case: Case, repeats: int, *, compiled: bool) -> list[dict[str, Any]]:
    """Count every way once, then time all of them in turn; return a row each."""
    ways = ways_of(case)
    with torch.no_grad():
        say(f"{case.shape}: counting")
        # how much a step cache skips is not known before it runs
        counted = {name: count(case, way) for name, way in ways.items() if "step cache" not in name}
        unshifted, _ = count(case, lambda: case.ours(shift=1.0))
        if compiled:
            _compile(case)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(repeats + 1):
            say(f"{case.shape}: round {number} of {repeats}" + ("" if number else " (dropped)"))
            for name, way in ways.items():
                ms = timed_ms(way, case.model.device)
                if number:
                    times[name].append(ms)
    rows = []
    for name in ways:
        found, memory_bytes = counted.get(name, (None, None))
        base = counted[TEXT_TO_VIDEO][0]
        rows.append(
            {
                "way": name,
                "shape": str(case.shape),
                "s_per_pair": statistics.median(times[name]) / 1000,
                "operations": found,
                "operations_over_two_text_to_video_runs": None if found is None else found / base,
                "wall_over_two_text_to_video_runs": _ratio(times, name, TEXT_TO_VIDEO),
                "wall_over_two_pipeline_calls": _ratio(times, name, OBVIOUS),
                "wall_over_two_matched_calls": _ratio(times, name, MATCHED),
                "peak_memory_bytes": memory_bytes,
            }
        )
    rows[list(ways).index(OURS)]["unshifted_operations_over_two_text_to_video_runs"] = (
        unshifted / counted[TEXT_TO_VIDEO][0]
    )
    return rows


def _ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(mine / its for mine, its in zip(times[name], times[base], strict=True))


def count(case: Case, way: Way) -> tuple[int, int]:
    """Return a way's operations and peak memory in bytes.

    The denoiser's passes are tallied and one of each size is counted: a counter sees every operation, and hundreds of
    passes under it would take minutes.
    """
    denoiser, passes = case.model.denoiser, Counter[int]()
    forward, seen = denoiser.forward, dict[int, dict[str, Any]]()

    def tallied(**inputs: Any) -> tuple[Tensor]:
        latents: Tensor = inputs["hidden_states"]
        passes[len(latents)] += 1
        seen.setdefault(len(latents), inputs)
        return (torch.zeros_like(latents),)

    with patch.object(denoiser, "forward", tallied):
        total = operations(way)
        tally = dict(passes)
        peaks = [memory(way, case.modules, case.model.device)]
    for size, number in tally.items():
        inputs = seen[size]
        total += number * operations(partial(forward, **inputs))
        peaks.append(memory(partial(forward, **inputs), case.modules, case.model.device))
    return total, max(peaks)


def _compile(case: Case) -> None:
    """Compile the blocks behind the package's own check. From here on every way runs compiled blocks."""
    try:
        gap = compile_for_sampling(case.model, case.model.encode_video(case.clip), case.model.encode_text([CAPTION]))
    except ConfigError as error:
        warn(f"{error}; going on without")
        return
    say(f"compiled, for all ways alike; predictions differ by {gap:.2g} of their norm")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| shape | way | s a pair | operations / two runs | wall / two runs | wall / two calls | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["shape"], row["way"], f"{row['s_per_pair']:.2f}"]
        names = ("operations_over_two_text_to_video_runs", "wall_over_two_text_to_video_runs")
        ratios = (*names, "wall_over_two_pipeline_calls")
        cells += ["-" if row[name] is None else f"{row[name]:.3f}" for name in ratios]
        memory_bytes = row["peak_memory_bytes"]
        cells.append("-" if memory_bytes is None else f"{memory_bytes / 2**30:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gates_of(ours: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold, with what was measured."""
    limits = {
        "operations_over_two_text_to_video_runs": 0.55,
        "unshifted_operations_over_two_text_to_video_runs": 0.80,
        "wall_over_two_pipeline_calls": 0.60,
    }
    return [
        {"gate": f"{name} <= {most:g}", "measured": ours[name], "passed": ours[name] <= most}
        for name, most in limits.items()
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds, after one that is dropped")
    parser.add_argument("--shape", type=Shape.parse, nargs="+", help="clips' height x width x frames, e.g. 240x416x33")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile, on CUDA by default")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate fails")
    parser.add_argument("--out", type=Path, help="also write the object to this file")
    arguments = parser.parse_args(words)
    device = resolve_device(arguments.device)
    facts = machine(device)
    shapes = arguments.shape or ([SMALL] if device.type == "cpu" else LARGE)
    compiled = device.type == "cuda" if arguments.compile is None else arguments.compile
    model, rows = RandomWan(device), []
    for shape in shapes:
        rows += measure(Case(model, shape, random_clips(shape, device)[0]), arguments.repeats, compiled=compiled)
    ours = next(row for row in rows if row["way"] == OURS)
    gates = gates_of(ours)
    result = {
        "benchmark": "make_pairs",
        **{key: value for key, value in ours.items() if "_over_" in key},
        "rows": rows,
        "gates": gates,
        "passed": all(gate["passed"] for gate in gates),
        "eta": ETA,
        "steps": STEPS,
        "cfg": CFG,
        "shift": SHIFT,
        "device": device.type,
        "compiled": compiled,
        "repeats": arguments.repeats,
        "weights": "random: they say nothing about quality",
        "machine": facts,
    }
    if arguments.out:
        write_json(arguments.out, result)
    if arguments.json:
        print_json(result)
    else:
        print(table(rows))
        for gate in gates:
            print(f"{'ok' if gate['passed'] else 'FAILED'}: {gate['gate']}, measured {gate['measured']:.3f}")
    return 1 if arguments.check and not result["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
