"""OpenAI's images protocol for a run's models, and the page.

Nothing that is asked for names a file: models are looked up by name, images are made in memory and
sent. Whatever is asked that would have no effect is refused rather than passed over.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.responses import Response as Reply
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from selma.applications.serving.drawing import Busy, Drawing, Order
from selma.errors import SelmaError
from selma.progress import console
from selma.randomness import SEEDS
from selma.texts import quoted
from selma.versions import versions
from selma.web import Guarded, json_of, listening, prefix

MOST_CHARACTERS = 4_000
"""Of a prompt, as OpenAI has it."""
MAX_BODY = 12 * MOST_CHARACTERS + 4_000  # one beyond 16 bits may come as two escapes of 6 bytes
MOST_GUIDANCE = 100.0
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "generator_device": ("cpu",),
    "negative_prompt": ("",),
}
"""What may be asked, and the only values that it may have; left out or null counts as one."""
_USED = {"prompt", "model", "size", "seed", "num_inference_steps", "guidance_scale", "user"}
_ASSETS = {"/serve.css": "text/css", "/serve.js": "text/javascript", "/serve.svg": "image/svg+xml"}


class Refused(Exception):
    """A request that cannot be answered, in the words of OpenAI's protocol."""

    def __init__(self, message: str, *, param: str | None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status


def serve(drawing: Drawing, *, host: str, port: int, say: Callable[[str], None] = print) -> None:
    """Serve until a signal comes. port: 0 takes a free one. `say` is called with the address.
    Raises WorkspaceError if the port is taken."""
    with listening(host, port) as server:
        key = secrets.token_urlsafe(16) if server.hosts is None else None
        if key is not None:
            say(
                "WARNING: these models are open to EVERYONE who can reach this machine and has the "
                "address below, with its key; nothing on the way is encrypted. Leave out --host "
                f"{host} to serve this machine alone."
            )
        say(f"Models: {', '.join(drawing.models)}")
        say(f"Images: {server.url(key)}v1")
        say(f"Page: {server.url(key)}  (Ctrl+C stops)")
        server.run(application(drawing, hosts=server.hosts, key=key))


def application(
    drawing: Drawing, *, hosts: frozenset[str] | None, key: str | None = None
) -> ASGIApp:
    """The models as an ASGI application; `hosts` are the host names that it answers to, None for
    any.  key: what all its paths begin with, if anything."""
    pages = _Pages(drawing, prefix(key))
    routes: list[BaseRoute] = [
        Route("/", pages.page),
        *(Route(path, pages.asset) for path in _ASSETS),
        Route("/version", pages.version),
        Route("/v1/models", pages.listed),
        Route("/v1/images/generations", pages.generate, methods=["POST"]),
    ]
    if key is not None:
        routes = [Mount(prefix(key), routes=routes)]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Refused: _refusal,
            HTTPException: _http_refusal,
            Busy: _busy,
            SelmaError: _failure,
            Exception: _failure,
        },
    )
    foreign = "Images are drawn for this page and for programs alone."
    return Guarded(app, hosts=hosts, key=key, foreign=foreign, programs=True, images="'self' blob:")


class _Pages:
    def __init__(self, drawing: Drawing, way: str) -> None:
        self.drawing, self.way = drawing, way
        self.templates = Environment(
            loader=PackageLoader("selma.applications.serving", "page"),
            autoescape=True,
            undefined=StrictUndefined,
        )

    def page(self, request: Request) -> Reply:
        drawing = self.drawing
        others = [name for name in drawing.models if name != "base"]
        html = self.templates.get_template("serve.html").render(
            prefix=self.way,
            models=others,
            chosen="merged",
            px=drawing.px,
            steps=drawing.steps,
            guidance=f"{drawing.guidance:g}",
            most_steps=drawing.most_steps,
            most_guidance=f"{MOST_GUIDANCE:g}",
            most_characters=MOST_CHARACTERS,
        )
        return HTMLResponse(html)

    def asset(self, request: Request) -> Reply:
        path = request.scope["path"].removeprefix(self.way)  # a route of _ASSETS
        file = resources.files("selma.applications.serving").joinpath("page", path[1:])
        return Reply(file.read_bytes(), media_type=_ASSETS[path])

    def version(self, request: Request) -> Reply:
        return JSONResponse({"version": versions(("selma",)).get("selma", "")})

    def listed(self, request: Request) -> Reply:
        prints = self.drawing.fingerprints
        about = {"object": "model", "created": 0, "owned_by": "selma"}
        data = [{"id": name, **about, "fingerprint": prints[name]} for name in self.drawing.models]
        return JSONResponse({"object": "list", "data": data})

    async def generate(self, request: Request) -> Reply:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which no page of another site may send unasked
            raise Refused("The request must be application/json.", param=None, status=415)
        order = self._order(await json_of(request, most=MAX_BODY))
        drawn = asyncio.wrap_future(self.drawing.ask(order))
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((drawn, left), return_when=asyncio.FIRST_COMPLETED)
            if not drawn.done():
                return Reply(status_code=499)  # nobody reads it
            png = drawn.result()
        finally:
            drawn.cancel()  # unless it is begun: nobody waits for it any more
            left.cancel()
        used = {
            "model": order.model,
            "size": self._size,
            "seed": order.seed,
            "num_inference_steps": order.steps,
            "guidance_scale": order.guidance,
            "output_format": "png",
        }
        data = [{"b64_json": base64.b64encode(png).decode()}]
        return JSONResponse({"created": 0, "data": data, **used})

    @property
    def _size(self) -> str:
        return f"{self.drawing.px}x{self.drawing.px}"

    def _order(self, asked: dict[str, Any]) -> Order:
        """Raises Refused."""
        for name, value in asked.items():
            if name not in _USED and name not in _WITHOUT_EFFECT:
                raise Refused(f"{quoted(name)} would have no effect; leave it out.", param=name)
            values = _WITHOUT_EFFECT.get(name, ())
            if values and value is not None and (value not in values or value is True):
                raise Refused(
                    f"{name} can only be {quoted(values[0])}, but is {quoted(value)}.", param=name
                )
        given = {name: value for name, value in asked.items() if value is not None}
        text, model = given.get("prompt"), given.get("model", "merged")
        if not isinstance(text, str) or not text.strip() or len(text) > MOST_CHARACTERS:
            raise Refused(
                f"prompt must be a text of at most {MOST_CHARACTERS} characters.", param="prompt"
            )
        if not isinstance(model, str) or model not in self.drawing.models:
            names = ", ".join(self.drawing.models)
            raise Refused(
                f"The model {quoted(model)} does not exist; there are {names}.",
                param="model",
                status=404,
            )
        if given.get("size", self._size) not in (self._size, "auto"):
            raise Refused(f"size can only be {self._size}, the model's own.", param="size")
        drawing = self.drawing
        return Order(
            model=model,
            text=text,
            seed=_whole(given, "seed", secrets.randbelow(2**32), least=0, most=SEEDS - 1),
            steps=_whole(
                given, "num_inference_steps", drawing.steps, least=1, most=drawing.most_steps
            ),
            guidance=_real(given, "guidance_scale", drawing.guidance, most=MOST_GUIDANCE),
        )


def _whole(given: dict[str, Any], name: str, own: int, *, least: int, most: int) -> int:
    value = given.get(name, own)
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"{name} must be a whole number from {least} to {most}.", param=name)
    return value


def _real(given: dict[str, Any], name: str, own: float, *, most: float) -> float:
    value = given.get(name, own)
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise Refused(f"{name} must be a number from 0 to {most:g}.", param=name)
    return float(value)


async def _left(request: Request) -> None:
    """Return when nobody waits for the reply any more; of a request whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(message: str, status: int, *, kind: str, param: str | None = None) -> Reply:
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status_code=status)


def _refusal(request: Request, error: Exception) -> Reply:
    assert isinstance(error, Refused)
    return _answer(str(error), error.status, kind="invalid_request_error", param=error.param)


def _http_refusal(request: Request, error: Exception) -> Reply:
    assert isinstance(error, HTTPException)
    return _answer(error.detail, error.status_code, kind="invalid_request_error")


def _busy(request: Request, error: Exception) -> Reply:
    reply = _answer(str(error), 429, kind="rate_limit_error")
    reply.headers["Retry-After"] = "2"
    return reply


def _failure(request: Request, error: Exception) -> Reply:
    """Print the error, which may name files, for whoever runs the server only."""
    console.print(f"Error: {error}", markup=False)
    return _answer(
        "The image cannot be drawn; see the server's terminal.", 500, kind="server_error"
    )
