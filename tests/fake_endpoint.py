"""An OpenAI-compatible service on this machine that really looks at the images, counts, and can misbehave by a plan.

``FakeEndpoint`` runs in a thread; ``python -m tests.fake_endpoint --latency-s 0.2`` in a process of its own, printing
its port. It answers by the JSON schema it is given, as its ``mind`` says; ``plan`` names shares of calls that go wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import email.utils
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.keys import stream

Frames = NDArray[np.uint8]
Said = dict[str, Any] | str
GARBLED = ("prose", "nan", "enum", "half", "empty")  # the call succeeds, the text is no answer
SPOKEN = ("refusal", "filter", "length")  # outcomes of their own
BROKEN = (  # the call fails
    "429", "429_after", "429_date", "500", "502", "timeout", "reset", "reset_mid", "drip", "html", "cut", "huge",
    "empty_body",
)  # fmt: skip
MISBEHAVIOURS = (*BROKEN, *GARBLED, *SPOKEN)
_HUGE = 10_000_000


@dataclass(frozen=True)
class Asked:
    """A question as a model sees it: frames [T, H, W, 3] of the first and second clip, all words, the schema if any."""

    first: Frames
    second: Frames
    words: str
    schema: Mapping[str, Any] | None
    number: int


Mind = Callable[[Asked], Said]


def honest(asked: Asked) -> Said:
    """Look where the clips differ: prefer what is sharper there and neither jumps nor stands still.

    Clips that hardly differ tie, a still one never wins, and one frame cannot be judged.
    """
    if len(asked.first) < 2:
        return _answer("cannot_judge")
    first, second = asked.first.astype(np.float64), asked.second.astype(np.float64)
    where = (np.abs(first - second).mean(axis=3) > 8).any(axis=0)
    if where.mean() < 0.01:
        return _answer("tie")
    (one, one_still), (other, other_still) = _quality(first, where), _quality(second, where)
    lead = one - other
    if abs(lead) <= 0.05 or (one_still if lead > 0 else other_still):
        return _answer("tie")
    return _answer("first" if lead > 0 else "second", confidence=float(1 - 0.5 * np.exp(-abs(lead))))


def _quality(clip: NDArray[np.float64], where: NDArray[np.bool_]) -> tuple[float, bool]:
    """Return how good a clip [T, H, W, 3] is ``where`` [H, W] it counts, and whether it stands still."""
    luma = clip.mean(axis=3)
    steps = np.abs(np.diff(clip, axis=0)).mean(axis=3)[:, where].mean(axis=1)
    edges = (np.abs(np.gradient(luma, axis=1)) + np.abs(np.gradient(luma, axis=2)))[:, where].mean(axis=1)
    held = float((steps < 0.25).mean())
    return float(4 * np.log(edges.min() + 0.1) - np.log(steps.max() + 1)) - 6 * held, held == 1


def steady(asked: Asked) -> Said:
    """Prefer the clip whose brightness changes less; quick, and right about flicker."""
    first, second = (float(np.abs(np.diff(clip.mean(axis=(1, 2, 3)))).mean()) for clip in (asked.first, asked.second))
    return _answer("tie" if abs(first - second) < 1 else "first" if first < second else "second")


def always_first(asked: Asked) -> Said:
    """Prefer the first clip, whatever it shows."""
    del asked
    return _answer("first")


def blind(asked: Asked) -> Said:
    """Say tie without looking."""
    del asked
    return _answer("tie")


def chatty(asked: Asked) -> Said:
    """Ignore the schema."""
    del asked
    return "I think that the first one looks nicer, but both are fine."


def biased(share: float, mind: Mind = honest) -> Mind:
    """Return a mind that says "first" in a share of all questions, and otherwise what ``mind`` says."""

    def say(asked: Asked) -> Said:
        lucky = float(stream("fake", "bias", asked.number).uniform()) < share
        return _answer("first") if lucky else mind(asked)

    return say


def noisy(share: float, mind: Mind = honest) -> Mind:
    """Return a mind that guesses in a share of all questions."""

    def say(asked: Asked) -> Said:
        rng = stream("fake", "noise", asked.number)
        guesses = float(rng.uniform()) < share
        return _answer(str(rng.choice(["first", "second", "tie"]))) if guesses else mind(asked)

    return say


def obedient(asked: Asked) -> Said:
    """Do what is written in the pictures (steady white with a dark edge is taken for writing), else be honest."""
    return _answer("first") if _has_writing(asked.first) or _has_writing(asked.second) else honest(asked)


def _has_writing(frames: Frames) -> bool:
    luma = frames.mean(axis=3)
    white, dark = luma.min(axis=0) > 215, (luma.max(axis=0) < 70).astype(np.uint8)
    return float((white & (cv2.dilate(dark, np.ones((7, 7), np.uint8)) > 0)).mean()) > 0.002


def _answer(choice: str, confidence: float = 0.8) -> dict[str, Any]:
    return {"reason": "what the frames show", "answer": choice, "confidence": confidence}


@dataclass
class Record:
    """What happened: calls by question, what was done to each call, replies sent whole, tokens charged."""

    calls: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    keys: set[str] = field(default_factory=set)
    times_s: list[float] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)


class FakeEndpoint:
    """The service in a thread; use it in a ``with`` statement. ``record`` says what happened."""

    def __init__(
        self,
        mind: Mind = honest,
        plan: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        latency_s: float = 0.0,
        retry_after_s: float = 0.0,
        hang_s: float = 30.0,
        drip_s: float = 0.02,
        tokens: tuple[int, int] = (1000, 20),
        usage: bool = True,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        models: tuple[str, ...] = (),
        modes: tuple[str, ...] = ("json_schema", "structured_outputs"),
        new_limit: bool = False,
        redirect_to: str = "",
        error: tuple[int, str] | None = None,
        keep_requests: bool = False,
        look: bool = True,
        at_call: Mapping[int, Callable[[FakeEndpoint], None]] | None = None,
    ) -> None:
        """``at_call`` changes the service as the call of that number arrives, counted from 1, before it is answered."""
        self.mind, self.plan, self.seed = mind, dict(plan or {}), seed
        assert set(self.plan) <= set(MISBEHAVIOURS) and sum(self.plan.values()) <= 1
        self.latency_s, self.retry_after_s, self.hang_s, self.drip_s = latency_s, retry_after_s, hang_s, drip_s
        self.tokens, self.usage, self.headers = tokens, usage, dict(headers or {})
        self.key, self.models, self.modes = key, models, modes
        self.new_limit, self.redirect_to, self.error = new_limit, redirect_to, error
        self.keep_requests, self.look = keep_requests, look
        self.at_call = dict(at_call or {})
        self.record = Record()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="fake endpoint", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        return len(self.record.times_s)  # unlike a sum over a dict, safe while the service's thread adds to it

    def cost(self, price_input: float, price_output: float) -> float:
        """Return what the service charged, in dollars, at prices a million tokens."""
        return (self.record.charged["input"] * price_input + self.record.charged["output"] * price_output) / 1e6

    def __enter__(self) -> FakeEndpoint:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=2**26, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the service ends
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; say whether the connection may go on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        record = self.record
        record.at_once += 1
        record.most_at_once = max(record.most_at_once, record.at_once)
        record.times_s.append(time.monotonic())
        record.keys.add(head[0].split(" ")[1] + " " + fields.get("authorization", ""))
        try:
            return await self._respond(head[0].split(" ")[1], fields, body, writer)
        finally:
            record.at_once -= 1

    async def _respond(self, path: str, fields: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        request = json.loads(body)
        question = hashlib.sha256(body).hexdigest()  # the same question has the same body
        self.record.calls[question] += 1
        if happens := self.at_call.pop(self.calls, None):
            happens(self)
        if self.keep_requests:
            self.record.requests.append(request)
        kind = self._kind(question)
        self.record.done[kind] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        refused = self._refused(path, fields, request)
        if refused is not None:
            return await self._send(writer, *refused)
        if self.redirect_to:
            return await self._send(writer, 307, b"", headers={"Location": f"{self.redirect_to}/chat/completions"})
        if kind in BROKEN:
            return await self._break(kind, request, writer)
        reply = self._completion(request, kind)
        self._charge()
        sent = await self._send(writer, 200, json.dumps(reply).encode())
        if kind not in GARBLED:
            self.record.whole[question] += 1
        return sent

    def _kind(self, question: str) -> str:
        drawn = float(stream(self.seed, "fake trouble", question, self.record.calls[question]).uniform())
        for kind, share in self.plan.items():
            drawn -= share
            if drawn < 0:
                return kind
        return "ok"

    def _refused(self, path: str, fields: Mapping[str, str], request: Mapping[str, Any]) -> tuple[int, bytes] | None:
        def error(status: int, message: str) -> tuple[int, bytes]:
            return status, json.dumps({"error": {"message": message, "code": None}}).encode()

        if self.key is not None and fields.get("authorization") != f"bearer {self.key}".lower():
            return error(401, "Incorrect API key provided")
        if path != "/v1/chat/completions":
            return error(404, f"no such path {path}")
        if self.models and request.get("model") not in self.models:
            return error(404, f"The model {request.get('model')!r} does not exist")
        if self.new_limit and "max_tokens" in request:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if self.error is not None:
            return error(*self.error)
        if "json_schema" not in self.modes and "response_format" in request:
            return error(400, "response_format is not supported")
        return None

    def _charge(self) -> None:
        self.record.charged["input"] += self.tokens[0]
        self.record.charged["output"] += self.tokens[1]

    async def _break(self, kind: str, request: Mapping[str, Any], writer: asyncio.StreamWriter) -> bool:
        if kind.startswith("429"):
            date = email.utils.formatdate(time.time() + self.retry_after_s, usegmt=True)
            waits = {
                "429": {},
                "429_after": {"Retry-After": f"{self.retry_after_s:g}"},
                "429_date": {"Retry-After": date},
            }
            return await self._send(writer, 429, b'{"error": {"message": "slow down"}}', headers=waits[kind])
        if kind in ("500", "502"):
            return await self._send(writer, int(kind), b"<html>bad gateway</html>", content_type="text/html")
        if kind == "html":
            return await self._send(writer, 200, b"<html>please log in</html>", content_type="text/html")
        if kind == "empty_body":
            return await self._send(writer, 200, b"")
        if kind == "reset":
            return self._reset(writer)
        # from here on the model has worked, and the service charges for it
        self._charge()
        reply = json.dumps(self._completion(request, "ok")).encode()
        if kind == "timeout":
            await asyncio.sleep(self.hang_s)
        elif kind == "cut":
            return await self._send(writer, 200, reply[: len(reply) // 2])
        elif kind == "huge":
            padded = json.dumps(self._completion(request, "ok") | {"padding": "x" * _HUGE}).encode()
            return await self._send(writer, 200, padded)
        elif kind == "reset_mid":
            writer.write(self._head(200, len(reply), "application/json") + reply[: len(reply) // 2])
            await writer.drain()
            return self._reset(writer)
        elif kind == "drip":
            writer.write(self._head(200, len(reply) + 2000, "application/json"))
            for place in range(len(reply)):
                writer.write(reply[place : place + 1])
                await writer.drain()
                await asyncio.sleep(self.drip_s)
        return False

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> bool:
        taken = writer.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False

    def _head(self, status: int, length: int, content_type: str, headers: Mapping[str, str] | None = None) -> bytes:
        lines = {"Content-Type": content_type, "Content-Length": str(length), **self.headers, **(headers or {})}
        text = f"HTTP/1.1 {status} status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{text}\r\n".encode()

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        writer.write(self._head(status, len(body), content_type, headers) + body)
        await writer.drain()
        return True

    def _completion(self, request: Mapping[str, Any], kind: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._text(request, kind)}
        finish = {"filter": "content_filter", "length": "length"}.get(kind, "stop")
        if kind == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        reply = {
            "id": "fake", "object": "chat.completion", "created": 0, "model": request["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        }  # fmt: skip
        if self.usage:
            spent, said = self.tokens
            reply["usage"] = {"prompt_tokens": spent, "completion_tokens": said, "total_tokens": spent + said}
        return reply

    def _text(self, request: Mapping[str, Any], kind: str) -> str:
        if kind == "prose":
            return "The first clip is better, I would say."
        if kind == "empty":
            return ""
        said = self.mind(self._asked(request)) if self.look else _answer("tie")
        if isinstance(said, str):
            return said
        schema = self._schema(request)
        filled = _filled(schema, said) if schema is not None else said
        if kind == "nan":
            filled["confidence"] = float("nan")
        if kind == "enum":
            filled["answer"] = "the_first_one"
        text = json.dumps(filled)
        return text[: len(text) // 2] if kind in ("half", "length") else text

    def _schema(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        found: Any = None
        if "json_schema" in self.modes and "response_format" in request:
            found = request["response_format"]["json_schema"]["schema"]
        if "structured_outputs" in self.modes and "structured_outputs" in request:
            found = request["structured_outputs"]["json"]
        return found

    def _asked(self, request: Mapping[str, Any]) -> Asked:
        words, pictures = [str(request["messages"][0]["content"])], []
        for part in request["messages"][1]["content"]:
            if part["type"] == "text":
                words.append(part["text"])
            else:
                pictures.append(_decoded(part["image_url"]["url"]))
        text = "\n".join(words)
        if pictures and "left of the white line" in text:
            width = pictures[0].shape[1] // 2
            first, second = (
                [image[:, : width - 2] for image in pictures],
                [image[:, -(width - 2) :] for image in pictures],
            )
        else:
            first, second = pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]
        return Asked(np.stack(first), np.stack(second), text, self._schema(request), self.calls)


def _decoded(url: str) -> Frames:
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert found is not None
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.uint8)


def _filled(schema: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of the schema, in its order: what was said, or the only value that a field may have."""
    fields = schema["properties"]
    return {name: said.get(name, fields[name].get("enum", [""])[0]) for name in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.0)
    chosen = parser.parse_args()
    with FakeEndpoint(latency_s=chosen.latency_s, look=False) as service:
        sys.stdout.write(f"{service.port}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until whoever started it goes


if __name__ == "__main__":
    main()
