"""The stage ``evaluate``: base against tuned models on a prompt set, from the same noise, with paired intervals.

prompts x seeds -> videos of every model (pool.py) -> scores (scoring.py) -> scores.parquet -> summary.json (summary.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from densedpo.config import EvaluateSettings, Settings
from densedpo.errors import ConfigError
from densedpo.evaluation.loading import Loader, list_checkpoints, variant_digest
from densedpo.evaluation.paired import BASE
from densedpo.evaluation.pool import Maker, plan, publish
from densedpo.evaluation.prompts import Prompt, prompts_digest
from densedpo.evaluation.properties import PREFIX, PROPERTIES
from densedpo.evaluation.sampling import SampledVideo, SamplingRecipe, resolve_sampling, sample_missing
from densedpo.evaluation.scorers import ScoreInfo, Scorer
from densedpo.evaluation.scoring import ScoreBook
from densedpo.evaluation.summary import analyse, first_quality, summarise
from densedpo.evaluation.variants import Variant, list_variants
from densedpo.observe import say, track
from densedpo.store.files import remove_leftovers, write_json
from densedpo.store.project import Project
from densedpo.store.shard import Shard
from densedpo.store.tables import Row, write_table
from densedpo.training.card import update_card

__all__ = ["BASE", "SCHEMA_VERSION", "evaluate", "summarise"]

SCHEMA_VERSION = 2
_FROZEN_SEED = 0  # one frozen clip a prompt is enough to see what freezing buys


@dataclass(frozen=True)
class _Drawn:
    """One model of the evaluation, what makes its videos, and the videos in batches."""

    variant: Variant
    maker: Maker
    batches: list[list[SampledVideo]]

    @property
    def videos(self) -> list[SampledVideo]:
        """All videos, in order."""
        return [video for batch in self.batches for video in batch]

    def frozen(self, video: SampledVideo) -> bool:
        """Say whether this video is scored frozen too."""
        return self.variant.name == BASE and video.seed == _FROZEN_SEED


def evaluate(
    project: Project,
    settings: Settings,
    runs: Sequence[str],
    prompts: Sequence[Prompt],
    scorer: Scorer,
    name: str,
    *,
    prompt_set: str = "",
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Sample and score the base and every run; write ``evals/NAME`` and return the summary.

    Repeated runs and prompts count once. With a ``shard``, its part of the videos is made and scored; the summary is
    written once nothing is left, and until then what is returned says how much that is.

    Raises:
        ConfigError: if no prompt is given, the scorer cannot score one, or a run is called ``base``.
        ProjectError: if there is no such run, or no checkpoint where they are asked for.
        ModelError: if a run has no LoRA or tuned denoiser, or was trained on another base.
    """
    runs, prompts = list(dict.fromkeys(runs)), list(dict.fromkeys(prompts))
    if not prompts:
        raise ConfigError("no prompts to evaluate on; give --prompts FILE")
    for prompt in prompts:
        scorer.check(prompt.text)
    chosen = settings.evaluate
    quality = _quality(chosen, scorer.infos)
    folder = project.evaluation(name)
    variants = _variants(project, chosen, runs)
    digests = {variant.name: digest for variant in variants if (digest := variant_digest(variant))}
    loader = Loader(settings)
    base = loader.load(variants[0])
    recipe = resolve_sampling(settings.sample, base.defaults)
    fingerprint, dtype = base.fingerprint, str(base.dtype).removeprefix("torch.")
    del base
    makers = [Maker(recipe, fingerprint, dtype, digests.get(v.name), v.lora_scale) for v in variants]
    drawn = [
        _Drawn(variant, maker, plan(prompts, maker, project)) for variant, maker in zip(variants, makers, strict=True)
    ]
    # the old summary speaks of other videos, it may be: while this goes on there is none
    (folder / "summary.json").unlink(missing_ok=True)
    book = ScoreBook(scorer)
    _work(project, drawn, loader, recipe, book, shard)
    if shard is not None:
        left = sum(not book.has(video, frozen=item.frozen(video)) for item in drawn for video in item.videos)
        if left:
            say(f"shard {shard} is done; {left} videos of other shards are left")
            return {"name": name, "shard": str(shard), "videos": sum(len(i.videos) for i in drawn), "left": left}
    rows, frozen = _collect(project, drawn, book, name)
    _write_tables(folder, rows, frozen, list(scorer.infos))
    summary = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "models": [item.variant.as_dict() | {"samples": item.maker.digest} for item in drawn],
        "prompts": [{"prompt_id": p.prompt_id, "prompt": p.text, "held_out": p.held_out} for p in prompts],
        "prompt_set": {
            "name": prompt_set,
            "digest": prompts_digest(prompts),
            "count": len(prompts),
            "held_out": sum(prompt.held_out for prompt in prompts),
        },
        "seeds": list(range(recipe.seeds)),
        "scorer": scorer.name,
        "score_order": list(scorer.infos),
        "score_info": {score: info.as_dict() for score, info in scorer.infos.items()},
        **analyse(rows, frozen, scorer.infos, variants, quality=quality, motion_kept=chosen.motion_kept),
        "settings": vars(recipe) | {"model": settings.model, "evaluate": chosen.model_dump(mode="json")},
        "hashes": {"base": fingerprint, "prompts": prompts_digest(prompts), "loras": digests},
    }
    write_json(folder / "summary.json", summary)
    for run in runs:
        update_card(project, run)
    return summary


def _variants(project: Project, chosen: EvaluateSettings, runs: Sequence[str]) -> list[Variant]:
    if BASE in runs:
        raise ConfigError(f"a run may not be called {BASE!r} here: that name is the untuned model's")
    folders = {run: project.need(project.run(run), f"densedpo train --name {run}") for run in runs}
    checkpoints = {run: list_checkpoints(folder) for run, folder in folders.items()} if chosen.every_checkpoint else {}
    return list_variants(folders, chosen.scales, checkpoints)


def _quality(chosen: EvaluateSettings, infos: Mapping[str, ScoreInfo]) -> str | None:
    if chosen.quality is None:
        return first_quality(infos)
    directed = [name for name, info in infos.items() if info.better != "neither" and not info.is_motion]
    if chosen.quality not in directed:
        raise ConfigError(
            f"evaluate.quality: {chosen.quality!r} cannot decide; scores with a direction: {', '.join(directed)}"
        )
    return chosen.quality


def _work(
    project: Project,
    drawn: Sequence[_Drawn],
    loader: Loader,
    recipe: SamplingRecipe,
    book: ScoreBook,
    shard: Shard | None,
) -> None:
    """Sample and score every video, or a shard's: batches are dealt out in turn over all models."""
    number = count()
    for item in drawn:
        folder = item.maker.open(project)
        if shard is None:
            # with shards, another machine's unfinished files look like leftovers
            for place in (folder, *folder.glob("scores/*")):
                remove_leftovers(place)
        mine = [batch for batch in item.batches if (shard or Shard()).takes(next(number))]
        name = item.variant.name
        sample_missing(lambda v=item.variant: loader.load(v), mine, recipe, name, book.whole)  # type: ignore[misc]
        for video in track([video for batch in mine for video in batch], f"scoring {name}"):
            book.read(video, frozen=item.frozen(video))


def _collect(project: Project, drawn: Sequence[_Drawn], book: ScoreBook, name: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of all videos and of the frozen clips, and put the videos into the evaluation's folder."""
    rows: list[Row] = []
    frozen: list[Row] = []
    for item in drawn:
        model = item.variant.name
        publish(item.videos, project.evaluation(name) / "videos" / model)
        for video in item.videos:
            record = book.read(video, frozen=item.frozen(video))
            about = {"prompt_id": video.prompt.prompt_id, "prompt": video.prompt.text, "seed": video.seed}
            properties = {PREFIX + key: value for key, value in record["properties"].items()}
            place = {"model": model, "video": f"videos/{model}/{video.path.name}"}
            rows.append({**place, **about, **record["scores"], **properties})
            if item.frozen(video):
                frozen.append({**about, **record["frozen"]})
    return rows, frozen


def _write_tables(folder: Path, rows: list[Row], frozen: list[Row], scores: list[str]) -> None:
    about = [("prompt_id", pa.string()), ("prompt", pa.string()), ("seed", pa.int64())]
    numbers = [(score, pa.float64()) for score in scores]
    properties = [(PREFIX + key, pa.float64()) for key in PROPERTIES]
    columns = [("model", pa.string()), *about, ("video", pa.string()), *numbers, *properties]
    write_table(folder / "scores.parquet", rows, pa.schema(columns))
    write_table(folder / "frozen.parquet", frozen, pa.schema([*about, *numbers]))
