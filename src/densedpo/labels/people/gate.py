"""What stands before every request: whose site it comes from, how large it is, and what a browser may do with replies.

Pure ASGI, no state. A foreign Host is refused (a name that was pointed at this machine), so is a post from another
site; bodies are small and arrive in time; every reply carries a policy under which only our own files run.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 256 * 1024
_BODY_TIME_S = 20.0
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self' blob:; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LOCAL = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Site:
    """Under which names the server is known: those of this machine, and the address of a proxy before it."""

    host: str
    public_url: str | None = None

    def knows(self, authority: str, local_address: str) -> bool:
        """Say whether ``authority`` (a Host header) names this server.

        Names can be pointed at any machine by whoever owns them; plain addresses cannot, so beside our own names only
        the address that the connection really came in on is known.
        """
        name = _host_name(authority)
        if name is None:
            return False
        known = {self.host.lower()} | ({local_address} if _is_address(local_address) else set())
        if self.public_url is not None:
            known.add(_host_name(urlsplit(self.public_url).netloc) or "")
        return name in known | _LOCAL

    def is_same(self, origin: str, authority: str) -> bool:
        """Say whether an Origin header names the page that this server itself serves under ``authority``."""
        if self.public_url is not None and _host_name(authority) == _host_name(urlsplit(self.public_url).netloc):
            parts = urlsplit(self.public_url)
            return origin == f"{parts.scheme}://{parts.netloc}"
        return origin == f"http://{authority}"


class Gate:
    """ASGI middleware: refuses what does not come from our own page, and guards every reply."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        """Stand before ``app``, which is known as ``site``."""
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 403, 413 or 421; a body too large or late fails inside with 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _guarding(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(guarded, *refusal)
            return
        await self._app(scope, _limited(receive), guarded)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        authority = headers.get("host", "")
        local = str((scope.get("server") or ("", 0))[0])
        if sum(name == b"host" for name, _ in scope["headers"]) != 1 or not self._site.knows(authority, local):
            return 421, "this server is not known under that name; see serve.public_url"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, "the body is too large"
        if scope["method"] in _SAFE:
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if site is not None and site != "same-origin":
            return 403, "posts from other sites are refused"
        if origin is not None and not self._site.is_same(origin, authority):
            return 403, "posts from other sites are refused"
        if origin is None and site is None and "authorization" not in headers:
            return 403, "a program that posts must send its token as Authorization: Bearer"
        return None


def _limited(receive: Receive) -> Receive:
    got = 0

    async def limited() -> Message:
        nonlocal got
        try:
            message = await (receive() if got < 0 else asyncio.wait_for(receive(), _BODY_TIME_S))
        except TimeoutError:
            raise HTTPException(408, "the body is late") from None
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            if got > MAX_BODY:
                raise HTTPException(413, "the body is too large")
            if not message.get("more_body", False):
                # what comes after the body is the end of the connection, which may take its time
                got = -1
        return message

    return limited


def _guarding(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", [])}
            added = {**_HEADERS, b"cache-control": b"no-store"}
            extra = [(name, value) for name, value in added.items() if name not in present]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return guarded


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # what is left of the request is not read
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(authority: str) -> str | None:
    """Return the name in ``name:port`` in lower case; None where it is malformed."""
    try:
        parts = urlsplit(f"//{authority}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if name is None or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return name.lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
