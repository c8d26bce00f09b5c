"""The form of a vision-language model's answers, and the one strict way in which its text becomes an answer.

The schema is sent with each question (endpoints that honour schemas obey it, others read it in words), and checked
again here when the text arrives. What is not exactly one object of that form is malformed, which is an outcome of its
own and never a preference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

SCHEMA_VERSION = 1
Choice = Literal["first", "second", "tie", "both_bad", "cannot_judge"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
ANSWER_FORMAT = (
    "Answer with one JSON object and nothing else. It has exactly these fields, in this order: "
    '"reason", a text of one or two sentences that names what you saw and where; '
    f'"answer", one of {", ".join(json.dumps(choice) for choice in CHOICES)}; '
    '"confidence", a number from 0 to 1: how sure you are of the answer.'
)
_MOST_CHARACTERS = 1_000_000  # thoughts included; longer texts are not looked into
_MOST_OBJECT_CHARACTERS = 20_000
_REASON_CHARACTERS = 500
_THOUGHTS = ("<think>", "</think>")
_FENCE = "```"


@dataclass(frozen=True)
class Said:
    """A well-formed answer: the choice, the stated confidence in [0, 1] and the reason, cut to 500 characters."""

    choice: Choice
    confidence: float
    reason: str


@dataclass(frozen=True)
class Malformed:
    """No answer: ``why`` says what was wrong with the text."""

    why: str


class _MalformedError(ValueError):
    """What is wrong with a text; never leaves this module."""


def answer_schema(code: str | None = None) -> dict[str, Any]:
    """Return the strict JSON schema of an answer; with ``code`` a field that can hold nothing else is asked for too.

    A model that is not told the code in words can only give it if the endpoint enforces the schema (see probe.py).
    """
    fields: dict[str, Any] = {
        "reason": {"type": "string", "description": "one or two sentences: what was seen, and where"},
        "answer": {"type": "string", "enum": list(CHOICES), "description": "which clip has fewer artifacts"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": "how sure the answer is"},
    }
    if code is not None:
        fields = {"code": {"type": "string", "enum": [code]}, **fields}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def read_answer(text: str, code: str | None = None) -> Said | Malformed:
    """Return what ``text`` says if it is exactly one object of ``answer_schema(code)``, else what is wrong with it.

    Around the object only white space, thoughts in front that end in ``</think>`` and one fence (```` ```json ```` or
    ```` ``` ````) are allowed. The work is bounded: overlong texts are malformed unread.
    """
    try:
        return _said(_object(_unwrapped(text)), code)
    except _MalformedError as error:
        return Malformed(str(error))


def is_malformed(schema: Mapping[str, Any], text: str) -> bool:
    """Return whether ``text`` is no answer to a question with ``schema``, which ``answer_schema`` made.

    An answer that leaves out the code alone is one: it says that the schema was not enforced, and would say so again.
    """
    code = schema["properties"].get("code")
    codes = (None, code["enum"][0]) if code else (None,)
    return all(isinstance(read_answer(text, wanted), Malformed) for wanted in codes)


def _unwrapped(text: str) -> str:
    if len(text) > _MOST_CHARACTERS:
        raise _MalformedError(f"longer than {_MOST_CHARACTERS} characters")
    inner = text.strip()
    if not inner.startswith(("{", _FENCE)):
        # some models' chat templates open the thoughts, so that only their end is in the answer
        _, closed, answer = inner.partition(_THOUGHTS[1])
        if inner.startswith(_THOUGHTS[0]) and not closed:
            raise _MalformedError("its thoughts do not end")
        inner = answer.strip() if closed else inner
    if inner.startswith(_FENCE) and inner.endswith(_FENCE):
        inner = inner[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
    if len(inner) > _MOST_OBJECT_CHARACTERS:
        raise _MalformedError(f"the object is longer than {_MOST_OBJECT_CHARACTERS} characters")
    return inner


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except _MalformedError:
        raise
    except RecursionError:
        raise _MalformedError("nested too deeply") from None
    except ValueError as error:  # also numbers of thousands of digits
        raise _MalformedError(f"not one JSON object: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise _MalformedError("not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _MalformedError("a field is there twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise _MalformedError(f"{name} is not a JSON number")


def _said(given: Mapping[str, Any], code: str | None) -> Said:
    wanted = answer_schema(code)["required"]
    if set(given) != set(wanted):
        raise _MalformedError(f"its fields are not {', '.join(wanted)}")
    reason, choice, confidence = given["reason"], given["answer"], given["confidence"]
    if code is not None and given["code"] != code:
        raise _MalformedError("the code is another")
    if not isinstance(reason, str):
        raise _MalformedError("reason is not a text")
    if choice not in CHOICES:
        raise _MalformedError(f"answer is none of {', '.join(CHOICES)}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise _MalformedError("confidence is not a number")
    if not 0 <= confidence <= 1:
        raise _MalformedError("confidence is not within 0 and 1")
    return Said(choice, float(confidence), storable(reason)[:_REASON_CHARACTERS])


def storable(text: str) -> str:
    """Return ``text`` without what databases refuse: NUL and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
