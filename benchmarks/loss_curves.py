"""Compare losses along their quality-motion curves on the miniature world: one training a variant, measured on its way.

Single points mislead: whoever trains more gently keeps more motion. So every variant is measured at several steps, on
captions that training may see (the tuning set; the held-out captions stay untouched for the final evaluation), from the
same noise as the base. The project must hold labelled guided and independent pairs of the miniature world:

    densedpo miniworld clips source --count 96 --seed 0
    densedpo clips add source --project P
    densedpo pairs make --project P --pairs-per-clip 4 --batch-size 16
    densedpo pairs make --project P --mode independent --batch-size 16
    densedpo miniworld label --project P
    densedpo label freeze --project P
    python benchmarks/loss_curves.py --project P --out benchmarks/results/loss_curves.json

Finished variants in --out are kept, so the command resumes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from densedpo.config import TrainSettings
from densedpo.intervals import cluster_bootstrap
from densedpo.keys import stream
from densedpo.labels.snapshot import latest_snapshot, load_snapshot
from densedpo.miniworld import scenes
from densedpo.miniworld.examiner import examine
from densedpo.models.base import VideoModel
from densedpo.models.load import load_model
from densedpo.models.sampling import sample_latents, to_frames
from densedpo.observe import say
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.training.callbacks import Callback
from densedpo.training.data import load_items, split_by_source
from densedpo.training.options import DenseDPOConfig
from densedpo.training.trainer import DenseDPOTrainer

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, dpop 1": {"dpop_lambda": 1.0},
    "dense, sdpo": {"sdpo_mu": 0.0},
    "dense + sft 25": {"loss_type": "sigmoid,sft", "loss_weights": "1,25"},
    "dense + sft_clip 25": {"loss_type": "sigmoid,sft_clip", "loss_weights": "1,25"},
    "dense, tie_aware": {"loss_type": "tie_aware"},
    "dense, ipo": {"loss_type": "ipo"},
    "dense, smoothing 0.1": {"label_smoothing": 0.1},
    "dense, robust 0.1": {"loss_type": "robust", "label_smoothing": 0.1},
    "dense, t below eta": {"t_limit": "eta"},
    "dense, separate noise": {"share_noise": False},
    "dense, averaged by pair": {"averaging": "pair"},
    "dense, latent ties": {"latent_tie_rms": 0.1},
    "dense_sum": {"method": "dense_sum"},
    "structural": {"method": "structural"},
    "vanilla": {"method": "vanilla"},
}
MEASURES = ("artifact", "temporal_consistency", "dynamic_degree", "text_agreement")
Scores = list[tuple[str, dict[str, float]]]


class Curve(Callback):
    """Samples the tuning captions after the given steps and compares them with the base's samples."""

    def __init__(self, model: VideoModel, base: Scores, steps: tuple[int, ...], captions: int, seeds: int) -> None:
        """Keep what is needed."""
        self._model, self._base, self._steps = model, base, steps
        self._captions, self._seeds = captions, seeds
        self.points: list[dict[str, Any]] = []

    def on_step(self, row: Mapping[str, float]) -> None:
        """Measure if this is one of the steps."""
        if row["step"] not in self._steps:
            return
        self._model.denoiser.eval()
        point = compare(score(self._model, self._captions, self._seeds), self._base)
        self._model.denoiser.train()
        kept = ("rewards/accuracies", "z_median_abs", "winner_change", "loser_change", "eval/rewards/accuracies")
        self.points.append({"step": row["step"], **point, **{name: row.get(name) for name in kept}})
        motion, artifact = point["dynamic_degree"], point["artifact"]
        say(f"  step {row['step']:g}: artifact {artifact['mean']:+.4f}, motion x{motion['ratio']:.3f}")


def tuning_captions(count: int) -> list[str]:
    """Return captions of the world that training may see."""
    pool = [subject.caption for subject in scenes.subjects() if not scenes.held_out(subject)]
    return [pool[int(i)] for i in stream("loss-curves", "captions").permutation(len(pool))[:count]]


@torch.no_grad()
def score(model: VideoModel, captions: int, seeds: int) -> Scores:
    """Sample the tuning captions and examine the videos."""
    scores: Scores = []
    prompts = tuning_captions(captions)
    defaults = model.defaults
    for seed in range(seeds):
        for start in range(0, len(prompts), 12):
            part = prompts[start : start + 12]
            names = [(prompt, 100 + seed) for prompt in part]
            latents = sample_latents(model, part, names, steps=defaults.steps, cfg=defaults.cfg, shift=defaults.shift)
            for prompt, video in zip(part, model.decode(latents), strict=True):
                scores.append((prompt, examine(to_frames(video), prompt).scores()))
    return scores


def compare(new: Scores, base: Scores) -> dict[str, dict[str, float]]:
    """Return difference and ratio of each measure against the base, with 95 % intervals clustered by caption."""
    clusters = [prompt for prompt, _ in new]
    found = {}
    for name in MEASURES:
        pairs = [(mine[1][name], its[1][name]) for mine, its in zip(new, base, strict=True)]
        difference = cluster_bootstrap([a - b for a, b in pairs], clusters, seed=name)
        ratio = cluster_bootstrap([[a, b] for a, b in pairs], clusters, seed=name)
        assert difference is not None and ratio is not None, f"{name} was never measured"
        found[name] = {
            "mean": difference.mean, "low": difference.low, "high": difference.high,
            "ratio": ratio.mean, "ratio_low": ratio.low, "ratio_high": ratio.high,
        }  # fmt: skip
    return found


def run(project: Project, name: str, changes: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one variant and return its curve."""
    model = load_model("miniature", device=options.device)
    base_file = options.out.with_name(f"{options.out.stem}-base.json")
    if not base_file.exists():
        write_json(base_file, {"scores": score(model, options.captions, options.seeds)})
    base = [(prompt, values) for prompt, values in json.loads(base_file.read_text(encoding="utf-8"))["scores"]]
    folder = Path(tempfile.mkdtemp(prefix="densedpo-curves-"))
    config = DenseDPOConfig.model_validate(
        {"output_dir": folder, "cache_dir": project.cache, "seed": options.seed, "max_steps": options.steps[-1],
         "save_steps": options.steps[-1], "warmup_steps": 30, "self_check": False, "guards": "off", **changes}
    )  # fmt: skip
    snapshot = load_snapshot(latest_snapshot(project))
    mode = "independent" if config.method == "vanilla" else "guided"
    items = load_items(project, snapshot, TrainSettings.model_validate(changes), mode, model)
    learning, held_out = split_by_source(items, config.eval_share)
    say(f"{name}: {len(learning)} {mode} pairs, {len(held_out)} held out")
    curve = Curve(model, base, tuple(options.steps), options.captions, options.seeds)
    try:
        DenseDPOTrainer(model, config, learning, held_out, [curve]).train()
    finally:
        shutil.rmtree(folder)
    return curve.points


def table(results: dict[str, Any]) -> str:
    """Return the curves as a Markdown table."""
    lines = [
        "| variant | step | artifact | motion | consistency | text | median abs z | implicit accuracy |",
        "|---|" + "---|" * 7,
    ]
    for name, points in results.items():
        for point in points:
            cells = [
                f"{point['artifact']['mean']:+.4f} [{point['artifact']['low']:+.4f}, {point['artifact']['high']:+.4f}]"
            ]
            motion = point["dynamic_degree"]
            cells.append(f"x{motion['ratio']:.3f} [{motion['ratio_low']:.3f}, {motion['ratio_high']:.3f}]")
            cells += [f"{point[key]['mean']:+.4f}" for key in ("temporal_consistency", "text_agreement")]
            cells += [f"{point['z_median_abs']:.2f}", f"{point['rewards/accuracies']:.2f}"]
            lines.append(f"| {name} | {point['step']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the variants that are not in --out yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--only", help="comma-separated part of a variant's name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[15, 30, 60, 100], help="when to measure; the last ends"
    )
    parser.add_argument("--captions", type=int, default=36)
    parser.add_argument("--seeds", type=int, default=2, help="samples a caption")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="training settings for all variants")
    options = parser.parse_args()
    common = dict(text.split("=", 1) for text in options.set)
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name, changes in VARIANTS.items():
        key = (
            name + "".join(f", {k} {v}" for k, v in common.items()) + (f", seed {options.seed}" if options.seed else "")
        )
        wanted = not options.only or any(part == name for part in options.only.split(";"))
        if wanted and key not in results:
            results[key] = run(Project(options.project), key, {**common, **changes}, options)
            write_json(options.out, results)
    print(table(results))


if __name__ == "__main__":
    main()
