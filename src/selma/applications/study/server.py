"""Serve the study's page to annotators, without ever naming a model.

An annotator's address holds their secret, and images have random tokens: no request can name a
file. Where other machines have access, all addresses begin with a key. The page waits for each
vote's receipt, which is sent when the vote is on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.responses import Response as Reply
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from selma.applications.study.ballot import CHOICES
from selma.applications.study.plan import Images, Study
from selma.applications.study.store import NAME_LENGTH, AnnotatorStatus, ShownPair, Store
from selma.errors import DataError, SelmaError
from selma.plurals import counted
from selma.progress import console
from selma.web import Guarded, body_of, json_of, listening, prefix

MAX_BODY = 10_000  # bytes; a vote is about a hundred
COOKIE, COOKIE_S, MOST_OWN = "selma_annotators", 365 * 86400, 20
"""What a browser keeps: the secrets of those who have joined by it, how long, and of how many."""
_ASSETS = {
    "/study.css": "text/css",
    "/study.js": "text/javascript",
    "/study.svg": "image/svg+xml",
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
        with listening(host, port) as server:
            key = store.key() if server.hosts is None else None
            if key is not None:
                say(
                    "WARNING: this page is open to EVERYONE who can reach this machine and has the "
                    "address below, with its key: give it to the annotators alone, since nothing "
                    f"on the way is encrypted. Leave out --host {host} to serve this machine alone."
                )
            say(
                f"Study of {counted(len(study.pairs), 'prompt')}, "
                f"{counted(store.annotators(), 'annotator')} so far."
            )
            say(f"Votes: {path}")
            say(f"Page: {server.url(key)}  (Ctrl+C stops)")
            server.run(application(store, images, hosts=server.hosts, key=key))
    finally:
        store.close()


def application(
    store: Store, images: Images, *, hosts: frozenset[str] | None, key: str | None = None
) -> ASGIApp:
    """The study's pages as an ASGI application; `hosts` are the host names that it answers to, None
    for any.  key: what all its paths begin with, if anything."""
    pages = _Pages(store, images, prefix(key))
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
        routes = [Mount(prefix(key), routes=routes)]
    app = Starlette(routes=routes, exception_handlers={SelmaError: _failure})
    return Guarded(app, hosts=hosts, key=key, foreign="Votes come from this page alone.")


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
            form = parse_qs(
                (await body_of(request, most=MAX_BODY)).decode("utf-8", "replace"), max_num_fields=5
            )
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
        secret, vote = request.path_params["secret"], await json_of(request, most=MAX_BODY)
        step, choice, seconds = (vote.get(name) for name in ("step", "choice", "seconds"))
        if type(step) is not int or choice not in CHOICES or not _is_duration(seconds):
            raise HTTPException(422, "A vote has a step, a choice and seconds.")

        def count() -> Reply:
            counted = self.store.vote(secret, step, choice, seconds=seconds)
            return self._state(secret, counted=counted)

        return await run_in_threadpool(count)

    async def undo(self, request: Request) -> Reply:
        secret, vote = (
            request.path_params["secret"],
            (await json_of(request, most=MAX_BODY)).get("vote"),
        )
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


def _failure(request: Request, error: Exception) -> Reply:
    """Print the error, which names files and therefore models, for whoever runs the study only."""
    console.print(f"Error: {error}", markup=False)
    return PlainTextResponse("This cannot be shown. Tell whoever runs the study.", status_code=500)


def _is_duration(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e6
