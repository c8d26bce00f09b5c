"""The parser of a judge's answers against 100,000 damaged texts and an oracle that shares no line with it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densedpo.keys import stream
from densedpo.labels.judges.question import CHOICES, Choice, Malformed, Said, answer_schema, read_answer

Parser = Callable[[str], Said | Malformed]

# The oracle: JSON's grammar as regular expressions, for flat objects of texts and numbers.
_SPACE = r"[ \t\n\r]*"
_TEXT = r'"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"'
_NUMBER = r"(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_MEMBER = rf"{_SPACE}{_TEXT}{_SPACE}:{_SPACE}(?:{_TEXT}|{_NUMBER}){_SPACE}"
_OBJECT = re.compile(rf"\{{{_MEMBER},{_MEMBER},{_MEMBER}\}}")
_WRAPPED = re.compile(r"\s*(?:(?!\{|```)(?:(?!</think>).)*</think>)?\s*(?:```(?:json)?(.*)```|(.*?))\s*", re.DOTALL)
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _decoded(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _PLAIN.get(found[2], found[2]), text)


def oracle(text: str) -> tuple[str, float] | None:
    """Return answer and confidence if ``text`` is valid, else None."""
    wrapped = _WRAPPED.fullmatch(text)
    assert wrapped
    inner = (wrapped[1] if wrapped[1] is not None else wrapped[2]).strip()
    found = _OBJECT.fullmatch(inner)
    if not found:
        return None
    texts, numbers = {}, {}
    for key, words, number in zip(*(found.groups()[start::3] for start in range(3)), strict=True):
        if number is None:
            texts[_decoded(key)] = _decoded(words)
        else:
            numbers[_decoded(key)] = float(number)
    if set(texts) != {"reason", "answer"} or set(numbers) != {"confidence"}:
        return None
    choice, confidence = texts["answer"], numbers["confidence"]
    return (choice, confidence) if choice in CHOICES and 0 <= confidence <= 1 else None


_REASONS = (
    "the hand melts",
    "",
    "a \"second\" head, 'first'",
    "ünï 手",
    '{"answer": "first"}',
    "x" * 200,
    "</think> ```",
)
_VALUES = (
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "01", ".5", "1.", "1.0000001", "-0.1", "1e-400",
    "0.5.5", "true", "null",
    "[]", "{}", "0x1", "\u0661", "9" * 20, "2", "1", "0",
    '"0.5"', '"first"', '"First"', '" first"', '"left"', '"tie"', '"a"',
    '"second\\u0000"', '"\\u0066irst"', '"both bad"', "first", "'first'", '"\\ud800"', '["first"]', '{"first":1}',
    '"reason"', '"answer"', '"confidence"', '"fir\nst"',
)  # fmt: skip
_PIECES = (
    '"answer": "second"', '"answer":"first",', '"confidence": 0.9,', '"code": "x"', ",", "}", "{",
    "]", "[", '"', "\\", "\0",
    "\ufeff", " ", "\n", "\xa0", "//", "/* */", "<think>", "</think>", "<think>hm</think>",
    "```json", "```", "\n```", "e9",
    "The answer is first.", "first", "\ud800", "[" * 3000, '{"a":' * 3000, "9" * 5000, "```json\n",
)  # fmt: skip
_WRAPPERS = (
    "{}", " \n{}\n", "```json\n{}\n```", "<think>first or second?</think>\n{}",
    "<think>{}</think>", "first, I think\n</think>\n{}", "```\n{}\n```", "[{}]",
    "Sure! {}", "{} I hope this helps.", "{}{}", "{}\n{}", "<think>a</think><think>b</think>{}", '"{}"',
    "<think>```json</think>```json{}```", "```json\n{}\n```\n```json\n{}\n```",
    "  <think>\n{}\n</think>\n\n```json\n{}\n```  ",
)  # fmt: skip


def cases(number: int) -> Iterator[str]:
    """Yield valid answers, most of them damaged in one to four ways."""
    rng = stream("judge answers", "fuzz")
    for _ in range(number // 100):
        yield from map(_case, rng.integers(0, 2**31, (100, 24)).tolist())


def _case(draws: list[int]) -> str:
    draw = draws.pop
    members = [
        f'"reason": {json.dumps(_of(_REASONS, draw()), ensure_ascii=bool(draw() % 2))}',
        f'"answer": "{_of(CHOICES, draw())}"',
        f'"confidence": {_of(("0.5", "1", "0", "0.25", "1.0", "9e-1"), draw())}',
    ]
    turned = draw() % 3
    members = members[turned:] + members[:turned]
    kind = draw() % 8
    if kind == 0:
        members[draw() % 3] = f'"{_of(("answer", "confidence", "reason"), draw())}": {_of(_VALUES, draw())}'
    elif kind == 1:
        members.insert(
            draw() % 4, f'"{_of(("answer", "confidence", "reason", "more"), draw())}": {_of(_VALUES, draw())}'
        )
    elif kind == 2:
        del members[draw() % 3]
    text = "{" + ", ".join(members) + "}"
    for _ in range(draw() % 3):
        text = _damaged(text, draw(), draw(), draw())
    if draw() % 3 == 0:
        text = _of(_WRAPPERS, draw()).replace("{}", text)
    return text


def _damaged(text: str, how: int, where: int, what: int) -> str:
    place = where % (len(text) + 1)
    way = how % 6
    if way == 0:
        return text[:place] + _of(_PIECES, what) + text[place:]
    if way == 1:
        return text[:place] + text[place + 1 + what % 3 :]
    if way == 2:
        return text[:place]
    if way == 3:
        return text[:place] + chr((32, 34, 92, 123, 125, 44, 58, 0, 48, 101)[what % 10]) + text[place + 1 :]
    if way == 4:
        return text[:place] + text[max(place - what % 40, 0) :]
    return text.replace(
        _of(('"', ":", "first", "answer", "0", " "), where), _of(("", "'", "\\", "second", "e", "\t"), what), 1
    )


def _of(options: tuple[Any, ...], number: int) -> Any:
    return options[number % len(options)]


def disagreements(parser: Parser, texts: Iterator[str]) -> tuple[list[str], int]:
    """Return the texts that ``parser`` and the oracle read differently, and how many are valid."""
    wrong, valid = [], 0
    for text in texts:
        said, expected = parser(text), oracle(text)
        valid += expected is not None
        given = (said.choice, said.confidence) if isinstance(said, Said) else None
        if given != expected:
            wrong.append(text)
    return wrong, valid


def test_a_hundred_thousand_damaged_answers() -> None:
    wrong, valid = disagreements(read_answer, cases(100_000))
    assert wrong == []
    # both kinds must be there in numbers, or the test would say little
    assert 20_000 < valid < 80_000


def _lenient(text: str) -> Said | Malformed:
    found = re.search(r'"answer"\s*:\s*"(first|second|tie|both_bad|cannot_judge)"', text)
    sure = re.search(r'"confidence"\s*:\s*([0-9.eE+-]+)', text)
    choices: dict[str, Choice] = {choice: choice for choice in CHOICES}
    try:
        return Said(choices[found[1]], float(sure[1]), "") if found and sure else Malformed("")
    except ValueError:
        return Malformed("")


def _last_key_wins(text: str) -> Said | Malformed:
    try:
        value = json.loads(text)
        if (
            set(value) == {"reason", "answer", "confidence"}
            and value["answer"] in CHOICES
            and isinstance(value["reason"], str)
        ):
            return Said(value["answer"], float(value["confidence"]), "")
    except (ValueError, TypeError, RecursionError):
        pass
    return Malformed("")


def _first_object(text: str) -> Said | Malformed:
    return read_answer(text[text.find("{") : text.find("}") + 1])


def _bad_is_tie(text: str) -> Said | Malformed:
    said = read_answer(text)
    return said if isinstance(said, Said) else Said("tie", 0.0, "")


@pytest.mark.parametrize("twin", [_lenient, _last_key_wins, _first_object, _bad_is_tie])
def test_a_sloppy_parser_is_caught(twin: Parser) -> None:
    wrong, _ = disagreements(twin, cases(3000))
    assert wrong


@given(st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    said = read_answer(text)
    assert isinstance(said, Malformed) == (oracle(text) is None)


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(CHOICES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({"reason": st.text(), "answer": _json, "confidence": _json}), st.booleans())
def test_any_values_are_read_as_the_oracle_reads_them(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    said = read_answer(text)
    assert ((said.choice, said.confidence) if isinstance(said, Said) else None) == oracle(text)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        "[" * 10_000_000,
        '{"a":' * 2_000_000,
        " " * 10_000_000,
        "<think>" * 1_400_000,
        "```json" * 1_400_000,
        '{"reason": "' + "x" * 10_000_000 + '", "answer": "first", "confidence": 1}',
        '{"reason": "", "answer": "first", "confidence": ' + "1" * 10_000_000 + "}",
    ],
    ids=["prose", "brackets", "nested", "space", "thoughts", "fences", "reason", "digits"],
)
def test_ten_megabytes_cost_next_to_nothing(text: str) -> None:
    begin = time.process_time()
    assert isinstance(read_answer(text), Malformed)
    assert time.process_time() - begin < 5.0


def test_a_code_must_be_there_and_right() -> None:
    plain = {"reason": "r", "answer": "first", "confidence": 0.5}
    coded = {"code": "k7", **plain}
    assert isinstance(read_answer(json.dumps(coded), "k7"), Said)
    assert isinstance(read_answer(json.dumps(coded), "k8"), Malformed)
    assert isinstance(read_answer(json.dumps(coded)), Malformed)
    assert isinstance(read_answer(json.dumps(plain), "k7"), Malformed)
    assert answer_schema("k7")["required"] == ["code", "reason", "answer", "confidence"]


def test_the_schema_is_strict_and_flat() -> None:
    schema = answer_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    assert schema["properties"]["answer"]["enum"] == list(CHOICES)
    assert {field["type"] for field in schema["properties"].values()} == {"string", "number"}


def test_reasons_can_be_stored() -> None:
    said = read_answer(json.dumps({"reason": "\0a\ud800b" + "é" * 900, "answer": "tie", "confidence": 1}))
    assert isinstance(said, Said)
    assert said.reason.startswith("a?b") and len(said.reason) == 500
    assert np.isclose(said.confidence, 1.0)
