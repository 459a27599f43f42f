"""A study's server in a process of its own, and annotators who speak HTTP with it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from served_pages import Served, started

from selma.applications.study.server import COOKIE


def served(run: Path, *options: str) -> AbstractContextManager[Served]:
    """`selma study serve` while the block runs."""
    return started("study", "serve", str(run), *options)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    url: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, data: bytes | None = None, **headers: str) -> Answer:
    """One request, as a browser sends it; a refusal is an answer, too."""
    parts = urlsplit(url)
    origin = {} if data is None else {"Origin": f"{parts.scheme}://{parts.netloc}"}
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    request = Request(url, data, origin | named)
    try:
        with urlopen(request, timeout=60) as reply:
            return Answer(reply.status, dict(reply.headers), reply.read(), reply.url)
    except HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read(), url)


class Voter:
    """An annotator without a browser."""

    def __init__(self, server: str, name: str, *, again: str | None = None) -> None:
        """again: the secret of who goes on by the browser in which they began."""
        form = {"name": name} | ({"again": "yes"} if again else {})
        cookie = {"Cookie": f"{COOKIE}={again}"} if again else {}
        self.url = ask(f"{server}/join", urlencode(form).encode(), **cookie).url
        assert "/vote/" in self.url
        self.secret = self.url.rpartition("/")[2]

    def state(self) -> Any:
        return ask(f"{self.url}/state").json

    def vote(self, step: int, choice: str, seconds: float = 1.5) -> Any:
        body = json.dumps({"step": step, "choice": choice, "seconds": seconds})
        return ask(f"{self.url}/choice", body.encode()).json

    def undo(self, vote: int) -> Any:
        return ask(f"{self.url}/undo", json.dumps({"vote": vote}).encode()).json
