"""The probe of an endpoint, once: a passed one is kept in the project and asked for again by nobody.

A failed one is not kept: whoever sees to the service repeats the command.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from densedpo.config import JudgeSettings
from densedpo.errors import ProjectError
from densedpo.keys import content_id
from densedpo.labels.judges.asking import instructions
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.probe import VERSION, probe
from densedpo.labels.judges.selftest import Check
from densedpo.labels.judges.wire import StructuredMode
from densedpo.store.files import read_object, write_json
from densedpo.store.project import Project

_SHAPING = ("base_url", "model", "layout", "frames_per_s", "max_side_px", "image_format", "ask")


def kept_probe(project: Project, settings: JudgeSettings) -> dict[str, Any] | None:
    """Return what a passed probe of this service found, or None; ``kept`` is then true, and it took nothing.

    Raises:
        ConfigError: if the prompt file cannot be used.
    """
    try:
        found = read_object(project.labels / "judges" / _name(settings))
    except ProjectError:
        return None
    usable = found.get("version") == VERSION and found.get("mode") in get_args(StructuredMode)
    return found | {"calls": 0, "cached": 0, "cost": 0.0, "kept": True} if usable else None


def probed(project: Project, endpoint: Endpoint, settings: JudgeSettings, shown_s: float) -> dict[str, Any]:
    """Return what the probe finds, now or before: ``passed``, ``mode``, ``checks``, ``kept``, and what it took.

    Raises:
        BudgetError: if a question could cost more than is left.
        ConfigError: if the service refuses the key, the model or the request in every mode.
        ServiceError: if its quota is used up.
    """
    known = kept_probe(project, settings)
    if known is not None:
        return known
    found = _probe(endpoint, settings, shown_s)
    if not found["checks"][0]["passed"]:  # no answer at all: a refusal, say, which another try may not meet
        found = _probe(endpoint, settings, shown_s)
    if found["passed"]:
        write_json(project.labels / "judges" / _name(settings), found)
    return found | {"kept": False}


def _probe(endpoint: Endpoint, settings: JudgeSettings, shown_s: float) -> dict[str, Any]:
    return probe(lambda mode: endpoint.with_mode(mode, recall=False), settings, shown_s=shown_s).as_dict()


def with_probe(tested: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return a self-test's result with the checks of the probe before its own: a judge must pass both."""
    checks = [
        Check(f"probe {one['name']}", one["passed"], True, float(one["passed"]), 1.0, one["sentence"])
        for one in found["checks"]
    ]
    failed = [check.name for check in checks if not check.passed] + tested["failed"]
    verdict = {"passed": not failed, "trusted": not failed, "failed": failed}
    return tested | verdict | {"checks": [*map(asdict, checks), *tested["checks"]], "probe": found}


def _name(settings: JudgeSettings) -> str:
    shaping = settings.model_dump(mode="json", include=set(_SHAPING))
    return f"probe-{content_id(VERSION, shaping, instructions(settings.prompt_file))}.json"
