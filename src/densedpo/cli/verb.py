"""How a verb becomes a command: common flags, settings flags made from the typed settings, output and exit codes.

A verb is a function of (``Call``, its own options) that returns a result, printed as one JSON object with ``--json``
and as a short summary otherwise. Settings flags carry the names, defaults and descriptions of ``densedpo.config``.
"""

from __future__ import annotations

import inspect
import shlex
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel

from densedpo.config import PRESETS, Settings, dump_settings, load_settings
from densedpo.errors import ConfigError
from densedpo.observe import print_json, say
from densedpo.store.files import write_text
from densedpo.store.project import Project

ProjectOption = Annotated[Path, typer.Option("--project", help="Project folder.", show_default="the current folder")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
PresetOption = Annotated[str, typer.Option(help=f"Training recipe: {' or '.join(PRESETS)}.")]


@dataclass(frozen=True)
class Call:
    """What every verb gets: the project, the resolved settings, and which of their flags were given (``--steps``)."""

    project: Project
    settings: Settings
    flags: tuple[str, ...] = ()


def verb(
    app: typer.Typer,
    name: str,
    *,
    example: str,
    sections: tuple[str, ...] = (),
    preset: bool = False,
    writes_settings: bool = False,
    fails_on: str | None = None,
    summary: bool = True,
    then: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command.

    Args:
        app: where it goes.
        name: the command's name.
        example: what to type, shown below the options; one command line a line.
        sections: sections of ``Settings`` whose fields become flags, or single fields (``label.segment_s``); ``""``
            stands for the top-level fields.
        preset: whether ``--preset`` is offered.
        writes_settings: whether the settings given are kept in ``densedpo.yaml``, once the verb has succeeded, if the
            project has none yet.
        fails_on: key of the result whose content means failure: the result is printed, then the exit status is 1.
        summary: whether the plain values of the result are said; not where the verb says all itself.
        then: the verb that usually comes next, said at the end.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        flags = {flag: dotted for section in sections for flag, dotted in _flags(section).items()}

        def command(**given: Any) -> None:
            folder = Project(given.pop("project"))
            if folder.root.is_file():
                raise ConfigError(f"--project: {folder.root} is a file; name the project's folder")
            as_json, dry_run = given.pop("as_json"), given.pop("dry_run")
            given.pop("debug")  # read by ``cli.main``
            overrides = {dotted: given.pop(flag) for flag, dotted in flags.items()}
            settings = load_settings(folder.settings_file, overrides, given.pop("preset", "default"))
            project = replace(folder, label_store_url=settings.label.store_url)
            if dry_run:
                _print_settings(settings, as_json)
                return
            named = tuple(f"--{_dash(flag)}" for flag, dotted in flags.items() if overrides[dotted] is not None)
            result = function(Call(project, settings, named), **given)
            if writes_settings and not project.settings_file.exists():
                write_text(project.settings_file, dump_settings(settings, only_changed=True))
            if as_json or summary:
                _emit(result, as_json)
            if fails_on and result[fails_on]:
                raise typer.Exit(1)
            if then and not as_json:
                where = "" if folder.root == Path() else f" --project {shlex.quote(str(folder.root))}"
                say(f"next: densedpo {then}{where}")

        command.__signature__ = _signature(function, flags, preset)  # type: ignore[attr-defined]
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        app.command(name, epilog="\b\nExample:\n" + textwrap.indent(example, "  "))(command)
        return function

    return register


def _flags(section: str) -> dict[str, str]:
    """Return flag names and the dotted settings they stand for."""
    if "." in section:
        return {section.partition(".")[2]: section}
    prefix = f"{section}." if section else ""
    return {
        name: f"{prefix}{name}"
        for name, field in _model(section).model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    }


def _model(section: str) -> type[BaseModel]:
    if not section:
        return Settings
    annotation = Settings.model_fields[section].annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation


def _signature(function: Callable[..., Any], flags: dict[str, str], preset: bool) -> inspect.Signature:
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    taken = {parameter.name for parameter in own}
    assert not taken & set(flags), f"{function.__name__}: options {taken & set(flags)} are settings too"
    common = [("project", ProjectOption, Path()), ("as_json", JsonOption, False), ("dry_run", DryRunOption, False)]
    common.append(("debug", DebugOption, False))
    if preset:
        common.append(("preset", PresetOption, "default"))
    settings = [(flag, _settings_option(dotted), None) for flag, dotted in flags.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    made = [inspect.Parameter(n, keyword, default=value, annotation=a) for n, a, value in [*settings, *common]]
    return inspect.Signature([parameter.replace(kind=keyword) for parameter in own] + made)


def _settings_option(dotted: str) -> Any:
    """Return a flag whose help is the setting's; its type is text, checked with the settings themselves."""
    section, _, name = dotted.rpartition(".")
    field = _model(section).model_fields[name]
    default = field.get_default()
    shown = "" if default is None else f"; default: {_shown(default)}"  # a description says what None stands for
    words = field.description or ""
    assert words, f"{dotted} lacks a description"
    text = f"{words[0].upper()}{words[1:]}. [{dotted}{shown}]"
    if isinstance(default, bool):
        return Annotated[
            bool | None, typer.Option(f"--{_dash(name)}/--no-{_dash(name)}", help=text, show_default=False)
        ]
    kind, choices = _values(field.annotation)
    return Annotated[
        str | None,
        typer.Option(
            f"--{_dash(name)}",
            help=text,
            metavar=f"<{kind}>",
            show_default=False,
            autocompletion=(lambda: choices) if choices else None,
        ),
    ]


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:.4g}" if isinstance(default, float) else str(default)


def _values(annotation: Any) -> tuple[str, list[str]]:
    """Return what a setting takes, as help shows it, and its words where it takes nothing else."""
    parts = _leaves(annotation)
    words = [part for part in parts if isinstance(part, str)]
    kinds = [name for kind, name in ((int, "int"), (float, "float"), (str, "str"), (Path, "path")) if kind in parts]
    listed = ",..." if tuple in parts else ""
    return ("|".join([*words, *kinds]) + listed, [] if kinds or listed else words)


def _leaves(annotation: Any) -> list[Any]:
    """Return the types and words in an annotation, and ``tuple`` if it is one: ``Literal["a"] | None`` gives a."""
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    inner = [leaf for part in get_args(annotation) for leaf in _leaves(part)]
    return [*inner, tuple] if get_origin(annotation) is tuple else inner or [annotation]


def _dash(name: str) -> str:
    return name.replace("_", "-")


def _print_settings(settings: Settings, as_json: bool) -> None:
    if as_json:
        print_json(settings.model_dump(mode="json"))
    else:
        typer.echo(dump_settings(settings), nl=False)


def _emit(result: Any, as_json: bool) -> None:
    """Print a result: JSON on standard output, or its plain values as lines on standard error."""
    values = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        if isinstance(value, bool) or name == "schema_version" or value == "":
            continue
        if isinstance(value, int | float | str):
            say(f"{name.replace('_', ' ')}: {_shown(value)}")
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "reason" in value[0]:
            say(f"{name.replace('_', ' ')}: {len(value)}")
        elif isinstance(value, dict) and value and all(isinstance(v, int | str) for v in value.values()):
            say(f"{name.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in value.items()))
