"""Serve the study's page to annotators, without ever naming a model.

An annotator's address holds their secret, and images have random tokens: no request can name a
file. Where other machines have access, all addresses begin with a key. The page waits for each
vote's receipt, which is sent when the vote is on disk.
"""

from __future__ import annotations

import ipaddress
import json
import math
import secrets
import socket
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import parse_qs, urlsplit

import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.responses import Response as Reply
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selma.applications.study.ballot import CHOICES
from selma.applications.study.plan import Images, Study
from selma.applications.study.store import NAME_LENGTH, AnnotatorStatus, ShownPair, Store
from selma.errors import DataError, SelmaError, WorkspaceError
from selma.plurals import counted
from selma.progress import console

LOOPBACK = "127.0.0.1"
MAX_BODY = 10_000  # bytes; a vote is about a hundred
COOKIE, COOKIE_S, MOST_OWN = "selma_annotators", 365 * 86400, 20
"""What a browser keeps: the secrets of those who have joined by it, how long, and of how many."""
_ASSETS = {
    "/study.css": "text/css",
    "/study.js": "text/javascript",
    "/study.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    # Addresses hold secrets, for this server alone; "no-referrer" would hide forms' origin as well.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def serve(
    path: Path, study: Study, run: Path, *, host: str, port: int, say: Callable[[str], None] = print
) -> None:
    """Serve the study until a signal comes; `path` is its file of votes.

    port: 0 takes a free one. `say` is called with the address. Raises WorkspaceError if the port is
    taken or the file holds another study, DataError if an image has changed.
    """
    images = Images(run, study)
    images.verify()
    store = Store(path, study)
    try:
        with _listening(host, port) as listening:
            hosts = _own_names(host)
            key = store.key() if hosts is None else None
            if key is not None:
                say(
                    "WARNING: this page is open to EVERYONE who can reach this machine and has the "
                    "address below, with its key: give it to the annotators alone, since nothing "
                    f"on the way is encrypted. Leave out --host {host} to serve this machine alone."
                )
            address = host if ":" not in host else f"[{host}]"
            say(
                f"Study of {counted(len(study.pairs), 'prompt')}, "
                f"{counted(store.annotators(), 'annotator')} so far."
            )
            say(f"Votes: {path}")
            way = f"{listening.getsockname()[1]}{_prefix(key)}/"
            say(f"Page: http://{address}:{way}  (Ctrl+C stops)")
            config = uvicorn.Config(
                application(store, images, hosts=hosts, key=key),
                log_level="warning",
                access_log=False,  # it would write the annotators' secrets
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=5,
            )
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        store.close()


def application(
    store: Store, images: Images, *, hosts: frozenset[str] | None, key: str | None = None
) -> ASGIApp:
    """The study's pages as an ASGI application; `hosts` are the host names that it answers to, None
    for any.  key: what all its paths begin with, if anything."""
    pages = _Pages(store, images, _prefix(key))
    routes: list[BaseRoute] = [
        Route("/", pages.welcome),
        Route("/join", pages.join, methods=["POST"]),
        *(Route(path, pages.asset) for path in _ASSETS),
        Route("/vote/{secret}", pages.voting),
        Route("/vote/{secret}/state", pages.state),
        Route("/vote/{secret}/choice", pages.choose, methods=["POST"]),
        Route("/vote/{secret}/undo", pages.undo, methods=["POST"]),
        Route("/image/{token}", pages.image),
    ]
    if key is not None:
        routes = [Mount(_prefix(key), routes=routes)]
    app = Starlette(routes=routes, exception_handlers={SelmaError: _failure})
    return _Guarded(app, hosts, key)


def _prefix(key: str | None) -> str:
    return "" if key is None else f"/{key}"


class _Pages:
    def __init__(self, store: Store, images: Images, prefix: str) -> None:
        self.store, self.images, self.prefix = store, images, prefix
        self.templates = Environment(
            loader=PackageLoader("selma.applications.study", "page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def welcome(self, request: Request) -> Reply:
        return self._page("welcome.html", known=None, name="", mistake="")

    async def join(self, request: Request) -> Reply:
        try:
            form = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=5)
        except ValueError:
            raise HTTPException(422, "A form of one name is expected.") from None
        name = form.get("name", [""])[0]
        own = [secret for secret in request.cookies.get(COOKIE, "").split(".") if secret][:MOST_OWN]
        return await run_in_threadpool(self._joined, name, own, again="again" in form)

    def _joined(self, name: str, own: list[str], *, again: bool) -> Reply:
        """own: the secrets of those who have joined by this browser; to know a name is not enough
        to go on as its annotator."""
        try:
            known = self.store.find(name)
        except DataError as error:
            return self._refusal(name, str(error))
        if known and known.secret not in own:
            return self._refusal(
                name,
                "Someone of this name takes part already. If that is you, go on in the browser in "
                "which you began, or by your own address; otherwise choose another name.",
            )
        # Otherwise two people at one browser would unknowingly continue each other's votes.
        if known and not again:
            return self._page("welcome.html", known=known, name=name, mistake="")
        try:
            joined = known or self.store.join(name, new=True)
        except DataError as error:  # another request of this name was faster
            return self._refusal(name, str(error))
        reply = RedirectResponse(f"{self.prefix}/vote/{joined.secret}", status_code=303)
        kept = list(dict.fromkeys([joined.secret, *own]))[:MOST_OWN]
        path = f"{self.prefix}/join"
        reply.set_cookie(
            COOKIE, ".".join(kept), max_age=COOKIE_S, path=path, httponly=True, samesite="strict"
        )
        return reply

    def _refusal(self, name: str, mistake: str) -> Reply:
        page = self._page("welcome.html", known=None, name=name, mistake=mistake)
        page.status_code = 422
        return page

    def asset(self, request: Request) -> Reply:
        path = request.scope["path"].removeprefix(self.prefix)  # a route of _ASSETS
        file = resources.files("selma.applications.study").joinpath("page", path.removeprefix("/"))
        return Reply(file.read_bytes(), media_type=_ASSETS[path])

    def voting(self, request: Request) -> Reply:
        status = self.store.status(request.path_params["secret"])
        if status is None:
            return RedirectResponse(f"{self.prefix}/", status_code=303)
        return self._page("voting.html", annotator=status.annotator)

    def state(self, request: Request) -> Reply:
        return self._state(request.path_params["secret"], counted=None)

    async def choose(self, request: Request) -> Reply:
        secret, vote = request.path_params["secret"], await _json(request)
        step, choice, seconds = (vote.get(name) for name in ("step", "choice", "seconds"))
        if type(step) is not int or choice not in CHOICES or not _is_duration(seconds):
            raise HTTPException(422, "A vote has a step, a choice and seconds.")

        def count() -> Reply:
            counted = self.store.vote(secret, step, choice, seconds=seconds)
            return self._state(secret, counted=counted)

        return await run_in_threadpool(count)

    async def undo(self, request: Request) -> Reply:
        secret, vote = request.path_params["secret"], (await _json(request)).get("vote")
        if type(vote) is not int or not 0 <= vote < 2**63:
            raise HTTPException(422, "What is undone is a vote.")

        def take_back() -> Reply:
            return self._state(secret, counted=self.store.undo(secret, vote))

        return await run_in_threadpool(take_back)

    def image(self, request: Request) -> Reply:
        address = self.store.image(request.path_params["token"])
        if address is None:
            raise HTTPException(404, "There is no such image.")
        # A token never means another image, so that a browser may cache what it preloaded.
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Reply(self.images.png(*address), media_type="image/png", headers=headers)

    def _state(self, secret: str, *, counted: bool | None) -> Reply:
        status = self.store.status(secret)
        if status is None:
            raise HTTPException(404, "There is no such annotator.")
        return JSONResponse(_visible(status, self.prefix) | {"counted": counted})

    def _page(self, template: str, **values: Any) -> HTMLResponse:
        study = {
            "total": len(self.store.study.pairs),
            "name_length": NAME_LENGTH,
            "prefix": self.prefix,
        }
        return HTMLResponse(self.templates.get_template(template).render(**study, **values))


def _visible(status: AnnotatorStatus, prefix: str) -> dict[str, Any]:
    """All that the page's script is sent."""

    def shown(pair: ShownPair | None) -> dict[str, Any] | None:
        if pair is None:
            return None
        left, right = (f"{prefix}/image/{token}" for token in (pair.left, pair.right))
        return {"step": pair.step, "text": pair.text, "left": left, "right": right}

    return {
        "done": status.annotator.done,
        "total": status.annotator.total,
        "current": shown(status.current),
        "following": shown(status.following),
        "last_vote": status.last_vote,
    }


class _Guarded:
    """Refuses requests that the study's page does not send, and adds every reply's headers.

    Another site could make an annotator's browser send votes (cross-site requests), or resolve its
    name to this machine to read the study (DNS rebinding). Browsers tell the site in Sec-Fetch-Site
    to trustworthy addresses alone, but the origin of what is posted always.
    """

    def __init__(self, inner: ASGIApp, hosts: frozenset[str] | None, key: str | None) -> None:
        self.inner, self.hosts, self.key = inner, hosts, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                every = _HEADERS if b"cache-control" in names else {
                    **_HEADERS, "Cache-Control": "no-store"
                }  # fmt: skip
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in every.items()]
            await send(message)

        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        site = headers.get(b"sec-fetch-site", b"none")
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if not name or (self.hosts is not None and name not in self.hosts):
            refusal = PlainTextResponse("This page is for this machine alone.", status_code=421)
            return await refusal(scope, receive, send_guarded)
        if self.key is not None and not _begins_with(scope["path"], self.key):
            refusal = PlainTextResponse("There is no such page.", status_code=404)
            return await refusal(scope, receive, send_guarded)
        own = site in (b"same-origin", b"none") and _sender(headers) == host
        if scope["method"] not in ("GET", "HEAD") and not own:
            refusal = PlainTextResponse("Votes come from this page alone.", status_code=403)
            return await refusal(scope, receive, send_guarded)
        return await self.inner(scope, receive, send_guarded)


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


def _failure(request: Request, error: Exception) -> Reply:
    """Print the error, which names files and therefore models, for whoever runs the study only."""
    console.print(f"Error: {error}", markup=False)
    return PlainTextResponse("This cannot be shown. Tell whoever runs the study.", status_code=500)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, "That is too long.")
    return body


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await _body(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(422, "A JSON object is expected.")
    return value


def _is_duration(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e6


def _own_names(host: str) -> frozenset[str] | None:
    """The host names that a browser on this machine uses; None if other machines have access."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    address = f"[{host}]" if ":" in host else host
    return frozenset({"localhost", LOOPBACK, address}) if local else None


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise WorkspaceError(
            f"The page cannot be served at {host}, port {port}: {error}. Choose another --port."
        ) from error
