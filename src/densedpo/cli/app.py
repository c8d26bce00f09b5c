"""The tree of commands; each module below adds its verbs to it."""

from __future__ import annotations

import typer

HELP = """Post-train text-to-video diffusion models on fine-grained temporal preferences (DenseDPO).

The loop: clips add → pairs make → label judge → label audit → label freeze → train → evaluate → report.
Every command resumes by repeating it. New here? Run: densedpo demo
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
clips_app = typer.Typer(help="Real video files in, and which of them to use.", no_args_is_help=True)
pairs_app = typer.Typer(help="Aligned pairs from clips.", no_args_is_help=True)
label_app = typer.Typer(help="Segment labels: judge, import, audit, freeze.", no_args_is_help=True)
study_app = typer.Typer(help="A blind study: people compare whole videos of models.", no_args_is_help=True)
prompts_app = typer.Typer(help="Prompt sets for evaluation.", no_args_is_help=True)
miniworld_app = typer.Typer(help="The miniature world and its base model.", no_args_is_help=True)
app.add_typer(clips_app, name="clips")
app.add_typer(pairs_app, name="pairs")
app.add_typer(label_app, name="label")
app.add_typer(study_app, name="study")
app.add_typer(prompts_app, name="prompts")
app.add_typer(miniworld_app, name="miniworld")

# each registers its verbs
from densedpo.cli import data, evaluation, judges, labels, prompts, study, suites, tuning, world  # noqa: E402, F401
