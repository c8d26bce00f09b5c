"""The tree of commands; each module below adds its verbs to it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from densedpo import __version__

HELP = """Post-train text-to-video diffusion models on fine-grained temporal preferences (DenseDPO).

The loop: clips add → pairs make → label judge → label audit → label freeze → train → evaluate → report.
Every command resumes by repeating it, and explains itself: densedpo label judge --help.

New here? Run: densedpo demo
"""
# as they are used: looking around, the loop, what else there is
ORDER = (
    *("demo", "doctor", "clips", "pairs", "label", "train", "evaluate", "study", "report"),
    *("sample", "score", "prompts", "miniworld"),
)


class Ordered(TyperGroup):
    """Commands in the order of work instead of verbs before groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in order."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=Ordered,
    help=HELP,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
clips_app = typer.Typer(help="Real video files in, and which of them to use.", no_args_is_help=True)
pairs_app = typer.Typer(help="Pairs of videos from clips.", no_args_is_help=True)
label_app = typer.Typer(help="Labels of segments, by people and by machines.", no_args_is_help=True)
study_app = typer.Typer(help="A blind study: people compare whole videos of models.", no_args_is_help=True)
prompts_app = typer.Typer(help="Prompt sets for evaluation.", no_args_is_help=True)
miniworld_app = typer.Typer(help="The miniature world and its base model.", no_args_is_help=True)
app.add_typer(clips_app, name="clips")
app.add_typer(pairs_app, name="pairs")
app.add_typer(label_app, name="label")
app.add_typer(study_app, name="study")
app.add_typer(prompts_app, name="prompts")
app.add_typer(miniworld_app, name="miniworld")


def _say_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"densedpo {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version  # said by its callback


# each registers its verbs
from densedpo.cli import data, evaluation, judges, labels, prompts, study, suites, tuning, world  # noqa: E402, F401
