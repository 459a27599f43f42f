"""A study's server in a process of its own, and annotators who speak HTTP with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from selma.applications.study.server import COOKIE


class Served(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    output: str


@contextmanager
def served(run: Path, *options: str) -> Iterator[Served]:
    """`selma study serve` while the block runs; killed after it, if it still lives."""
    command = [sys.executable, "-m", "selma", "study", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout and process.stderr
        output = ""
        try:
            for line in process.stdout:
                output += line
                if address := re.search(r"Page: http://\S+:(\d+)(/\S+)?/ ", line):
                    way = f"{address[1]}{address[2] or ''}"
                    yield Served(f"http://127.0.0.1:{way}", process, output)
                    return
            raise AssertionError(process.stderr.read())
        finally:
            process.kill()


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
