"""OpenAI's chat protocol as bytes: a question becomes a request's body, a response's body becomes a reply.

Pure functions; labels/judges/endpoint.py sends and receives, labels/judges/batch.py does the same through files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from densedpo.labels.judges.answerer import Image, Question, Reply
from densedpo.labels.judges.question import storable

StructuredMode = Literal["json_schema", "structured_outputs", "text"]
OutputLimit = Literal["max_tokens", "max_completion_tokens"]
CONTENT_CODES = {"content_filter", "content_policy_violation"}  # of errors that are the service's refusal to answer
_MOST_TOKENS = 10**9


class UnreadableError(ValueError):
    """What came back is no chat completion: cut, not JSON, of another shape, or an error in disguise."""


def request_of(
    question: Question, model: str, mode: StructuredMode, output_limit: OutputLimit = "max_tokens"
) -> dict[str, Any]:
    """Return the body of the request that asks ``question``.

    ``mode`` says how the schema is asked for: by ``response_format`` (portable), by vLLM's ``structured_outputs``, or
    in words alone for services that know neither.
    """
    schema = dict(question.schema)
    system = question.system
    body: dict[str, Any] = {"model": model, output_limit: question.max_output_tokens}
    if question.temperature is not None:
        body["temperature"] = question.temperature
    if mode == "json_schema":
        named = {"name": "answer", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif mode == "structured_outputs":
        body["structured_outputs"] = {"json": schema}
    else:
        system += f"\n\nAnswer with one JSON object alone, which fits this JSON schema: {json.dumps(schema)}"
    content = [_part(part) for part in question.parts]
    body["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    return body


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.data_url}}
    return {"type": "text", "text": part}


def reply_of(body: bytes) -> Reply:
    """Return the reply that a response's body holds; its cost and calls are for the caller to add.

    Raises:
        UnreadableError: if it holds none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableError(f"not JSON: {_beginning(body)}") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"not a chat completion: {_beginning(body)}")
    return reply_in(value)


def reply_in(value: Mapping[str, Any]) -> Reply:
    """Return the reply in a decoded chat completion.

    Raises:
        UnreadableError: if it holds none.
    """
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        said = value.get("error") or value
        raise UnreadableError(f"no answer in it: {one_line(json.dumps(said))}")
    text, tokens, why = _text_of(message.get("content")), _tokens_of(value.get("usage")), choice.get("finish_reason")
    refusal = message.get("refusal")
    if refusal or why == "content_filter":
        return Reply("refused", why=one_line(str(refusal or "stopped by the content filter")), tokens=tokens)
    if why == "length":
        return Reply("truncated", text, "the answer was longer than judge.max_output_tokens", tokens=tokens)
    return Reply("ok", text, tokens=tokens)


def _beginning(body: bytes) -> str:
    return one_line(body[:1000].decode("utf-8", errors="replace"))


def _text_of(content: object) -> str:
    """Return the text of a message; some services answer with a list of parts.

    Halves of surrogate pairs, which cannot be stored, become question marks; nothing is left out, for that could make
    an answer of what is none.
    """
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    whole = "".join(text for text in texts if isinstance(text, str))
    return whole.encode("utf-8", "replace").decode("utf-8")


def _tokens_of(usage: object) -> dict[str, int]:
    """Return what the service counted, ``input`` and ``output``; nothing where it did not, or made no sense."""
    given = usage if isinstance(usage, dict) else {}
    counts = {"input": given.get("prompt_tokens"), "output": given.get("completion_tokens")}
    right = {name: count for name, count in counts.items() if type(count) is int and 0 <= count <= _MOST_TOKENS}
    return right if len(right) == len(counts) else {}


def one_line(text: str, limit: int = 300) -> str:
    """Return the beginning of what a service said, on one line."""
    return storable(" ".join(text[: 4 * limit].split())[:limit]) or "nothing"
