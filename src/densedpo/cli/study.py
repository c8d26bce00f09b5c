"""Verbs of the blind study: people compare whole videos of an evaluation."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import study_app
from densedpo.cli.verb import Call, verb

EvaluationOption = Annotated[str, typer.Option("--evaluation", help="Evaluation whose videos are compared.")]


class StudyRole(StrEnum):
    """What an invited person may do."""

    annotator = "annotator"
    admin = "admin"


class StudyForm(StrEnum):
    """Formats that answers can be exported to."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


@verb(
    study_app,
    "serve",
    example="densedpo study serve --evaluation held-out --models base,dense --project my-project",
    sections=("study",),
)
def study_serve(
    call: Call,
    evaluation: EvaluationOption = "evaluation",
    models: Annotated[
        str | None, typer.Option(help="Models to compare, comma-separated; all of up to three by default.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="YAML list of code, name, text, hint; the paper's four by default.")
    ] = None,
) -> Any:
    """Serve the study page to people, until stopped.

    It shows two videos, a prompt and several questions; nobody is named.
    On this machine alone anybody may take part; once somebody is invited, everybody needs an invitation.
    """
    from densedpo.evaluation.study.office import serve_study

    chosen = [name.strip() for name in (models or "").split(",") if name.strip()]
    return serve_study(call.project, call.settings, evaluation, chosen, questions)


@verb(
    study_app,
    "invite",
    example="densedpo study invite ada --evaluation held-out --project my-project",
    sections=("study.host", "study.port", "study.public_url"),
)
def study_invite(
    call: Call,
    name: Annotated[str, typer.Argument(help="Who is invited.")],
    evaluation: EvaluationOption = "evaluation",
    role: Annotated[StudyRole, typer.Option(help="What they may do.")] = StudyRole.annotator,
) -> Any:
    """Invite a person to the study, or renew their link.

    The link is shown this once.
    """
    from densedpo.evaluation.study.office import invite_to_study

    link = invite_to_study(call.project, call.settings, evaluation, name, role.value)
    return {"name": name, "role": role.value, "link": link}


@verb(
    study_app,
    "results",
    example="densedpo study results --evaluation held-out --project my-project",
    summary=False,
)
def study_results(
    call: Call,
    evaluation: EvaluationOption = "evaluation",
    keep_flagged: Annotated[bool, typer.Option("--keep-flagged", help="Count answers of flagged people too.")] = False,
) -> Any:
    """Say what people prefer, with intervals and agreement.

    Win, tie and lose of every question, also written to evals/NAME/study.json.
    """
    from densedpo.evaluation.study.results import lines
    from densedpo.evaluation.study.results import study_results as results
    from densedpo.observe import say

    found = results(call.project, evaluation, keep_flagged=keep_flagged)
    for line in lines(found):
        say(line)
    return found


@verb(
    study_app,
    "export",
    example="densedpo study export answers.csv --evaluation held-out --project my-project",
)
def study_export(
    call: Call,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    evaluation: EvaluationOption = "evaluation",
    form: Annotated[
        StudyForm | None, typer.Option("--format", help="File format.", show_default="by the file's name, else csv")
    ] = None,
) -> Any:
    """Export every current answer, with the models' names."""
    from densedpo.evaluation.study.export import export_study

    suffix = file.suffix.lower().removeprefix(".")
    form = form or (StudyForm(suffix) if suffix in list(StudyForm) else StudyForm.csv)
    return {
        "file": str(file),
        "format": form.value,
        "answers": export_study(call.project, evaluation, file, form.value),
    }
