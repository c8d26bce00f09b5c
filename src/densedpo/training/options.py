"""What a run is given and what it gives back: settings with a folder and a seed, its identity, its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from densedpo.config import MAX_SEED, TrainSettings
from densedpo.keys import content_id
from densedpo.training.data import PairItem

# May be changed when an interrupted run goes on: what is watched, kept and told, not what is trained
FREE = {
    *("activation_checkpointing", "eval_pairs", "eval_steps", "guards", "lora_format", "parallel", "probe_prompts"),
    *("probe_steps", "report_to", "save_steps", "save_total_limit", "self_check"),
}


class DenseDPOConfig(TrainSettings):
    """Everything a run depends on besides its model and data: every training setting, where it goes, and the seed."""

    output_dir: Path = Field(description="folder of the run: checkpoints, metrics.jsonl, and what it trained")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of every random stream")
    cache_dir: Path | None = Field(None, description="text and reference caches; by default output_dir/cache")


@dataclass(frozen=True)
class TrainOutput:
    """What ``DenseDPOTrainer.train`` returns: steps done, where it resumed, and why it stopped early, if it did."""

    steps: int
    resumed_from: int
    stopped: str | None
    saved: Path


def run_digest(config: DenseDPOConfig, base_fingerprint: str, items: Sequence[PairItem]) -> str:
    """Return the identity of a run: its settings without those in ``FREE``, its base, its pairs wherever they lie."""
    settings = config.model_dump(mode="json", exclude={*FREE, "output_dir", "cache_dir"})
    data = [{name: value for name, value in asdict(item).items() if name != "latents_path"} for item in items]
    return content_id("run", settings, base_fingerprint, data)
