"""Bodies of requests and responses: what services are sent, and what is made of what they send back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.labels.judges.asking import question

from densedpo.labels.judges.replies import Replies
from densedpo.labels.judges.wire import StructuredMode, UnreadableError, reply_in, reply_of, request_of


def completion(**changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    return {"choices": [choice | changes], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


@pytest.mark.parametrize(
    ("mode", "field"), [("json_schema", "response_format"), ("structured_outputs", "structured_outputs"), ("text", "")]
)
def test_the_schema_is_asked_for_in_one_way(mode: StructuredMode, field: str) -> None:
    asked = question()
    body = request_of(asked, "m", mode)
    assert {"response_format", "structured_outputs"} & set(body) == ({field} if field else set())
    system, user = body["messages"]
    assert (json.dumps(asked.schema) in system["content"]) == (mode == "text")
    assert [part["type"] for part in user["content"]] == ["text", *["image_url"] * 4]
    assert user["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_a_whole_answer() -> None:
    reply = reply_of(json.dumps(completion()).encode())
    assert (reply.outcome, reply.text, reply.tokens) == ("ok", "yes", {"input": 7, "output": 3})
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, {"type": "text", "text": "b"}]
    assert reply_in(completion(message={"content": parts})).text == "ab"
    assert reply_in(completion(message={"content": None})).text == ""


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"message": {"content": None, "refusal": "no"}}, "refused"),
        ({"message": {"content": "x", "refusal": "no\nno"}}, "refused"),
        ({"finish_reason": "content_filter"}, "refused"),
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": None}, "ok"),
    ],
)
def test_other_ends(changes: dict[str, Any], outcome: str) -> None:
    reply = reply_in(completion(**changes))
    assert reply.outcome == outcome and "\n" not in reply.why


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": {"message": 1}}',
        b'{"error": {"message": "overloaded"}}',
        json.dumps(completion()).encode()[:-9],
        b"[" * 200_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_completion_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError) as caught:
        reply_of(body)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 2},
              {"prompt_tokens": float("nan"), "completion_tokens": 2}, {"prompt_tokens": True, "completion_tokens": 2},
              {"prompt_tokens": 10**12, "completion_tokens": 2}],
)  # fmt: skip
def test_a_count_that_makes_no_sense_is_none(usage: Any) -> None:
    assert reply_in(completion() | {"usage": usage}).tokens == {}


@pytest.mark.parametrize("said", ["\ud800 {}", "fir\0st", '{"answer": "\udfff"}'])
def test_what_is_said_can_be_stored_and_becomes_no_answer_by_it(said: str, tmp_path: Path) -> None:
    bodies = [completion(message={"content": said}), completion(message={"content": None, "refusal": said})]
    replies = [reply_of(json.dumps(body).encode()) for body in bodies]
    with Replies(tmp_path / "replies.db") as store:
        for number, reply in enumerate(replies):
            store.keep(f"k{number}", "m", reply).result(timeout=60)
    assert len(replies[0].text) == len(said)
    assert "\0" not in replies[1].why
