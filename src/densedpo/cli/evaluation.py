"""Verbs for evaluation."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import app
from densedpo.cli.verb import Call, verb


class ScorerName(StrEnum):
    """Scorers that can be used."""

    frames = "frames"
    examiner = "examiner"


@verb(
    app,
    "evaluate",
    example="densedpo evaluate --run dense --prompts densedpo-motion-48 --seeds 4 --project my-project\n"
    "densedpo evaluate --run dense --scales 0.5,1,1.5 --name curve --project my-project\n"
    "densedpo evaluate --videos videos",
    sections=("", "sample", "evaluate"),
)
def evaluate(
    call: Call,
    run: Annotated[list[str] | None, typer.Option(help="Run to compare with the base; repeat for several.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompt file, or a set from `prompts list`.", show_default="the miniature's held-out"),
    ] = None,
    scorer: Annotated[
        ScorerName | None,
        typer.Option(help="examiner needs captions of the miniature world.", show_default="frames"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the evaluation.", show_default="evaluation, or videos with --videos")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Do the i-th of n parts, for example 2/4; the last one done writes the summary.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Score this folder of video files instead, without a model.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes for --videos.", show_default="cores")] = None,
) -> Any:
    """Compare runs with the base model, or score video files.

    All models draw the same prompts from the same noise; differences have intervals, and motion stands beside quality.
    --scales and --every-checkpoint draw each run as a curve. Several machines may share the work with --shard.
    With --videos DIR: scores of every video file below DIR, no model needed. Speeds are in px of each file.
    """
    from densedpo.errors import ConfigError

    if videos is not None:
        from densedpo.evaluation.folder import score_folder

        own = {"--run": run, "--prompts": prompts, "--shard": shard, "--scorer": scorer}
        if senseless := [*(option for option, value in own.items() if value is not None), *call.flags]:
            raise ConfigError(
                f"with --videos, which scores files without a model, there is no use for {', '.join(senseless)}; leave "
                f"out --videos or {'it' if len(senseless) == 1 else 'them'}"
            )
        settings = call.settings
        return score_folder(call.project, videos, settings.clips, settings.label.segment_s, name or "videos", workers)
    if workers is not None:
        raise ConfigError("--workers is for --videos; an evaluation is shared among machines with --shard")
    from densedpo.evaluation.headlines import headlines
    from densedpo.evaluation.prompts import find_prompts
    from densedpo.evaluation.run import evaluate as run_evaluation
    from densedpo.evaluation.scorers import FrameScorer
    from densedpo.miniworld.scorer import ExaminerScorer
    from densedpo.miniworld.world_clips import HELD_OUT, held_out_prompts
    from densedpo.observe import say
    from densedpo.store.shard import parse_shard
    from densedpo.training.run import finished_runs

    if prompts is None and call.settings.model != "miniature":
        raise ConfigError("--prompts is needed: give a file, or a set from `densedpo prompts list`")
    part = parse_shard(shard) if shard else None
    chosen, prompt_set = find_prompts(prompts) if prompts else (held_out_prompts(), HELD_OUT)
    runs = run or finished_runs(call.project)
    summary = run_evaluation(
        call.project,
        call.settings,
        runs,
        chosen,
        ExaminerScorer() if scorer is ScorerName.examiner else FrameScorer(),
        name or "evaluation",
        prompt_set=prompt_set,
        shard=part,
    )
    for line in headlines(summary) if "overall" in summary else []:
        say(line)
    return summary
