"""``densedpo label serve``: put the page together, refuse what would be unsafe, and run until stopped."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from densedpo.config import Settings
from densedpo.config_section import Hosted
from densedpo.errors import ConfigError
from densedpo.labels.database import Location
from densedpo.labels.people.app import guarded, invitation, make_app
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import Office, open_office
from densedpo.labels.people.overview import overview
from densedpo.labels.people.roster import Role, Roster, server_secret
from densedpo.labels.store import LabelStore
from densedpo.observe import say
from densedpo.store.project import Project

_QUEUED_CONNECTIONS = 256
_PAGES = {"label": "labelling page", "study": "study page"}
_SECTIONS = {"label": "serve", "study": "study"}


def serve(project: Project, settings: Settings) -> dict[str, Any]:
    """Serve the labelling page until the process is told to stop.

    Returns:
        The address.

    Raises:
        ConfigError: if it would listen beyond this machine with nobody invited, or the address cannot be used.
        ProjectError: if there are no pairs.
        LabelError: if the store cannot be used.
    """
    return run(open_office(project, settings), overview, "label")


def run(office: Office, team: Callable[[Office], dict[str, Any]], verb: str, *, ahead: bool = False) -> dict[str, Any]:
    """Serve a page, of ``densedpo VERB serve``, until the process is told to stop; then close the office.

    With ``ahead``, the browser copies that are missing are made meanwhile.

    Raises:
        ConfigError: as ``serve``.
    """
    chosen = office.settings.serve
    try:
        check_reach(office, verb)
        listening = listen(chosen.host, chosen.port, _SECTIONS[verb])
        host, port = listening.getsockname()[:2]
        named = f"[{host}]" if ":" in host else host
        url = chosen.public_url or f"http://{named}:{port}/"
        say(f"{_PAGES[verb]}: {url} ({'by invitation' if office.needs_token else 'for whoever is on this machine'})")
        if ahead:
            office.films.make_ahead()
        server = uvicorn.Server(server_config(office, Site(chosen.host, chosen.public_url), team))
        server.run(sockets=[listening])
    finally:
        office.close()
    return {"url": url}


def invite(project: Project, settings: Settings, name: str, role: Role) -> str:
    """Invite a person and return their link.

    Raises:
        LabelError: if name or role cannot be used, or the store cannot.
    """
    return invite_into(project.label_store, project.labels, settings.serve, name, role)


def invite_into(location: Location, folder: Path, hosted: Hosted, name: str, role: Role) -> str:
    """Invite a person to the page whose store is at ``location`` and whose secret lies in ``folder``.

    Raises:
        LabelError: as ``invite``.
    """
    with LabelStore.open(location) as store:
        token = Roster(store.database, server_secret(folder)).invite(name, role)
    return invitation(hosted.public_url or f"http://{hosted.host}:{hosted.port}", token)


def server_config(office: Office, site: Site, team: Callable[[Office], dict[str, Any]] = overview) -> uvicorn.Config:
    """Return how uvicorn runs the page: no headers of a proxy are believed, nothing about people is logged."""
    return uvicorn.Config(
        guarded(make_app(office, team), site),
        http="h11",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )


def check_reach(office: Office, verb: str = "label") -> None:
    """Refuse to be reachable from elsewhere while anybody could come in.

    Raises:
        ConfigError: naming the command that invites somebody.
    """
    chosen = office.settings.serve
    if (chosen.public_url or not _is_loopback(chosen.host)) and not office.roster.has_invitations():
        raise ConfigError(
            f"{_SECTIONS[verb]}.host: {chosen.host} can be reached from elsewhere and nobody is invited; run "
            f"`densedpo {verb} invite NAME --role admin` first, or listen on 127.0.0.1"
        )


def listen(host: str, port: int, section: str = "serve") -> socket.socket:
    """Return a socket that listens on host and port, which the settings of ``section`` name.

    Raises:
        ConfigError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # only with the protocol named does asyncio send small replies at once; else one may wait 40 ms for the other side
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_QUEUED_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(f"{section}.host, {section}.port: cannot listen on {host} port {port} ({error})") from None
    return listening


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
