"""``densedpo label serve``: put the page together, refuse what would be unsafe, and run until stopped."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import uvicorn

from densedpo.config import Settings
from densedpo.errors import ConfigError
from densedpo.labels.people.app import guarded, invitation, make_app
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import Office, open_office
from densedpo.labels.people.roster import Role, Roster, server_secret
from densedpo.labels.store import LabelStore
from densedpo.observe import say
from densedpo.store.project import Project

_QUEUED_CONNECTIONS = 256


def serve(project: Project, settings: Settings) -> dict[str, Any]:
    """Serve the labelling page until the process is told to stop.

    Raises:
        ConfigError: if it would listen beyond this machine with nobody invited, or the address cannot be used.
        ProjectError: if there are no pairs.
        LabelError: if the store cannot be used.
    """
    chosen = settings.serve
    office = open_office(project, settings)
    try:
        check_reach(office)
        listening = listen(chosen.host, chosen.port)
        host, port = listening.getsockname()[:2]
        named = f"[{host}]" if ":" in host else host
        url = chosen.public_url or f"http://{named}:{port}/"
        say(f"labelling page: {url} ({'by invitation' if office.needs_token else 'for whoever is on this machine'})")
        server = uvicorn.Server(server_config(office, Site(chosen.host, chosen.public_url)))
        server.run(sockets=[listening])
    finally:
        office.close()
    return {"url": url}


def invite(project: Project, settings: Settings, name: str, role: Role) -> str:
    """Invite a person and return their link.

    Raises:
        LabelError: if name or role cannot be used, or the store cannot.
    """
    chosen = settings.serve
    with LabelStore.open(project.label_store) as store:
        token = Roster(store.database, server_secret(project.labels)).invite(name, role)
    return invitation(chosen.public_url or f"http://{chosen.host}:{chosen.port}", token)


def server_config(office: Office, site: Site) -> uvicorn.Config:
    """Return how uvicorn runs the page: no headers of a proxy are believed, nothing about people is logged."""
    return uvicorn.Config(
        guarded(make_app(office), site),
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


def check_reach(office: Office) -> None:
    """Refuse to be reachable from elsewhere while anybody could come in.

    Raises:
        ConfigError: naming the command that invites somebody.
    """
    chosen = office.settings.serve
    if (chosen.public_url or not _is_loopback(chosen.host)) and not office.roster.has_invitations():
        raise ConfigError(
            f"serve.host: {chosen.host} can be reached from elsewhere and nobody is invited; run "
            "`densedpo label invite NAME --role admin` first, or listen on 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on host and port.

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
        raise ConfigError(f"serve.host, serve.port: cannot listen on {host} port {port} ({error})") from None
    return listening


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
