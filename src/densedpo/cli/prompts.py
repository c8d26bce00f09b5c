"""Verbs for prompt sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import prompts_app
from densedpo.cli.verb import Call, verb

_YOURS = {
    "VideoJAM-bench": "128 prompts (arXiv 2502.02492); no public list that may be shipped: --prompts YOUR_FILE",
    "VBench": "prompts/prompts_per_dimension/*.txt or vbench/VBench_full_info.json of its repository (Apache-2.0)",
    "VMBench": "prompts/prompts.json of its repository (Apache-2.0)",
}


@verb(prompts_app, "list", example="densedpo prompts list")
def list_sets(call: Call) -> Any:
    """List the prompt sets that come along, and where others are."""
    del call
    from densedpo.evaluation.prompts import load_prompts, prompts_digest, shipped_sets
    from densedpo.observe import say

    shipped = []
    for name, path in shipped_sets().items():
        prompts = load_prompts(path)
        shipped.append({"name": name, "prompts": len(prompts), "digest": prompts_digest(prompts)})
        say(f"{name}: {len(prompts)} prompts, digest {shipped[-1]['digest']}")
    for name, where in _YOURS.items():
        say(f"{name} (not shipped): {where}")
    return {"shipped": shipped, "not_shipped": [{"name": name, "where": where} for name, where in _YOURS.items()]}


@verb(
    prompts_app,
    "build",
    example="densedpo prompts build captions.csv --out motion.txt --caption-endpoint http://127.0.0.1:8000/v1 "
    "--caption-model NAME",
)
def build(
    call: Call,
    files: Annotated[list[Path], typer.Argument(help="Prompt files: .txt, .csv, .json or .jsonl.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="The new set: .txt or .jsonl; its report lies beside it.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Most prompts kept, taken by a hash of their text.")] = None,
    caption_endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible service that is asked.", show_default="that of the settings")
    ] = None,
    caption_model: Annotated[
        str | None, typer.Option(help="The service's name of the model.", show_default="that of the settings")
    ] = None,
) -> Any:
    """Build a motion prompt set out of your prompt files.

    A language model says of each prompt whether it asks for complex human action, as the paper made its motion
    benchmark. Nothing is asked twice: answers are kept in the project's cache.
    """
    from densedpo.config import parse_settings
    from densedpo.evaluation.prompt_builder import build_prompts

    given = {"caption_endpoint": caption_endpoint, "caption_model": caption_model}
    chosen = call.settings.filter.model_dump() | {name: value for name, value in given.items() if value is not None}
    settings = parse_settings({"filter": chosen}).filter
    return build_prompts(files, out, settings, call.project.cache / "prompts", limit=limit)
