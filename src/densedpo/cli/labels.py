"""Verbs for labels."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from densedpo.cli.app import label_app
from densedpo.cli.verb import Call, verb

SourceOption = Annotated[
    str | None, typer.Option("--source", help="Whose answers: person, judge or simulated; needed if there are several.")
]
AuthorOption = Annotated[
    str | None, typer.Option("--author", help="The author whose answers alone count; needed with several judges.")
]


class ExportForm(StrEnum):
    """Formats that labels can be exported to."""

    jsonl = "jsonl"
    parquet = "parquet"
    videoalign = "videoalign"
    label_studio = "label_studio"
    datasets = "datasets"


_FORM_OF = {".parquet": ExportForm.parquet, ".csv": ExportForm.videoalign, ".json": ExportForm.label_studio}


class ConsensusRule(StrEnum):
    """How several answers become one label."""

    majority = "majority"
    reviewer = "reviewer"
    gold_weighted = "gold_weighted"
    dawid_skene = "dawid_skene"


@verb(
    label_app,
    "serve",
    example="densedpo label serve --project my-project\ndensedpo label serve --host 0.0.0.0 --overlap 2",
    sections=("label.segment_s", "label.alike_below", "label.agreement_above", "label.store_url", "serve"),
)
def label_serve(call: Call) -> Any:
    """Serve the labelling page to people, until stopped.

    On this machine alone anybody may work; once somebody is invited, everybody needs an invitation.
    """
    from densedpo.labels.people.serve import serve

    return serve(call.project, call.settings)


class PersonRole(StrEnum):
    """What an invited person may do."""

    annotator = "annotator"
    reviewer = "reviewer"
    admin = "admin"


@verb(
    label_app,
    "invite",
    example="densedpo label invite ada --role admin --project my-project",
    sections=("label.store_url", "serve.host", "serve.port", "serve.public_url"),
)
def label_invite(
    call: Call,
    name: Annotated[str, typer.Argument(help="Who is invited.")],
    role: Annotated[PersonRole, typer.Option(help="What they may do.")] = PersonRole.annotator,
) -> Any:
    """Invite a person to the labelling page, or renew their link.

    The link is shown this once.
    """
    from densedpo.labels.people.serve import invite

    return {"name": name, "role": role.value, "link": invite(call.project, call.settings, name, role.value)}


@verb(
    label_app,
    "import",
    example="densedpo label import answers.csv --author ann --project my-project",
    sections=("label.segment_s", "label.store_url"),
)
def label_import(
    call: Call,
    file: Annotated[
        Path,
        typer.Argument(help="JSONL, Parquet or CSV with pair_id, segment, answer; Label Studio JSON; dataset."),
    ],
    author: Annotated[str, typer.Option(help="Whose answers these are, where the file does not say.")] = "import",
    gold: Annotated[bool, typer.Option("--gold", help="These are known to be right: measure people by them.")] = False,
) -> Any:
    """Import answers made elsewhere.

    An unknown pair, segment or answer stops it with the line's number, and nothing is imported.
    """
    from densedpo.labels.transfer import import_labels

    return import_labels(call.project, file, call.settings.label.segment_s, author, gold=gold)


@verb(
    label_app,
    "export",
    example="densedpo label export answers.jsonl --project my-project",
    sections=("label.store_url",),
)
def label_export(
    call: Call,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    form: Annotated[
        ExportForm | None, typer.Option("--format", help="File format.", show_default="by the file's name, else jsonl")
    ] = None,
    source: SourceOption = None,
    author: AuthorOption = None,
) -> Any:
    """Export the current answers."""
    from densedpo.labels.transfer import export_labels

    form = form or _FORM_OF.get(file.suffix.lower(), ExportForm.jsonl)
    return {
        "file": str(file),
        "format": form.value,
        "answers": export_labels(call.project, file, form.value, source, author),
    }


@verb(
    label_app,
    "status",
    example="densedpo label status --project my-project",
    sections=("label.segment_s", "label.store_url"),
)
def label_status(call: Call) -> Any:
    """Count what is labelled, by whom, and what is missing."""
    from densedpo.labels.status import status

    return status(call.project, call.settings.label.segment_s)


@verb(
    label_app,
    "audit",
    example="densedpo label audit --project my-project",
    sections=("label.segment_s", "label.store_url"),
    then="label freeze",
)
def label_audit(call: Call, source: SourceOption = None, author: AuthorOption = None) -> Any:
    """Say what the labels secretly prefer, before training.

    Slower, larger, brighter …: a preference is said only where its interval shows it.
    """
    from densedpo.labels.audit import audit
    from densedpo.observe import say

    found = audit(call.project, source, call.settings.label.segment_s, author)
    for finding in found["findings"]:
        say(f"{finding['group']}: {finding['text']}")
    if not found["findings"]:
        say(f"no side is surely preferred; fewer than {found['min_pairs_for_finding']} pairs of a kind are not judged")
    return found


@verb(
    label_app,
    "agreement",
    example="densedpo label agreement --against people --project my-project",
    sections=("label.segment_s", "label.store_url"),
    summary=False,
)
def label_agreement(
    call: Call,
    against: Annotated[
        str | None, typer.Option(help="Measure judges against people, gold (known answers), simulated or an author.")
    ] = None,
) -> Any:
    """Say how far people agree, and how right judges are.

    People are compared with each other, with themselves, with known answers and with judges.
    With --against, also how right each judge is, by segment and by whole video, with and without ties.
    """
    from densedpo.labels.agreement import agreement, lines
    from densedpo.observe import say

    call.project.need(call.project.pairs_table, "densedpo pairs make")  # a wrong folder is no disagreement
    found = agreement(call.project, call.settings.label.segment_s, against)
    for line in lines(found):
        say(line)
    return found


@verb(
    label_app,
    "calibrate",
    example="densedpo label calibrate --judge vlm:NAME --against people --project my-project",
    sections=("label.segment_s", "label.store_url"),
)
def label_calibrate(
    call: Call,
    judge: Annotated[
        str | None, typer.Option(help="Name of the judge, as stored; needed if there are several.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="What counts as right: people, gold, simulated or an author.")
    ] = "people",
) -> Any:
    """Fit what a judge's confidence is worth.

    Its tie threshold and weights are fitted where people answered too. `label freeze` then applies it to all answers of
    that judge, given with the same settings.
    """
    from densedpo.labels.accuracy.fit import calibrate_judge
    from densedpo.labels.accuracy.text import calibration_lines
    from densedpo.observe import say

    call.project.need(call.project.pairs_table, "densedpo pairs make")
    found = calibrate_judge(call.project, judge, against, call.settings.label.segment_s)
    for line in calibration_lines(found):
        say(line)
    return found


@verb(
    label_app,
    "plan",
    example="densedpo label plan --judge vlm:NAME --accuracy 0.9 --project my-project",
    sections=("label.segment_s", "label.alike_below", "label.store_url"),
    summary=False,
)
def label_plan(
    call: Call,
    judge: Annotated[str | None, typer.Option(help="Judge whose labels people's replace; needed with several.")] = None,
    against: Annotated[str, typer.Option(help="Who is right: people, gold, simulated or an author.")] = "people",
    accuracy: Annotated[float, typer.Option(help="Accuracy with ties that is wanted.")] = 0.9,
) -> Any:
    """Rank the segments that people should look at first.

    First come those where a judge's label can be believed least. It also says how many answers of people reach an
    accuracy. `label serve --order plan` then asks in this order.
    """
    from densedpo.labels.planning.plan import plan
    from densedpo.labels.planning.text import plan_lines
    from densedpo.observe import say

    found = plan(call.project, call.settings.label, judge, against, accuracy)
    for line in plan_lines(found):
        say(line)
    say(f"file: {found['file']}")
    return found


@verb(
    label_app,
    "freeze",
    example="densedpo label freeze --source person --project my-project",
    sections=("label.segment_s", "label.confidence", "label.store_url"),
    then="train",
)
def label_freeze(
    call: Call,
    source: SourceOption = None,
    author: AuthorOption = None,
    rule: Annotated[ConsensusRule, typer.Option(help="How several answers become one label.")] = ConsensusRule.reviewer,
    keep_flagged: Annotated[
        bool, typer.Option("--keep-flagged", help="Count answers of flagged people and of untrusted judges too.")
    ] = False,
) -> Any:
    """Freeze answers into the snapshot that training reads.

    One snapshot holds one kind of source. --rule makes one label of several answers. majority: most votes. reviewer: a
    reviewer's answer where there is one. gold_weighted: by accuracy on known answers. dawid_skene: by what the answers
    say about everybody's habits. A judge's preferences get weights by --confidence.
    """
    from densedpo.labels.snapshot import freeze

    label = call.settings.label
    options: dict[str, Any] = {"author": author, "confidence": label.confidence, "keep_flagged": keep_flagged}
    frozen = freeze(call.project, source, label.segment_s, rule.value, **options)
    return vars(frozen) | {"path": str(frozen.path)}
