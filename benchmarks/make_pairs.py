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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, memory, operations, timed_ms
from _model import CAPTION, LARGE, TINY, RandomWan, Shape, random_clips
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanVideoToVideoPipeline
from torch import Tensor

from densedpo.diffusion.grid import grid_from
from densedpo.errors import ConfigError
from densedpo.models.execution import compile_for_sampling
from densedpo.models.load import resolve_device
from densedpo.models.sampling import decode_frames
from densedpo.models.step_cache import step_cache
from densedpo.observe import print_json, say, warn
from densedpo.pairs.denoise import denoise_pairs
from densedpo.pairs.plan import PlannedPair, Recipe
from densedpo.store.files import write_json

ETA = 0.75
STEPS, CFG, SHIFT = 50, 5.0, 3.0  # Wan 2.1's own at 480p
STEP_CACHE = 0.1
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
    counted: dict[str, tuple[int, int]] = {}
    modules = [case.model.denoiser, case.model.vae, case.model.text_encoder]
    with torch.no_grad():
        for name, way in ways.items():
            say(f"{case.shape}: counting {name}")
            counted[name] = operations(way), memory(way, modules, case.model.device)
        unshifted = operations(lambda: case.ours(shift=1.0))
        if compiled:
            ways |= _compiled(case)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(repeats + 1):
            say(f"{case.shape}: round {number} of {repeats}" + ("" if number else " (dropped)"))
            for name, way in ways.items():
                ms = timed_ms(way, case.model.device)
                if number:
                    times[name].append(ms)
    rows = []
    for name in ways:
        found = counted.get(name, counted[OURS])
        rows.append(
            {
                "way": name,
                "shape": str(case.shape),
                "s_per_pair": statistics.median(times[name]) / 1000,
                "operations": found[0],
                "operations_over_two_text_to_video_runs": found[0] / counted[TEXT_TO_VIDEO][0],
                "wall_over_two_text_to_video_runs": _ratio(times, name, TEXT_TO_VIDEO),
                "wall_over_two_pipeline_calls": _ratio(times, name, OBVIOUS),
                "wall_over_two_matched_calls": _ratio(times, name, MATCHED),
                "peak_memory_bytes": found[1],
            }
        )
    rows[list(ways).index(OURS)]["unshifted_operations_over_two_text_to_video_runs"] = (
        unshifted / counted[TEXT_TO_VIDEO][0]
    )
    return rows


def _ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(mine / its for mine, its in zip(times[name], times[base], strict=True))


def _compiled(case: Case) -> dict[str, Way]:
    """Compile the blocks behind the package's own check. From here on every way runs compiled blocks."""
    try:
        gap = compile_for_sampling(case.model, case.model.encode_video(case.clip), case.model.encode_text([CAPTION]))
    except ConfigError as error:
        warn(f"{error}; going on without")
        return {}
    say(f"compiled, for all ways alike; predictions differ by {gap:.2g} of their norm")
    return {}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| shape | way | s a pair | operations / two runs | wall / two runs | wall / two calls | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["shape"], row["way"], f"{row['s_per_pair']:.2f}"]
        names = ("operations_over_two_text_to_video_runs", "wall_over_two_text_to_video_runs")
        cells += [f"{row[name]:.3f}" for name in (*names, "wall_over_two_pipeline_calls")]
        lines.append("| " + " | ".join([*cells, f"{row['peak_memory_bytes'] / 2**30:.2f}"]) + " |")
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
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds, after one that is dropped")
    parser.add_argument("--shape", type=Shape.parse, nargs="+", help="clips' height x width x frames, e.g. 240x416x33")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile, on CUDA by default")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate fails")
    parser.add_argument("--out", type=Path, help="also write the object to this file")
    arguments = parser.parse_args(words)
    device = resolve_device(arguments.device)
    facts = machine(device)
    shapes = arguments.shape or ([TINY] if device.type == "cpu" else LARGE)
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
