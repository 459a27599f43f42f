"""A server in OpenAI's protocol that answers as it is told: well, badly, late, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Script:
    """What the server does: `acts[n]` for the n-th request, the last one from there on."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = ""
        self._lock = threading.Lock()

    def next(self, asked: dict[str, Any], key: str) -> Act:
        with self._lock:
            self.asked.append(asked)
            self.keys.append(key)
            return self.acts[min(len(self.asked), len(self.acts)) - 1]

    @property
    def wishes(self) -> list[str]:
        """The text of each request."""
        return [asked["messages"][0]["content"] for asked in self.asked]


def completion(text: str | None, *, finish: str = "stop", usage: bool = True) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    body = {
        "id": "one",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    counts = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return body | ({"usage": counts} if usage else {})


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    *,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> None:
    told = {"Content-Type": "application/json"} | (headers or {})
    with suppress(OSError):  # the client may have left
        handler.send_response(status)
        for name, value in told.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)


def says(text: str | None, **how: Any) -> Act:
    return lambda handler, _: send(handler, 200, json.dumps(completion(text, **how)).encode())


def writes(write: Callable[[dict[str, Any]], str]) -> Act:
    """A reply that is made from the request."""
    return lambda handler, asked: says(write(asked))(handler, asked)


def fails(status: int, *, code: str = "", message: str = "no", **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()
    return lambda handler, _: send(handler, status, body, headers=named)


def sends(body: bytes, *, kind: str = "application/json", length: int | None = None) -> Act:
    return lambda handler, _: send(
        handler, 200, body, headers={"Content-Type": kind}, length=length
    )


def hangs(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    time.sleep(3)


def drips(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    """A byte now and then: no single wait is long."""
    send(handler, 200, b"", length=10_000)
    with suppress(OSError):
        for _ in range(60):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


def hangs_up(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    handler.connection.close()


@contextmanager
def serving(script: Script, *, port: int = 0) -> Iterator[Script]:
    """`script.url` answers while the block runs. port: one that a server had before."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.next(asked, self.headers.get("Authorization", ""))(self, asked)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's own output matters more."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may leave
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
