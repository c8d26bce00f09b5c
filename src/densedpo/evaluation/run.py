"""The stage ``evaluate``: base against tuned models on a prompt set, from the same noise, with paired intervals.

prompts x seeds -> videos of every model, and their scores (videos.py) -> scores.parquet -> summary.json (summary.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from densedpo.config import EvaluateSettings, Settings
from densedpo.errors import ConfigError
from densedpo.evaluation.loading import check_base, list_checkpoints, read_base, variant_digest
from densedpo.evaluation.paired import BASE
from densedpo.evaluation.pool import Maker, plan
from densedpo.evaluation.prompts import Prompt, prompts_digest, wording
from densedpo.evaluation.sampling import resolve_sampling
from densedpo.evaluation.scorers import ScoreInfo, Scorer
from densedpo.evaluation.scoring import ScoreBook
from densedpo.evaluation.summary import analyse, first_quality
from densedpo.evaluation.variants import Variant, list_variants
from densedpo.evaluation.videos import ModelVideos, count_missing, make_and_score, publish_all
from densedpo.observe import say, warn
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.store.shard import Shard
from densedpo.store.tables import read_table
from densedpo.training.card import update_card

__all__ = ["BASE", "SCHEMA_VERSION", "evaluate"]

SCHEMA_VERSION = 2


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
        ProjectError: if there is no such run, it is not finished, or has no checkpoint where they are asked for.
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
    base = read_base(settings)
    for run in runs:
        check_base(project.run(run), base.fingerprint)
    held_out = _held_out(project, prompts)
    recipe = resolve_sampling(settings.sample, base.defaults)
    makers = [Maker(recipe, base.fingerprint, base.dtype, digests.get(v.name), v.lora_scale) for v in variants]
    models = [
        ModelVideos(variant, maker, plan(prompts, maker, project))
        for variant, maker in zip(variants, makers, strict=True)
    ]
    book = ScoreBook(scorer)
    make_and_score(project, models, settings, recipe, book, shard)
    if shard is not None and (left := count_missing(models, book)):
        say(f"shard {shard} is done; {left} videos of other shards are left")
        return {"name": name, "shard": str(shard), "videos": sum(len(model.videos) for model in models), "left": left}
    # until here an older evaluation of this name is whole; from here its summary may speak of other videos
    (folder / "summary.json").unlink(missing_ok=True)
    rows, frozen = publish_all(models, book, folder)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "models": [model.variant.as_dict() | {"samples": model.maker.digest} for model in models],
        "prompts": [{"prompt_id": p.prompt_id, "prompt": p.text, "held_out": p in held_out} for p in prompts],
        "prompt_set": {
            "name": prompt_set,
            "digest": prompts_digest(prompts),
            "count": len(prompts),
            "held_out": len(held_out),
        },
        "seeds": list(range(recipe.seeds)),
        "scorer": scorer.name,
        "score_order": list(scorer.infos),
        "score_info": {score: info.as_dict() for score, info in scorer.infos.items()},
        **analyse(rows, frozen, scorer.infos, variants, quality=quality, motion_kept=chosen.motion_kept),
        "settings": vars(recipe) | {"model": settings.model, "evaluate": chosen.model_dump(mode="json")},
        "hashes": {"base": base.fingerprint, "prompts": prompts_digest(prompts), "loras": digests},
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


def _held_out(project: Project, prompts: Sequence[Prompt]) -> set[Prompt]:
    """Return the prompts that no pair of the project has, case and punctuation aside; none where there are no pairs."""
    trained = {wording(row["caption"]) for row in read_table(project.pairs_table)}
    if not trained:
        return set()
    held_out = {prompt for prompt in prompts if wording(prompt.text) not in trained}
    if seen := len(prompts) - len(held_out):
        warn(f"{seen} of {len(prompts)} prompts are captions of pairs: a gain on these may have been learned by heart")
    return held_out
