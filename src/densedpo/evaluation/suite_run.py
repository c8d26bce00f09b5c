"""The stage ``score``: videos of an evaluation, or of a folder, before an outside suite; its numbers in one table.

videos + prompts -> adapter in its own environment (outside/) -> suite_NAME.parquet, a row a video -> suite_NAME.json

A score is kept under the bytes of the video, the prompt and the suite as it describes itself, so repeating asks only
what is missing. A video that the suite cannot score is named, counted and left out of all models' means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from densedpo.clips.captions import find_table, read_captions
from densedpo.clips.probe import check_regular
from densedpo.clips.sources import find_files
from densedpo.errors import ConfigError, MediaError, ProjectError
from densedpo.evaluation.paired import BASE, Bootstrap, differences_of, plain, scores_of, table_of
from densedpo.evaluation.scorers import primary_scores
from densedpo.evaluation.statistics import paired_tests
from densedpo.evaluation.suites import Suite, suite_of
from densedpo.keys import content_id
from densedpo.observe import say, track, warn
from densedpo.outside.cache import ScoreCache, score_key
from densedpo.outside.pipe import Adapter
from densedpo.outside.wire import Hello, Item
from densedpo.store.files import inside, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table, write_table

SCHEMA_VERSION = 1
_FOLDER = "videos"  # the name of the one model of a plain folder


@dataclass(frozen=True)
class Clip:
    """One video to be scored, and which model made it of which prompt and seed."""

    path: Path
    model: str
    prompt_id: str
    prompt: str
    seed: int
    video: str


def clips_of_evaluation(project: Project, name: str) -> list[Clip]:
    """Return the videos of ``evals/NAME``.

    Raises:
        ProjectError: if there is no such evaluation, or it scored a folder and not models.
    """
    folder = project.evaluation(name)
    rows = read_table(project.need(folder / "scores.parquet", f"densedpo evaluate --name {name}"))
    if not rows or "video" not in rows[0]:
        raise ProjectError(f"{folder}: not an evaluation of models; give its folder of videos with --videos")
    keys = ("model", "prompt_id", "prompt", "seed", "video")
    return [Clip(inside(folder, row["video"]), *(row[key] for key in keys)) for row in rows]


def clips_of_folder(folder: Path, captions: Path | None) -> list[Clip]:
    """Return every video file below ``folder``, with captions as ``clips add`` reads them; without one it is empty.

    Raises:
        ProjectError: if there is no such folder, or the captions cannot be read.
        MediaError: if there is no video file.
    """
    read = read_captions(captions or find_table([folder]), [folder])
    read.needed = False
    clips = []
    for path in sorted(find_files([folder])):
        shown, prompt = str(path.relative_to(folder) if path != folder else path.name), read.of(path)
        clips.append(Clip(path, _FOLDER, content_id("file", shown, length=12), prompt, 0, shown))
    return clips


def score_clips(clips: Sequence[Clip], adapter: Adapter, cache: ScoreCache, target: Path) -> dict[str, Any]:
    """Have the adapter score ``clips``; write ``suite_NAME.parquet`` and ``.json`` into ``target``, return the latter.

    Raises:
        AdapterError: if the adapter cannot be started or breaks down on everything.
        MediaError: if no video at all could be scored.
        ConfigError: if every prompt is empty although all scores need one.
    """
    hello = adapter.hello
    if not any(clip.prompt for clip in clips) and set(hello.prompted) == set(hello.scores):
        raise ConfigError(f"{hello.name} scores nothing without prompts; give --captions FILE")
    suite = suite_of(hello.name, hello.scores)
    found = _scores(clips, adapter, hello, cache)
    rows = [_row(clip, suite, said) for clip, said in zip(clips, found, strict=True)]
    failed = [{"model": row["model"], "video": row["video"], "reason": row["error"]} for row in rows if row["error"]]
    if len(failed) == len(rows):
        raise MediaError(f"{hello.name} could score none of {len(rows)} videos; the first: {failed[0]['reason']}")
    for failure in failed:
        warn(f"{failure['video']} not scored: {failure['reason']}")
    names = [*hello.scores, *(name for name in suite.derived if name not in hello.scores)]
    _write(target / f"suite_{hello.name}.parquet", rows, names)
    result = {
        "schema_version": SCHEMA_VERSION,
        "suite": hello.name,
        "version": hello.version,
        "adapter": hello.digest,
        "videos": len(rows),
        "failed": failed,
        "table": f"suite_{hello.name}.parquet",
        "score_info": {name: suite.info(name).as_dict() for name in names},
        "derived": {name: list(parts) for name, parts in suite.derived.items()},
        "notes": _notes(suite, rows),
        **_summary(rows, names, suite),
    }
    write_json(target / f"suite_{hello.name}.json", result)
    return result


def suite_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what a person reads first: every model's means, and whether it differs from the base."""
    lines = []
    for model, means in result.get("means", {}).items():
        for name, mean in means.items():
            line = f"{model}: {result['score_info'][name]['label']} {mean:.4g}"
            gap = result["differences"].get(model, {}).get(name)
            if gap is not None:
                verdict = result["tests"][model][name]["verdict"]
                line += f", {gap['mean']:+.3g} ({gap['low']:+.3g} to {gap['high']:+.3g}): {verdict}"
            lines.append(line)
    return [*lines, *result["notes"]]


def _scores(clips: Sequence[Clip], adapter: Adapter, hello: Hello, cache: ScoreCache) -> list[dict[str, float] | str]:
    """Return the scores of each clip, or why there are none; equal videos of equal prompts are asked about once."""
    keys: list[str | MediaError] = [_key(clip, hello) for clip in track(clips, "reading videos")]
    kept: dict[str, dict[str, float] | str] = {}
    asked: dict[str, Item] = {}
    for key, clip in zip(keys, clips, strict=True):
        if isinstance(key, str) and key not in kept and key not in asked:
            known = cache.get(key)
            if known is None:
                asked[key] = Item(clip.path, clip.prompt)
            else:
                kept[key] = known
    if kept:
        say(f"{len(kept)} videos were scored before")
    order = list(asked)
    for place, said in track(adapter.score(list(asked.values())), f"scoring with {hello.name}", total=len(asked)):
        kept[order[place]] = said.error or said.scores
        if not said.error:
            cache.put(order[place], said.scores)
    return [kept[key] if isinstance(key, str) else str(key) for key in keys]


def _key(clip: Clip, hello: Hello) -> str | MediaError:
    try:
        check_regular(clip.path)
        return score_key(hello.digest, sha256_file(clip.path), clip.prompt if hello.prompted else "")
    except MediaError as error:
        return error


def _row(clip: Clip, suite: Suite, said: Mapping[str, float] | str) -> Row:
    about = {"model": clip.model, "prompt_id": clip.prompt_id, "prompt": clip.prompt, "seed": clip.seed}
    if isinstance(said, str):
        return {**about, "video": clip.video, "error": said}
    return {**about, "video": clip.video, "error": "", **said, **suite.derive(said)}


def _write(path: Path, rows: list[Row], names: Sequence[str]) -> None:
    about = [(name, pa.string()) for name in ("model", "prompt_id", "prompt")]
    columns = [*about, ("seed", pa.int64()), ("video", pa.string()), ("error", pa.string())]
    write_table(path, rows, pa.schema([*columns, *((name, pa.float64()) for name in names)]))


def _notes(suite: Suite, rows: Sequence[Row]) -> list[str]:
    seeds = {(row["model"], row["prompt_id"]): 0 for row in rows}
    for row in rows:
        seeds[row["model"], row["prompt_id"]] += 1
    fewest = min(seeds.values())
    notes = [suite.sentence] if suite.sentence else []
    if fewest < suite.seeds:
        notes.append(f"{fewest} videos a prompt; the suite asks for {suite.seeds} (sample.seeds).")
    return notes


def _summary(rows: Sequence[Row], names: Sequence[str], suite: Suite) -> dict[str, Any]:
    """Return means of every model and differences to the base, over the prompts and seeds that all models have."""
    models = sorted({row["model"] for row in rows}, key=lambda model: (model != BASE, model))
    good: dict[str, set[tuple[str, int]]] = {model: set() for model in models}
    for row in rows:
        if not row["error"]:
            good[row["model"]].add((row["prompt_id"], row["seed"]))
    common = set.intersection(*good.values())
    shared = [row for row in rows if (row["prompt_id"], row["seed"]) in common]
    if not common:
        return {"models": models, "compared": 0, "scores": {}, "differences": {}, "tests": {}}
    table = table_of(shared, models, names)
    bootstrap = Bootstrap(len(table.prompts), seed="suite")
    differences = differences_of(table, bootstrap) if models[0] == BASE else {}
    infos = {name: suite.info(name) for name in names}
    better, claims = {name: info.better for name, info in infos.items()}, primary_scores(infos)
    return {
        "models": models,
        "compared": len(common),
        "scores": {model: plain(found) for model, found in scores_of(table, bootstrap).items()},
        "means": {m: {n: float(table.of(m, n).sum() / table.seeds.sum()) for n in names} for m in models},
        "differences": {model: plain(found) for model, found in differences.items()},
        "tests": {
            model: paired_tests(table.means[place], table.means[0], differences[model], better, claims)
            for place, model in enumerate(models)
            if model in differences
        },
    }
