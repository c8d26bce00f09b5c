"""The probe: which endpoints pass, in which mode, and which are found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fake_endpoint import FakeEndpoint, Mind, always_first, blind, chatty
from tests.fake_endpoint import honest as honest_mind
from tests.unit.labels.judges.doubles import Double, halves, images_of, saying

from densedpo.config import JudgeSettings
from densedpo.errors import ConfigError
from densedpo.labels.judges.answerer import Question, Reply
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.probe import MODES, Probe, probe
from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.wire import StructuredMode

Says = Callable[[Question], str | Reply]


def sharper(question: Question) -> str:
    """Prefer the clip with more detail."""
    first, second = (
        np.mean([np.abs(np.diff(f.astype(float), axis=1)).mean() for f in clip]) for clip in halves(question)
    )
    return "first" if first > second else "second"


def obeying(question: Question, choice: str) -> str:
    """Answer as the schema wants, the code included."""
    fields = question.schema["properties"]
    return saying(choice, **({"code": fields["code"]["enum"][0]} if "code" in fields else {}))


def honest(question: Question) -> str:
    return obeying(question, sharper(question))


def probed(says_in: dict[StructuredMode, Says], **settings: Any) -> tuple[Probe, list[Double]]:
    doubles = {mode: Double(says) for mode, says in says_in.items()}
    return probe(lambda mode: doubles[mode], JudgeSettings(**settings)), list(doubles.values())


def alike(says: Says) -> dict[StructuredMode, Says]:
    return dict.fromkeys(MODES, says)


def passed(found: Probe) -> dict[str, bool]:
    return {check.name: check.passed for check in found.checks}


@pytest.mark.parametrize("layout", ["separate", "grid"])
def test_a_good_endpoint_takes_two_questions(layout: str) -> None:
    found, doubles = probed(alike(honest), layout=layout)
    assert found.passed and found.mode == "json_schema"
    assert passed(found) == {"schema": True, "images": True, "order": True}
    assert (found.calls, found.cost) == (2, 0.5)
    assert len(doubles[0].asked) == 2
    assert found.as_dict()["checks"][0]["sentence"].endswith("json_schema")


def test_the_code_stands_in_no_words() -> None:
    _, doubles = probed(alike(honest))
    question = doubles[0].asked[0]
    code = question.schema["properties"]["code"]["enum"][0]
    assert code not in question.system and code not in str([part for part in question.parts if isinstance(part, str)])


def test_as_many_images_as_will_be_shown() -> None:
    for frames_per_s, shown_s, count in ((8.0, 1.0, 16), (4.0, 0.5, 4), (8.0, 60.0, 64)):
        double = Double(honest)
        probe({"text": double}.__getitem__, JudgeSettings(frames_per_s=frames_per_s), shown_s=shown_s, modes=["text"])
        assert len(images_of(double.asked[0])) == count
    double = Double(honest)
    probe({"text": double}.__getitem__, JudgeSettings(ask="clip"), modes=["text"])
    assert len(images_of(double.asked[0])) == 64


def test_an_endpoint_that_ignores_schemas_passes_in_words() -> None:
    found, _ = probed(alike(lambda question: saying(sharper(question))))
    assert found.passed and found.mode == "text"
    assert found.calls == 4
    assert "does not enforce" in found.checks[0].sentence


def refusing(question: Question) -> Reply:
    raise ConfigError("judge.model: response_format is unknown (status 400)")


@pytest.mark.parametrize(
    "bad", [refusing, lambda question: Reply("failed", why="status 500"), lambda question: "Sure!"]
)
def test_the_next_way_is_tried(bad: Says) -> None:
    found, _ = probed({"json_schema": bad, "structured_outputs": honest, "text": bad})
    assert found.passed and found.mode == "structured_outputs"


def test_a_service_that_refuses_every_way_is_an_error() -> None:
    with pytest.raises(ConfigError, match="status 400"):
        probed(alike(refusing))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda question: "The first\none.", ["it said: The first one.", "answer in JSON"]),
        (lambda question: Reply("refused", why="I will not"), ["I will not", "use a model that takes"]),
        (lambda question: Reply("truncated", why="too long"), ["too long", "raise judge.max_output_tokens"]),
        (lambda question: Reply("failed", why="status 500"), ["status 500", "see to the service"]),
    ],
)
def test_no_form_no_endpoint(bad: Says, words: list[str]) -> None:
    found, _ = probed(alike(bad))
    assert not found.passed
    assert passed(found) == {"schema": False}
    assert all(word in found.checks[0].sentence for word in words)


@pytest.mark.parametrize(
    ("choices", "images", "order"),
    [(("first", "first"), True, False), (("tie", "tie"), False, False), (("second", "first"), False, True)],
)
def test_the_blind_are_found_out(choices: tuple[str, str], images: bool, order: bool) -> None:
    left = iter(choices)
    found, _ = probed(alike(lambda question: obeying(question, next(left))))
    assert not found.passed
    assert passed(found) == {"schema": True, "images": images, "order": order}
    assert all(check.sentence.count("use a model") == (not check.passed) for check in found.checks)


def test_form_lost_on_the_second_question() -> None:
    left = iter([True, False])
    found, _ = probed(alike(lambda question: honest(question) if next(left) else "well"))
    assert passed(found) == {"schema": False}


@pytest.mark.parametrize(
    ("mind", "modes", "mode", "failed"),
    [
        (honest_mind, ("json_schema", "structured_outputs"), "json_schema", set()),
        (honest_mind, ("structured_outputs",), "structured_outputs", set()),
        (chatty, (), "text", {"schema"}),
        (always_first, ("json_schema",), "json_schema", {"order"}),
        (blind, ("json_schema",), "json_schema", {"images", "order"}),
    ],
)
def test_over_the_network(tmp_path: Path, mind: Mind, modes: tuple[str, ...], mode: str, failed: set[str]) -> None:
    with FakeEndpoint(mind, modes=modes) as service, Replies(tmp_path / "replies.db") as replies:
        settings = JudgeSettings(base_url=service.url, model="m", max_attempts=1)
        with Endpoint(settings, replies) as endpoint:
            found = probe(endpoint.with_mode, settings)
    assert found.mode == mode
    assert {check.name for check in found.checks if not check.passed} == failed
    assert found.calls == service.calls <= 4


def test_schemas_ignored_over_the_network(tmp_path: Path) -> None:
    with FakeEndpoint(modes=("json_schema", "structured_outputs")) as service:
        service._schema = lambda request: None  # type: ignore[method-assign]
        with Replies(tmp_path / "replies.db") as replies:
            settings = JudgeSettings(base_url=service.url, model="m")
            with Endpoint(settings, replies) as endpoint:
                found = probe(endpoint.with_mode, settings)
                again = probe(endpoint.with_mode, settings)
    assert found.passed and found.mode == again.mode == "text"
    assert (found.calls, again.calls, again.cached) == (4, 0, 4)
