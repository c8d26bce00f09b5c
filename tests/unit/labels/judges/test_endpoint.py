"""The endpoint against a service that misbehaves in every way known, and one that says no for good."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.fake_endpoint import BROKEN, GARBLED, FakeEndpoint, blind
from tests.unit.labels.judges.asking import question, settings

from densedpo.errors import ConfigError
from densedpo.labels.judges.answerer import Reply
from densedpo.labels.judges.base import ServiceError
from densedpo.labels.judges.endpoint import Endpoint
from densedpo.labels.judges.question import is_malformed
from densedpo.labels.judges.replies import Replies

Open = Callable[..., Endpoint]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens endpoints on one store of replies, and closes them."""
    with ExitStack() as stack:
        replies = stack.enter_context(Replies(tmp_path / "replies.db"))

        def open_one(fake: FakeEndpoint, **changes: Any) -> Endpoint:
            return stack.enter_context(Endpoint(settings(fake.url, **changes), replies, backoff_s=0.01))

        yield open_one


def test_a_reply_is_read_counted_and_known_from_then_on(opened: Open) -> None:
    with FakeEndpoint(blind, keep_requests=True) as fake:
        endpoint = opened(fake, price_input=2.0, price_output=10.0)
        reply = endpoint.ask(question())
        assert json.loads(reply.text)["answer"] == "tie"
        assert (reply.outcome, reply.calls, reply.cached) == ("ok", 1, False)
        assert reply.tokens == {"input": 1000, "output": 20}
        assert reply.cost == pytest.approx(1000 * 2e-6 + 20 * 10e-6)
        again = endpoint.ask(question())
        assert (again.text, again.cached, again.calls, again.cost) == (reply.text, True, 0, 0.0)
        other = opened(fake).ask(question())
        assert other.cached and fake.calls == 1
        assert (endpoint.meter.calls, endpoint.meter.cached) == (1, 1)
        (request,) = fake.record.requests
    assert request["response_format"]["json_schema"]["strict"] is True
    assert request["max_tokens"] == 100 and "temperature" not in request
    kinds = [part["type"] for part in request["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "image_url", "image_url", "image_url"]


def test_another_model_mode_or_address_is_another_question(opened: Open) -> None:
    with FakeEndpoint(blind) as fake, FakeEndpoint(blind) as elsewhere:
        endpoint = opened(fake)
        endpoint.ask(question())
        assert not endpoint.with_mode("structured_outputs").ask(question()).cached
        assert not opened(fake, model="large").ask(question()).cached
        assert not opened(elsewhere).ask(question()).cached
        assert not endpoint.with_mode("json_schema", recall=False).ask(question()).cached
        assert endpoint.with_mode("json_schema").ask(question()).cached


def test_several_are_asked_at_once_as_far_as_allowed(opened: Open) -> None:
    with FakeEndpoint(blind, latency_s=0.5) as fake:
        replies = opened(fake, parallel=3).ask_all([question(number) for number in range(5)])
        assert [(reply.outcome, reply.calls) for reply in replies] == [("ok", 1)] * 5
        assert (fake.calls, fake.record.most_at_once) == (5, 3)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_breaks_is_sent_again(opened: Open, kind: str) -> None:
    with FakeEndpoint(blind, {kind: 0.5}, hang_s=6.0, drip_s=0.05, retry_after_s=0.0) as fake:
        late = kind in ("timeout", "drip")
        endpoint = opened(fake, timeout_s=1.5 if late else 20.0, max_attempts=30)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(endpoint.ask, map(question, range(8))))
        assert {reply.outcome for reply in replies} == {"ok"}
        assert all(json.loads(reply.text)["answer"] == "tie" for reply in replies)
        assert fake.record.done[kind] > 0, "nothing was broken"
        assert sum(reply.calls for reply in replies) == endpoint.meter.calls == fake.calls
        # on a busy machine a whole answer may come too late as well
        assert late or set(fake.record.whole.values()) == {1}


@pytest.mark.parametrize(("kind", "outcome"), [("refusal", "refused"), ("filter", "refused"), ("length", "truncated")])
def test_what_the_model_will_not_say_is_an_outcome(opened: Open, kind: str, outcome: str) -> None:
    with FakeEndpoint(blind, {kind: 1.0}) as fake:
        endpoint = opened(fake)
        assert endpoint.ask(question()).outcome == outcome
        assert endpoint.ask(question()).cached
        # more room changes what was cut, and nothing else
        assert endpoint.ask(question(max_output_tokens=500)).cached == (outcome == "refused")


@pytest.mark.parametrize("kind", GARBLED)
def test_a_slip_of_the_model_is_asked_again_and_a_habit_is_not(opened: Open, kind: str) -> None:
    with FakeEndpoint(blind, {kind: 1.0}) as fake:
        endpoint = opened(fake)
        reply = endpoint.ask(question())
        assert (reply.outcome, reply.calls, fake.calls) == ("ok", 3, 3)
        assert endpoint.ask(question()).cached
        assert opened(fake, max_attempts=1).ask(question(1)).calls == 1
        fake.plan = {kind: 0.3}
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(endpoint.ask, map(question, range(2, 30))))
        assert 28 < sum(reply.calls for reply in replies) < 50
        right = sum(not is_malformed(question().schema, reply.text) for reply in replies)
        assert right >= 25


def test_a_failure_is_never_stored_and_asked_again(opened: Open) -> None:
    with FakeEndpoint(blind, {"500": 1.0}) as fake:
        endpoint = opened(fake, max_attempts=3)
        reply = endpoint.ask(question())
        assert (reply.outcome, reply.text, reply.calls) == ("failed", "", 3)
        assert "status 500" in reply.why
        fake.plan = {}
        assert endpoint.ask(question()).outcome == "ok"


def test_a_drip_ends_with_the_deadline(opened: Open) -> None:
    with FakeEndpoint(blind, {"drip": 1.0}, drip_s=0.05) as fake:
        endpoint = opened(fake, timeout_s=0.5, max_attempts=1)
        began = time.monotonic()
        assert endpoint.ask(question()).outcome == "failed"
        assert time.monotonic() - began < 5  # the whole answer would take 20 s, and every byte comes in time


@pytest.mark.parametrize("kind", ["429_after", "429_date"])
def test_retry_after_is_heeded_by_everybody(opened: Open, kind: str) -> None:
    with FakeEndpoint(blind, {kind: 1.0}, retry_after_s=2.0) as fake:
        endpoint = opened(fake, max_attempts=50)
        with ThreadPoolExecutor(6) as pool:
            waiting = [pool.submit(endpoint.ask, question(0))]
            while not fake.calls:
                time.sleep(0.01)
            time.sleep(0.2)
            first = len(fake.record.times_s)
            fake.plan = {}
            waiting += [pool.submit(endpoint.ask, question(number)) for number in range(1, 6)]
            assert all(item.result().outcome == "ok" for item in waiting)
        told, after = fake.record.times_s[first - 1], fake.record.times_s[first]
    # a date is of whole seconds
    assert after - told >= (1.9 if kind == "429_after" else 0.9)


def test_a_service_that_says_what_is_left_gets_no_more(opened: Open) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "600ms"}
    with FakeEndpoint(blind, headers=headers) as fake:
        endpoint = opened(fake)
        endpoint.ask(question(0))
        fake.headers = {}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(endpoint.ask, map(question, range(1, 5))))
        first, second = fake.record.times_s[:2]
    assert second - first >= 0.55


def no_for_good(fake: FakeEndpoint, opened: Open, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(fake, **changes).ask(question())
    assert fake.calls == 1, "it was asked again"
    text = str(caught.value)
    assert "\n" not in text and f"127.0.0.1:{fake.port}" in text and "OPENAI_API_KEY" in text
    return text


def test_a_wrong_key_stops_at_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FakeEndpoint(blind, key="sk-right") as fake:
        assert "401" in (text := no_for_good(fake, opened)) and "sk-" not in text
    monkeypatch.setenv("OTHER_KEY", "sk-right")
    with FakeEndpoint(blind, key="sk-right") as fake:
        assert opened(fake, key_variable="OTHER_KEY").ask(question()).outcome == "ok"


def test_a_key_that_is_withdrawn_ends_the_run_with_what_it_has(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    with FakeEndpoint(blind, key="sk-right") as fake:
        endpoint = opened(fake)
        endpoint.ask(question(0))
        fake.key = "sk-other"
        with pytest.raises(ServiceError, match=r"OPENAI_API_KEY.*401"):
            endpoint.ask(question(1))


def test_an_unknown_model_or_path_stops_at_once(opened: Open) -> None:
    with FakeEndpoint(blind, models=("large",)) as fake:
        assert "'tiny'" in no_for_good(fake, opened)
    with FakeEndpoint(blind) as fake:
        no_for_good(fake, opened, base_url=fake.url.removesuffix("/v1"))


def test_a_request_that_is_not_taken_stops_at_once_unless_others_were(opened: Open) -> None:
    with FakeEndpoint(blind, modes=()) as fake:
        endpoint = opened(fake)
        with pytest.raises(ConfigError, match="400"):
            endpoint.ask(question())
        in_words = endpoint.with_mode("text")
        assert json.loads(in_words.ask(question()).text)["answer"] == "tie"
        # now it is this question's fault
        reply = endpoint.ask(question())
        assert (reply.outcome, reply.calls) == ("failed", 1)


def test_the_limit_goes_by_the_name_that_the_service_knows(opened: Open) -> None:
    with FakeEndpoint(blind, keep_requests=True, new_limit=True) as fake:
        endpoint = opened(fake)
        with ThreadPoolExecutor(4) as pool:
            assert {reply.outcome for reply in pool.map(endpoint.ask, map(question, range(4)))} == {"ok"}
        assert fake.calls <= 8
        assert endpoint.ask(question(4)).calls == 1
        assert "max_completion_tokens" in fake.record.requests[-1]


def test_too_long_a_question_is_no_reason_to_ask_again_and_again(opened: Open) -> None:
    too_long = "'max_tokens' or 'max_completion_tokens' is too large: the model's context is 4096 tokens"
    with FakeEndpoint(blind, error=(400, too_long)) as fake:
        with pytest.raises(ConfigError, match=r"status 400: 'max_tokens' or .* 4096 tokens\).*judge\.frames_per_s"):
            opened(fake).ask(question())
        assert fake.calls == 2, "once by each name of the limit"


@pytest.mark.parametrize("key", ["sk-\u043a\u043b\u044e\u0447", "sk one\ntwo", "sk\x00"])
def test_a_key_that_cannot_be_sent_is_named(opened: Open, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr("os.environ", {**os.environ, "OPENAI_API_KEY": key})
    with FakeEndpoint(blind) as fake, pytest.raises(ConfigError, match=r"key_variable: \$OPENAI_API_KEY") as caught:
        opened(fake)
    assert key not in str(caught.value)


def test_the_blanks_around_a_key_are_no_part_of_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-right\n")
    with FakeEndpoint(blind, key="sk-right") as fake:
        assert opened(fake).ask(question()).outcome == "ok"


def test_a_service_that_is_down_stops_everything(opened: Open) -> None:
    with FakeEndpoint(blind, {"502": 1.0}) as fake:
        endpoint = opened(fake, max_attempts=2)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(endpoint.ask, question(number)) for number in range(40)]
            errors = [item.exception() for item in found]
        assert isinstance(errors[0], ServiceError | None)
        (text,) = {str(error) for error in errors if error is not None} or {""}
        assert fake.calls <= 2 * (8 + 4), "it went on asking"
        assert fake.url in text and "in a row" in text and "502" in text


def test_nobody_listens(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEndpoint(blind) as fake:
        pass
    endpoint = opened(fake, max_attempts=2)
    reply = endpoint.ask(question())
    assert reply.outcome == "failed" and "no connection" in reply.why
    assert reply.cost == 0.0
    with pytest.raises(ServiceError, match="2 questions in a row"):
        endpoint.ask(question(1))
    assert capsys.readouterr().err.count("does not answer yet") == 1


def test_https_where_http_is_spoken_stops_at_once(opened: Open) -> None:
    class Plain(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as plain, FakeEndpoint(blind) as fake:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{plain.server_port}/v1"
        with pytest.raises(ConfigError, match=f"judge.base_url: {address} cannot be trusted .*WRONG_VERSION_NUMBER"):
            opened(fake, base_url=address).ask(question())
        plain.shutdown()


def test_closing_ends_what_is_under_way(opened: Open) -> None:
    with FakeEndpoint(blind, {"timeout": 1.0}, hang_s=60.0) as fake:
        endpoint = opened(fake, timeout_s=60.0)
        said: list[Reply] = []
        asking = threading.Thread(target=lambda: said.append(endpoint.ask(question())))
        asking.start()
        while not fake.calls:
            time.sleep(0.01)
        endpoint.close()
        asking.join(timeout=10)
        assert [reply.outcome for reply in said] == ["failed"]
        assert endpoint.ask(question()).why == "stopped"
        endpoint.close()


@pytest.mark.parametrize(("lacking", "word"), [("base_url", "--base-url"), ("model", "--model")])
def test_what_must_be_given_is_said(tmp_path: Path, lacking: str, word: str) -> None:
    chosen = settings("http://127.0.0.1:1/v1").model_copy(update={lacking: None})
    with Replies(tmp_path / "replies.db") as replies, pytest.raises(ConfigError, match=word):
        Endpoint(chosen, replies)


def test_redirects_are_not_followed(opened: Open) -> None:
    with FakeEndpoint(blind) as other, FakeEndpoint(blind, redirect_to=other.url) as fake:
        with pytest.raises(ConfigError, match=f"status 307: it sends on to {other.url}/chat/completions"):
            opened(fake).ask(question())
        assert other.calls == 0
