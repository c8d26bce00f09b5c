"""The HTTP face of the labelling page: routes, sign-in, errors in one shape. All decisions are the desk's.

browser -> gate (host, origin, size) -> these routes -> desk -> store and queue
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from densedpo.errors import LabelError, MediaError
from densedpo.labels.database import StoreUnavailableError
from densedpo.labels.people import forms
from densedpo.labels.people.assign import NotQualifiedError
from densedpo.labels.people.desk import UnknownTaskError
from densedpo.labels.people.gate import Gate, Site
from densedpo.labels.people.media import OPAQUE, serve_file, side_of
from densedpo.labels.people.office import Office
from densedpo.labels.people.overview import overview
from densedpo.labels.people.roster import SESSION_S, Person

STATIC = Path(__file__).parent / "static"
COOKIE = "densedpo"
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}
_STATUS: dict[type[Exception], int] = {
    UnknownTaskError: 404,
    NotQualifiedError: 403,
    MediaError: 404,
    StoreUnavailableError: 503,
    LabelError: 422,
}


class _NotSignedInError(Exception):
    """Nobody is signed in."""


def office_of(request: Request) -> Office:
    """Return what the running server holds."""
    office = request.app.state.office
    assert isinstance(office, Office)
    return office


OfficeHere = Annotated[Office, Depends(office_of)]


def signed_in(
    office: OfficeHere,
    cookie: Annotated[str | None, Cookie(alias=COOKIE, include_in_schema=False)] = None,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Person:
    """Return who asks, by cookie or by token."""
    kind, _, token = (authorization or "").partition(" ")
    person = office.roster.by_token(token.strip()) if kind.lower() == "bearer" else None
    if person is None and cookie is not None:
        person = office.roster.from_cookie(cookie)
    # whoever joined by name alone is out once invitations are asked for
    if person is None or (person.token_sha256 is None and office.needs_token):
        raise _NotSignedInError
    return person


SignedIn = Annotated[Person, Depends(signed_in)]


def admin(person: SignedIn) -> Person:
    """Return who asks, if they are an admin."""
    if person.role != "admin":
        raise HTTPException(403, "for admins only")
    return person


Admin = Annotated[Person, Depends(admin)]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": forms.Problem} for status in (400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 503)
}
api = APIRouter(prefix="/api", responses=_PROBLEMS)
files = APIRouter(include_in_schema=False)


@api.post("/session")
def sign_in(form: forms.SignIn, response: Response, office: OfficeHere) -> forms.Me:
    """Sign in with an invitation, or with a name where none is asked for."""
    if form.token is not None:
        person = office.roster.by_token(form.token)
        if person is None:
            raise HTTPException(403, "this invitation is not known, or was renewed; ask for a new link")
    elif office.needs_token:
        raise HTTPException(403, "open the link of your invitation")
    elif form.name is None:
        raise HTTPException(422, "name: say who is labelling")
    else:
        person = office.roster.join(form.name.strip())
    secure = (office.settings.serve.public_url or "").startswith("https:")
    response.set_cookie(
        COOKIE, office.roster.cookie(person), max_age=SESSION_S, httponly=True, samesite="strict", secure=secure
    )
    return office.desk.me(person)


@api.post("/signout")
def sign_out(response: Response, person: SignedIn) -> forms.Problem:
    """Forget who is signed in."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return forms.Problem(error=f"{person.name} is signed out")


@api.get("/me")
def me(person: SignedIn, office: OfficeHere) -> forms.Me:
    """Say who is signed in and how far they are."""
    return office.desk.me(person)


@api.post("/stage")
def stage(form: forms.StageDone, person: SignedIn, office: OfficeHere) -> forms.Me:
    """Note that the instructions were read."""
    del form  # says only that
    office.roster.mark_instructed(person.name)
    return office.desk.me(office.roster.find(person.name) or person)


@api.post("/next")
def next_tasks(form: forms.NextRequest, person: SignedIn, office: OfficeHere) -> forms.Tasks:
    """Give the tasks in hand, claiming new ones up to the number asked for."""
    return forms.Tasks(tasks=office.desk.next_tasks(person, form.count, form.after))


@api.get("/task/{task_id}")
def task(task_id: str, person: SignedIn, office: OfficeHere) -> forms.TaskShown:
    """Give one of one's own tasks, to look at or to change."""
    return office.desk.task(person, task_id)


@api.post("/answers")
def answers(form: forms.AnswersPost, person: SignedIn, office: OfficeHere) -> forms.Stored:
    """Store answers; they are durable when this replies."""
    return office.desk.answer(person, form)


@api.post("/submit")
def submit(form: forms.Submit, person: SignedIn, office: OfficeHere) -> forms.Submitted:
    """Call a task done."""
    return office.desk.submit(person, form.task_id)


@api.post("/heartbeat")
def heartbeat(form: forms.Heartbeat, person: SignedIn, office: OfficeHere) -> forms.Lease:
    """Renew the leases of tasks in hand; 409 where one went to somebody else."""
    lost = office.queue.renew(form.task_ids, person.name)
    if lost:
        raise HTTPException(409, f"{len(lost)} of these went to somebody else; answers to them are still kept")
    return forms.Lease(lease_s=office.queue.lease_s)


@api.get("/history")
def history(person: SignedIn, office: OfficeHere, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> forms.History:
    """List one's own tasks, the newest first."""
    return forms.History(tasks=office.desk.history(person, limit))


@api.get("/admin/overview")
def admin_overview(request: Request, person: Admin, office: OfficeHere) -> dict[str, Any]:
    """Show progress, agreement and flags of everybody."""
    del person  # that there is one was the question
    shown: dict[str, Any] = request.app.state.team(office)
    return shown


@api.post("/admin/invite")
def invite(form: forms.Invite, request: Request, person: Admin, office: OfficeHere) -> forms.Link:
    """Invite somebody; the link is shown this once."""
    del person
    base = office.settings.serve.public_url or f"http://{request.headers['host']}"
    return forms.Link(link=invitation(base, office.roster.invite(form.name.strip(), form.role)))


def invitation(base: str, token: str) -> str:
    """Return the link of an invitation; what follows ``#`` is never sent to any server or log."""
    return f"{base.rstrip('/')}/#token={quote(token)}"


@files.api_route("/media/{opaque}", methods=["GET", "HEAD"])
async def media(
    opaque: str,
    person: SignedIn,
    office: OfficeHere,
    asked: Annotated[str | None, Header(alias="Range")] = None,
    known: Annotated[str | None, Header(alias="If-None-Match")] = None,
) -> Response:
    """Serve a video of one's own task."""
    if not OPAQUE.fullmatch(opaque):
        raise HTTPException(404, "no such video")
    claim = await run_in_threadpool(office.desk.claim, person, opaque[:32])
    side = side_of(opaque, office.secret, person.name, claim.pair_id)
    if side is None:
        raise HTTPException(404, "no such video")
    # copies may be in the making: waiting for them holds no thread, and one who gives up does not stop them for others
    try:
        copies = await asyncio.shield(asyncio.wrap_future(office.films.soon(claim.pair_id)))
    except asyncio.CancelledError:
        return _problem(503, "the server is stopping")
    # the digest of a video would be the same for everybody, and so would tell
    tag = hashlib.sha256(f"{opaque}:{copies.sides[side].sha256}".encode()).hexdigest()[:32]
    return serve_file(copies.sides[side].path, tag, asked, known)


@files.get("/")
@files.get("/admin")
@files.get("/static/{name:path}")
def static(
    request: Request,
    asked: Annotated[str | None, Header(alias="Range")] = None,
    known: Annotated[str | None, Header(alias="If-None-Match")] = None,
) -> Response:
    """Serve a file of the page: one of those listed at start, by its exact name."""
    name = {"/": "index.html", "/admin": "admin.html"}.get(request.url.path, request.path_params.get("name", ""))
    path = request.app.state.static.get(name)
    if path is None:
        raise HTTPException(404, "no such page")
    if path.suffix == ".mp4":
        return serve_file(path, hashlib.sha256(name.encode()).hexdigest()[:32], asked, known)
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if known == tag:
        return Response(status_code=304, headers=headers)
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(content, headers=headers, media_type=kind)


def make_app(office: Office, team: Callable[[Office], dict[str, Any]] = overview) -> FastAPI:
    """Return the application without its gate: routes and error replies; ``team`` is what admins are shown."""
    app = FastAPI(
        title="densedpo labelling",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.office = office
    app.state.team = team
    app.state.static = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.is_file()}
    app.include_router(api)
    app.include_router(files)
    app.add_exception_handler(_NotSignedInError, _not_signed_in)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    for kind in _STATUS:
        app.add_exception_handler(kind, _failed)
    return app


def guarded(app: ASGIApp, site: Site) -> Gate:
    """Return an application behind its gate."""
    return Gate(app, site)


def _problem(status: int, text: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split()), **more}, status_code=status)


def _not_signed_in(request: Request, _error: Exception) -> Response:
    return _problem(401, "sign in first", needs_token=office_of(request).needs_token)


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _problem(error.status_code, str(error.detail))


def _malformed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems: Sequence[Any] = error.errors()
    first = problems[0]
    return _problem(422, f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}")


def _failed(_request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return _problem(status, str(error))
