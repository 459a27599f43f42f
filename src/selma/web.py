"""What pages of ours are served by: to this machine alone unless asked otherwise, and to no other
site's scripts.

Another site could make a browser send requests (cross-site), or resolve its own name to this
machine to read the replies (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selma.errors import WorkspaceError

LOOPBACK = "127.0.0.1"
_HEADERS = {
    # Addresses may hold secrets, for this server alone; "no-referrer" would hide forms' origin as
    # well.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def prefix(key: str | None) -> str:
    """What all paths begin with."""
    return "" if key is None else f"/{key}"


@dataclass(frozen=True)
class Listening:
    """A socket that takes requests already."""

    socket: socket.socket
    host: str

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that a browser on this machine uses; None if other machines have access."""
        return own_names(self.host)

    def url(self, key: str | None = None) -> str:
        """The address, with a slash at its end."""
        address = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{address}:{self.socket.getsockname()[1]}{prefix(key)}/"

    def run(self, app: ASGIApp) -> None:
        """Serve until a signal comes."""
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would write what is private in addresses
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[self.socket])


@contextmanager
def listening(host: str, port: int) -> Iterator[Listening]:
    """The socket at this address; port 0 takes a free one. Raises WorkspaceError if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise WorkspaceError(
            f"The page cannot be served at {host}, port {port}: {error}. Choose another --port."
        ) from error
    with taken:
        yield Listening(taken, host)


class Guarded:
    """Refuses requests that the page does not send, and adds every reply's headers.

    hosts: the host names that it answers to, None for any.  key: what all its paths begin with, if
    anything.  foreign: the refusal of what another site sends.  programs: whether others than
    browsers may post, too.  images: where the page may show images from, in CSP's words.

    Browsers tell the site in Sec-Fetch-Site to trustworthy addresses alone, but the origin of what
    is posted always.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        hosts: frozenset[str] | None,
        key: str | None,
        foreign: str,
        programs: bool = False,
        images: str = "'self'",
    ) -> None:
        self.inner, self.hosts, self.key = inner, hosts, key
        self.foreign, self.programs = foreign, programs
        self.headers = _HEADERS | {
            "Content-Security-Policy": f"default-src 'none'; img-src {images}; style-src 'self'; "
            "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                every = self.headers if b"cache-control" in names else {
                    **self.headers, "Cache-Control": "no-store"
                }  # fmt: skip
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in every.items()]
            await send(message)

        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if not name or (self.hosts is not None and name not in self.hosts):
            refusal = PlainTextResponse("This page is for this machine alone.", status_code=421)
            return await refusal(scope, receive, send_guarded)
        if self.key is not None and not _begins_with(scope["path"], self.key):
            refusal = PlainTextResponse("There is no such page.", status_code=404)
            return await refusal(scope, receive, send_guarded)
        if scope["method"] not in ("GET", "HEAD") and not self._own(headers, host):
            refusal = PlainTextResponse(self.foreign, status_code=403)
            return await refusal(scope, receive, send_guarded)
        return await self.inner(scope, receive, send_guarded)

    def _own(self, headers: dict[bytes, bytes], host: str) -> bool:
        site = headers.get(b"sec-fetch-site", b"none")
        sent_by_page = {b"origin", b"referer", b"sec-fetch-site"} & headers.keys()
        if self.programs and not sent_by_page:
            return True
        return site in (b"same-origin", b"none") and _sender(headers) == host


def _sender(headers: dict[bytes, bytes]) -> str | None:
    """The host and port of the page that sent a request; None where it does not say."""
    sender = headers.get(b"origin", headers.get(b"referer", b"")).decode("latin-1").lower()
    try:
        parts = urlsplit(sender)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") and parts.netloc else None


def _begins_with(path: str, key: str) -> bool:
    first = path.split("/", 2)[1:2] or [""]
    return secrets.compare_digest(first[0].encode(errors="replace"), key.encode())


async def body_of(request: Request, *, most: int) -> bytes:
    """The request's body. Raises HTTPException if it has more bytes than that."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, "That is too long.")
    return body


async def json_of(request: Request, *, most: int) -> dict[str, Any]:
    """The JSON object in the request's body. Raises HTTPException if there is none."""
    try:
        value = json.loads(await body_of(request, most=most))
        json.dumps(value, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(422, "A JSON object is expected.")
    return value


def own_names(host: str) -> frozenset[str] | None:
    """The host names that a browser on this machine uses; None if other machines have access."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    address = f"[{host}]" if ":" in host else host
    return frozenset({"localhost", LOOPBACK, address}) if local else None
