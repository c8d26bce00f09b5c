"""Requests from elsewhere are refused: foreign names, other sites, people not invited, paths, ranges, large bodies."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.unit.labels.people.conftest import BASE, OpenOffice, Worker, client_of

from densedpo.config import parse_settings
from densedpo.errors import ConfigError, LabelError
from densedpo.labels.people.app import make_app
from densedpo.labels.people.gate import MAX_BODY, Gate, Site
from densedpo.labels.people.media import part
from densedpo.labels.people.serve import check_reach, listen

SPELLINGS = [
    "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "..\\", "..%5c", "%2e%2e%5c", "....//", "..%c0%af",
    "..%00/", "/", "//", "%2f", "\\\\server\\share\\", "C:\\", "file:///", ".%2e/", "..;/", "%00",
]  # fmt: skip
TARGETS = ["etc/passwd", "labels/labels.db", "labels/server.secret", "densedpo.yaml", "pairs/p0/a.mp4"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8753", "localhost:1", "[::1]:8753", "LOCALHOST"])
def test_own_names_are_known(open_page: OpenOffice, host: str) -> None:
    assert client_of(open_page()).get("/api/me", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "u@127.0.0.1", "", "[::1", "x:y", "10.0.0.1"],
)  # fmt: skip
def test_foreign_names_are_refused(open_page: OpenOffice, host: str) -> None:
    client = client_of(open_page())
    for path in ("/", "/api/me", "/media/" + "0" * 64):
        reply = client.get(path, headers={"Host": host, "X-Forwarded-Host": "127.0.0.1", "Forwarded": "host=localhost"})
        assert reply.status_code == 421
        assert set(reply.json()) == {"error"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": BASE}, 200),
        ({"Origin": BASE, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:81"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": f"{BASE}.evil.example"}, 403),
        ({"Origin": f"{BASE}/"}, 403),
        ({"Origin": "\x00"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "none"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "?"}, 403),
        ({"Referer": f"{BASE}/"}, 403),
    ],
)
def test_posts_come_from_our_own_page(open_page: OpenOffice, headers: dict[str, str], status: int) -> None:
    office = open_page()
    client = client_of(office)
    del client.headers["Origin"]
    reply = client.post("/api/session", json={"name": "ann"}, headers=headers)
    assert reply.status_code == status
    assert len(office.roster.everybody()) == (1 if status == 200 else 0)


def test_programs_post_with_their_token(open_page: OpenOffice) -> None:
    office = open_page()
    client = client_of(office)
    del client.headers["Origin"]
    token = office.roster.invite("ann", "annotator")
    assert client.post("/api/next", json={}, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.post("/api/next", json={}, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/api/next", json={}, headers={b"Authorization": b"\xff"}).status_code == 401


def test_behind_a_proxy_its_address_is_known(open_page: OpenOffice) -> None:
    office = open_page(public_url="https://labels.example")
    token = office.roster.invite("ann", "annotator")
    client = client_of(office)
    for origin, status in (("https://labels.example", 200), ("http://labels.example", 403), (BASE, 403)):
        headers = {"Host": "labels.example", "Origin": origin}
        reply = client.post("/api/session", json={"token": token}, headers=headers)
        assert reply.status_code == status
        if status == 200:
            assert "Secure" in reply.headers["set-cookie"]


def test_cookies_are_signed_and_end_with_a_new_invitation(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office, "ann", office.roster.invite("ann", "annotator"))
    cookie = ann.client.cookies["densedpo"]
    reply = ann.client.post("/api/session", json={"token": office.roster.invite("bob", "annotator")})
    flags = reply.headers["set-cookie"]
    assert "HttpOnly" in flags and "SameSite=strict" in flags
    fresh = client_of(office)
    forged = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
    for value, status in ((cookie, 200), (forged, 401), ("é", 401), ("", 401)):
        headers = {b"Cookie": b"densedpo=" + value.encode()}
        assert fresh.get("/api/me", headers=headers).status_code == status
    office.roster.invite("ann", "annotator")
    assert fresh.get("/api/me", headers={"Cookie": f"densedpo={cookie}"}).status_code == 401


def test_once_somebody_is_invited_nobody_comes_in_by_name(open_page: OpenOffice) -> None:
    office = open_page()
    early = Worker(office, "early")
    assert early.client.get("/api/me").status_code == 200
    office.roster.invite("ann", "annotator")
    assert early.client.get("/api/me").json() == {"error": "sign in first", "needs_token": True}
    assert early.client.post("/api/session", json={"name": "late"}).status_code == 403
    assert early.client.post("/api/session", json={"token": "guess"}).status_code == 403


def test_admin_pages_are_for_admins(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office, "ann", office.roster.invite("ann", "annotator"))
    boss = Worker(office, "boss", office.roster.invite("boss", "admin"))
    invitation = {"name": "eve", "role": "annotator"}
    assert ann.client.get("/api/admin/overview").status_code == 403
    assert ann.client.post("/api/admin/invite", json=invitation).status_code == 403
    assert boss.client.get("/api/admin/overview").status_code == 200
    link = boss.client.post("/api/admin/invite", json=invitation).json()["link"]
    Worker(office, "eve", link.partition("#token=")[2])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_reach_beyond_this_machine_needs_invitations(open_page: OpenOffice, host: str) -> None:
    office = open_page(host=host)
    with pytest.raises(ConfigError, match="densedpo label invite NAME"):
        check_reach(office)
    office.roster.invite("boss", "admin")
    check_reach(office)


def test_an_address_that_cannot_be_had_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_no_path_leads_out(open_page: OpenOffice) -> None:
    office = open_page()
    (office.project.root / "densedpo.yaml").write_text("seed: 0\n")
    ann = Worker(office)
    (task,) = ann.next()
    paths = [
        f"/{route}/{spelling * depth}{target}"
        for route, spelling, target, depth in itertools.product(("media", "static"), SPELLINGS, TARGETS, (1, 6))
    ]
    paths += [f"{task['media']['first']}{spelling}" for spelling in SPELLINGS]
    assert len(paths) >= 200
    for path in paths:
        reply = ann.client.get(path)
        assert reply.status_code == 404, path
    app = make_app(office)
    for name in ("../app.py", "/etc/passwd", "..", ".", "", "\x00", "%2e%2e/app.py"):
        assert app.state.static.get(name) is None


def test_every_reply_is_guarded(open_page: OpenOffice) -> None:
    ann = Worker(open_page())
    (task,) = ann.next()
    for path in ("/", "/api/me", "/nowhere", task["media"]["first"]):
        headers = ann.client.get(path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert ann.client.get("/api/me").headers["cache-control"] == "no-store"
    assert ann.client.get("/docs").status_code == ann.client.get("/openapi.json").status_code == 404


def test_videos_come_whole_and_in_parts(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office)
    (task,) = ann.next()
    for shown in ("first", "second"):
        url = task["media"][shown]
        whole = ann.client.get(url)
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert not {"last-modified", "content-disposition"} & set(whole.headers)
        size = len(whole.content)
        middle = ann.client.get(url, headers={"Range": "bytes=100-299"})
        assert (middle.status_code, middle.content) == (206, whole.content[100:300])
        assert middle.headers["content-range"] == f"bytes 100-299/{size}"
        assert ann.client.get(url, headers={"Range": "bytes=-50"}).content == whole.content[-50:]
        assert ann.client.get(url, headers={"Range": f"bytes={size - 5}-"}).content == whole.content[-5:]
        assert ann.client.head(url).headers["content-length"] == str(size)
        known = ann.client.get(url, headers={"If-None-Match": whole.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
    assert client_of(office).get(task["media"]["first"]).status_code == 401
    flipped = task["media"]["first"][:-1] + ("0" if task["media"]["first"][-1] != "0" else "1")
    assert ann.client.get(flipped).status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=" + ",".join(["0-1"] * 2), "bytes=" + ",".join(f"{n}-{n}" for n in range(8000)), "bytes=5-2", "bytes=-",
        "bytes=-0", "bytes=a-b", "bytes=" + "9" * 5000 + "-", "lines=0-1", "bytes=-1-5", "", "bytes=99999999-",
    ],
)  # fmt: skip
def test_odd_ranges_read_nothing(open_page: OpenOffice, asked: str) -> None:
    ann = Worker(open_page())
    (task,) = ann.next()
    reply = ann.client.get(task["media"]["first"], headers={"Range": asked})
    assert (reply.status_code, reply.content) == (416, b"")


def test_ranges_in_numbers() -> None:
    assert part("bytes=0-0", 10) == (0, 1)
    assert part("bytes=2-100", 10) == (2, 10)
    assert part("bytes=-100", 10) == (0, 10)
    assert part("bytes=10-", 10) is None


def test_large_bodies_are_refused(open_page: OpenOffice) -> None:
    ann = Worker(open_page())
    body = b'{"name": "' + b"x" * MAX_BODY + b'"}'
    reply = ann.client.post("/api/session", content=body)
    assert reply.status_code == 413

    def pieces() -> Any:
        yield from (body[start : start + 1000] for start in range(0, len(body), 1000))

    assert ann.client.post("/api/session", content=pieces()).status_code == 413
    assert ann.client.post("/api/session", headers={"Content-Length": "-1"}, content=b"").status_code == 413


def test_a_late_body_is_given_up(open_page: OpenOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("densedpo.labels.people.gate._BODY_TIME_S", 0.01)
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"origin", BASE.encode()), (b"content-length", b"10")]
    headers.append((b"content-type", b"application/json"))
    scope = {"type": "http", "method": "POST", "path": "/api/session", "raw_path": b"/api/session", "headers": headers}
    scope |= {"query_string": b"", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "scheme": "http"}
    asyncio.run(Gate(make_app(open_page()), Site("127.0.0.1"))(scope, never, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "a\x00b", " pad", "\u202egnp.exe"])
def test_names_that_cannot_be_shown_are_refused(open_page: OpenOffice, name: str) -> None:
    office = open_page()
    with pytest.raises(LabelError, match="name"):
        office.roster.invite(name, "annotator")
    reply = client_of(office).post("/api/session", json={"name": name})
    assert reply.status_code == (200 if name == " pad" else 422)


def test_the_secret_is_the_owners_alone(open_page: OpenOffice) -> None:
    secret: Path = open_page().project.labels / "server.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_bytes()) == 32


def test_nothing_sent_to_annotators_tells_model_seed_or_side(open_page: OpenOffice) -> None:
    office = open_page(show_caption=False)
    ann = Worker(office, "ann", office.roster.invite("ann", "annotator"))
    texts = [ann.client.get("/api/me").text]
    for _ in range(3):
        reply = ann.client.post("/api/next", json={"count": 2})
        texts.append(reply.text + str(reply.headers))
        task = reply.json()["tasks"][0]
        texts += [str(ann.client.get(task["media"][shown]).headers) for shown in ("first", "second")]
        ann.do(task)
    texts.append(ann.client.get("/api/history").text)
    for word in ("p0", "p1", "p2", "guided", '"eta"', "seed", "miniature", ".mp4", "gold", '"a"', '"b"'):
        assert not any(word in text.replace("metadata", "") for text in texts), word


def test_settings_of_the_page_are_checked() -> None:
    assert parse_settings({"serve": {"overlap": 3}}).serve.overlap == 3
    with pytest.raises(ConfigError, match=r"serve\.overlap"):
        parse_settings({"serve": {"overlap": 0}})
    assert quote("é") in f"/#token={quote('é')}"


def test_small_replies_do_not_wait_for_the_other_side() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY
