"""Requests made up from our own OpenAPI schema, valid and not: never a server error, always the one error shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.labels.people.conftest import OpenOffice, Worker

from densedpo.labels.people.app import make_app
from densedpo.labels.people.roster import Role

ODD: list[Any] = [
    None, True, -1, 0, 2**63, 1e308, "", "\x00", "\ud800", "a" * 300, "../../etc/passwd", "<script>alert(1)</script>",
    "' OR 1=1 --", [], {}, [[[[]]]], {"$ref": "x"}, "NaN", "é", "\u202e",
]  # fmt: skip
junk = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def value(schema: dict[str, Any], defined: dict[str, Any], known: list[str]) -> st.SearchStrategy[Any]:
    """Return values that fit a JSON schema, often with ids that the server really gave out."""
    if "$ref" in schema:
        return value(defined[schema["$ref"].rsplit("/", 1)[1]], defined, known)
    if "anyOf" in schema:
        return st.one_of(*(value(option, defined, known) for option in schema["anyOf"]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        fields = {name: value(part, defined, known) for name, part in schema.get("properties", {}).items()}
        needed = {name: fields[name] for name in schema.get("required", [])}
        return st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields if name not in needed})
    if kind == "array":
        return st.lists(value(schema["items"], defined, known), min_size=schema.get("minItems", 0), max_size=4)
    if kind == "integer":
        return st.integers(int(schema.get("minimum", -5)), int(schema.get("maximum", 5)))
    if kind == "number":
        return st.floats(schema.get("minimum", -5.0), schema.get("maximum", 5.0), allow_nan=False)
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    if "pattern" in schema:
        return st.sampled_from(known) | st.from_regex(schema["pattern"], fullmatch=True)
    return st.text(max_size=40)


def broken(form: Any, draw: st.DrawFn) -> Any:
    """Return a form in which one field is something else, gone, or too much."""
    if not isinstance(form, dict) or not form:
        return draw(junk)
    name = draw(st.sampled_from(sorted(form)))
    change = draw(st.sampled_from(["junk", "gone", "extra", "inner"]))
    if change == "inner" and isinstance(form[name], list) and form[name]:
        return {**form, name: [broken(form[name][0], draw), *form[name][1:]]}
    if change == "gone":
        return {key: item for key, item in form.items() if key != name}
    return {**form, ("surprise" if change == "extra" else name): draw(junk)}


@pytest.mark.parametrize("as_role", ["annotator", "admin"])
def test_no_request_is_a_server_error(open_page: OpenOffice, as_role: Role) -> None:
    office = open_page()
    worker = Worker(office, "ann", office.roster.invite("ann", as_role))
    known = [task["task_id"] for task in worker.next(count=3)]
    schema = make_app(office).openapi()
    defined = schema["components"]["schemas"]
    routes = [(path, method, spec) for path, item in schema["paths"].items() for method, spec in item.items()]
    assert len(routes) >= 11
    seen: set[int] = set()

    @st.composite
    def request(draw: st.DrawFn) -> tuple[str, str, Any, dict[str, Any]]:
        path, method, spec = draw(st.sampled_from(routes))
        form: Any = None
        if "requestBody" in spec:
            form = draw(value(spec["requestBody"]["content"]["application/json"]["schema"], defined, known))
            if draw(st.booleans()):
                form = broken(form, draw)
        query = {}
        for parameter in spec.get("parameters", []):
            given_value = draw(value(parameter["schema"], defined, known) | st.sampled_from(["", "x", "-1", "9" * 40]))
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", draw(st.sampled_from([*known, "x", "%00", "é"])))
            else:
                query[parameter["name"]] = given_value
        return method, path, form, query

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(request())
    def check(made: tuple[str, str, Any, dict[str, Any]]) -> None:
        import json

        method, path, form, query = made
        # what a hostile program could send: lone surrogates and numbers without end included
        body = None if form is None else json.dumps(form).encode()
        reply = worker.client.request(
            method.upper(), path, content=body, params=query, headers={"Content-Type": "application/json"}
        )
        seen.add(reply.status_code)
        assert reply.status_code < 500, reply.text
        if reply.status_code >= 400:
            assert set(reply.json()) <= {"error", "needs_token"}
            assert "\n" not in reply.json()["error"]
        if path == "/api/signout":
            worker.client.post("/api/session", json={"token": office.roster.invite("ann", as_role)})

    check()
    assert {200, 422, 404} <= seen


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'"x"', b'{"name": "' + b"\\ud800" * 3 + b'"}', b"1e99999",
     b"NaN", b'{"name": NaN}', b'{"a":' * 5000, b'{"name": ' + b"9" * 100_000 + b"}"],
)  # fmt: skip
def test_bodies_that_are_no_forms(open_page: OpenOffice, body: bytes) -> None:
    worker = Worker(open_page())
    for path in ("/api/session", "/api/answers", "/api/next"):
        reply = worker.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, reply.text
        assert set(reply.json()) == {"error"}
