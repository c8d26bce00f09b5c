"""What to do when a request to a service goes wrong: send it again, give it up, or stop everything.

A class of trouble is decided here from what the client library raised; labels/judges/endpoint.py acts on it.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx2
from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

from densedpo.labels.judges.limits import retry_after_s
from densedpo.labels.judges.wire import CONTENT_CODES, UnreadableError, one_line

Kind = Literal["again", "address", "key", "model", "request", "quota", "refused"]
_AGAIN = {408, 409, 425, 429}
_QUOTA = {"insufficient_quota", "billing_hard_limit_reached"}
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
_INSECURE = {"WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED"}
TROUBLES = (APIStatusError, APIConnectionError, APIResponseValidationError, httpx2.HTTPError, UnreadableError)


class OversizedError(UnreadableError):
    """A response that is longer than any answer."""


@dataclass(frozen=True)
class Trouble:
    """Why a request brought no reply.

    ``kind``: "again" may pass; "address", "key", "model", "request" and "quota" will not; "refused" is the model's own
    no. ``charged`` says whether it may have cost something; ``wait_s`` how long the
    service asks to wait; ``limited`` whether it asks everybody to.
    """

    kind: Kind
    why: str
    charged: bool = False
    wait_s: float | None = None
    limited: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def trouble_of(error: Exception) -> Trouble:
    """Return what an exception of ``TROUBLES`` or a TimeoutError means."""
    if isinstance(error, APIStatusError):
        return _of_status(error)
    cause = error.__cause__ if isinstance(error, APIConnectionError) else error
    if isinstance(cause, _NOT_SENT):
        why = f"no connection ({one_line(str(cause) or type(cause).__name__)})"
        return Trouble("address" if _is_insecure(cause) else "again", why)
    if isinstance(error, TimeoutError | APITimeoutError) or isinstance(cause, httpx2.TimeoutException):
        return Trouble("again", "no whole answer within judge.timeout_s", charged=True)
    return Trouble("again", one_line(str(cause) or type(cause).__name__), charged=True)


def _is_insecure(error: BaseException | None) -> bool:
    """Say whether a secure connection was wanted where none is offered, or by a certificate that is not trusted."""
    while error is not None:
        # the client's own kinds of this error have no reason
        if isinstance(error, ssl.SSLError) and getattr(error, "reason", None) in _INSECURE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_status(error: APIStatusError) -> Trouble:
    status, headers = error.status_code, error.response.headers
    why = f"status {status}: {told_by(error)}"
    code = str(error.code or "")
    if code in _QUOTA:
        return Trouble("quota", why)
    if code in CONTENT_CODES:
        return Trouble("refused", why)
    if status in _AGAIN or status >= 500:
        wait_s = retry_after_s(headers)
        return Trouble("again", why, wait_s=wait_s, limited=status == 429 and wait_s is not None, headers=headers)
    kinds: dict[int, Kind] = {401: "key", 403: "key", 404: "model"}
    return Trouble(kinds.get(status, "request"), why, headers=headers)


def told_by(error: APIStatusError) -> str:
    """Return what the service said, in its own words where the client found no message in them."""
    place = error.response.headers.get("location")
    if place is not None:
        return f"it sends on to {one_line(place)}, where nothing is sent"
    said = error.message.removeprefix(f"Error code: {error.status_code}").removeprefix(" - ")
    return one_line(said or (error.body if isinstance(error.body, str) else json.dumps(error.body)) or "no words")
