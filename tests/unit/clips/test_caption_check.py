from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from densedpo.clips import caption_check
from densedpo.clips.caption_check import PROMPT, check_captions, read_answer
from densedpo.config import FilterSettings
from densedpo.errors import ConfigError

Reply = Callable[[str], tuple[int, str]]


class Service:
    """An OpenAI-compatible service on this machine that answers as it is told to."""

    def __init__(self, reply: Reply) -> None:
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                caption = json.loads(request["messages"][1]["content"])
                service.asked.append(caption)
                service.requests.append(request)
                service.keys.add(self.headers["Authorization"])
                status, text = reply(caption)
                answer = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "tiny",
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    ],
                }
                body = json.dumps(answer if status == 200 else {"error": {"message": text}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("x-should-retry", "false")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def settings(self) -> FilterSettings:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return FilterSettings(caption_endpoint=url, caption_model="tiny", caption_timeout_s=5)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Service]]:
    services: list[Service] = []

    def start(reply: Reply) -> Service:
        services.append(Service(reply))
        return services[-1]

    yield start
    for service in services:
        service.close()


def by_word(caption: str) -> tuple[int, str]:
    if "dance" in caption:
        return 200, "Yes.\nLimbs move together."
    return 200, "no\nThe subject stands." if "stand" in caption else "I am not sure"


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        ("yes\nA dance.", "yes", "A dance."),
        ("**Yes**\n\nA dance.", "yes", "A dance."),
        ("<think>no, or\nyes?</think>\nNo.\nIt stands.", "no", "It stands."),
        ("<think>yes", "unclear", ""),
        ("yes, but maybe no", "unclear", "yes, but maybe no"),
        ("yes and no", "unclear", "yes and no"),
        ("not sure\nyes", "unclear", "not sure yes"),
        ("yesterday", "unclear", "yesterday"),
        ("", "unclear", ""),
    ],
)
def test_only_a_clear_yes_is_a_yes(text: str, answer: str, reason: str) -> None:
    found = read_answer(text)
    assert (found.answer, found.reason) == (answer, reason)


def test_each_caption_is_asked_once_and_remembered(
    serve: Callable[[Reply], Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    service = serve(by_word)
    captions = ["they dance", "they stand", "they dance", "sky"]
    found = check_captions(captions, service.settings, tmp_path)
    assert {caption: verdict.answer for caption, verdict in found.items()} == {
        "they dance": "yes",
        "they stand": "no",
        "sky": "unclear",
    }
    assert sorted(service.asked) == ["sky", "they dance", "they stand"]
    assert service.keys == {"Bearer a-key"}
    assert service.requests[0]["model"] == "tiny"
    assert service.requests[0]["messages"][0] == {"role": "system", "content": PROMPT}
    assert check_captions(captions, service.settings, tmp_path) == found
    assert len(service.asked) == 3


def test_another_wording_or_model_asks_again(
    serve: Callable[[Reply], Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(by_word)
    check_captions(["sky"], service.settings, tmp_path)
    check_captions(["sky"], service.settings.model_copy(update={"caption_model": "large"}), tmp_path)
    monkeypatch.setattr(caption_check, "PROMPT", "Say yes or no.")
    check_captions(["sky"], service.settings, tmp_path)
    assert len(service.asked) == 3


def test_a_failure_is_no_answer_and_is_asked_again(serve: Callable[[Reply], Service], tmp_path: Path) -> None:
    broken = serve(lambda caption: (500, "overloaded") if caption == "sky" else by_word(caption))
    found = check_captions(["they dance", "sky"], broken.settings, tmp_path)
    assert [verdict.answer for verdict in found.values()] == ["yes", "failed"]
    assert "overloaded" in found["sky"].reason
    mended = serve(by_word)
    assert check_captions(["they dance", "sky"], mended.settings, tmp_path)["sky"].answer == "unclear"
    assert mended.asked == ["sky"]


@pytest.mark.parametrize(("status", "words"), [(401, ["refuses", "401", "OPENAI_API_KEY"]), (404, ["'tiny'", "404"])])
def test_a_refused_key_or_model_stops_at_once(
    serve: Callable[[Reply], Service], tmp_path: Path, status: int, words: list[str]
) -> None:
    service = serve(lambda _: (status, "no"))
    with pytest.raises(ConfigError) as failed:
        check_captions([f"caption {k}" for k in range(200)], service.settings, tmp_path)
    assert all(word in str(failed.value) for word in [*words, "filter.caption_endpoint"])
    assert len(service.asked) < 100


def test_a_service_that_is_down_is_named(serve: Callable[[Reply], Service], tmp_path: Path) -> None:
    service = serve(lambda _: (503, "down"))
    with pytest.raises(ConfigError, match="8 times in a row") as failed:
        check_captions([f"caption {k}" for k in range(40)], service.settings, tmp_path)
    assert service.settings.caption_endpoint is not None
    assert service.settings.caption_endpoint in str(failed.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_client_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    settings = FilterSettings(caption_endpoint="http://127.0.0.1:9/v1", caption_model="tiny")
    with pytest.raises(ConfigError, match=r"densedpo\[judges\]"):
        check_captions(["sky"], settings, tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"caption_endpoint": "http://x/v1"}, "belong together"),
        ({"caption_endpoint": "file:///etc", "caption_model": "m"}, "http"),
        ({"min_motion_px_s": 5, "max_motion_px_s": 4}, "above"),
    ],
)
def test_settings_that_contradict_each_other(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FilterSettings(**given)
