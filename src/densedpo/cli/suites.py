"""``score``: videos before an outside suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import app
from densedpo.cli.verb import Call, verb


@verb(app, "score", example="densedpo score --command envs/vbench --name evaluation --project my-project")
def score(
    call: Call,
    command: Annotated[
        str,
        typer.Option(help="Command of the suite's adapter, or a folder that doctor --setup NAME --make made."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Evaluation whose videos are scored.", show_default="evaluation")
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="Score this folder of video files instead.")] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="With --videos: table with the columns path and caption."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, help="Longest wait for the scores of one video.")] = 1800.0,
) -> Any:
    """Let an outside suite, such as VBench, score videos.

    Its numbers come with intervals. The suite runs in an environment of its own: densedpo doctor --setup list. Repeat
    the command to go on.
    """
    from densedpo.errors import ConfigError
    from densedpo.evaluation.suite_run import clips_of_evaluation, clips_of_folder, score_clips, suite_lines
    from densedpo.observe import say
    from densedpo.outside.cache import ScoreCache
    from densedpo.outside.pipe import Adapter, parse_command

    if captions is not None and videos is None:
        raise ConfigError("--captions is for --videos; an evaluation has prompts of its own")
    folder = call.project.outside
    words = parse_command(command, "--command")
    if videos is None:
        target = call.project.evaluation(name or "evaluation")
        clips = clips_of_evaluation(call.project, name or "evaluation")
    else:
        target = call.project.evaluation(name or "videos")
        clips = clips_of_folder(videos, captions)
    with (
        ScoreCache(folder / "scores.db") as cache,
        Adapter(words, folder / "suite.log", timeout_s=timeout_s) as adapter,
    ):
        found = score_clips(clips, adapter, cache, target)
    for line in suite_lines(found):
        say(line)
    return {"folder": str(target), **found}
