"""A language model's server in OpenAI's protocol: real HTTP, equal replies to equal requests.

It stands for the many servers that a test cannot start. What it writes is a list of captions drawn
from a seed that is made of the request.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TABLE = """
colour red blue green white yellow black purple orange silver golden
thing dog cat boat tree star apple bird house cup fish lamp drum kite chair
doing rests stands waits floats shines leans turns hides
where beside under behind above near inside
place garden harbour kitchen desert meadow street tunnel library attic
"""
_WORDS = {name: words for name, *words in map(str.split, _TABLE.strip().splitlines())}


def captions(seed: str, count: int) -> list[str]:
    """`count` captions that depend on the seed alone."""
    pick = random.Random(hashlib.sha256(seed.encode()).digest())
    return [
        "a {colour} {thing} {doing} {where} a {thing2} in the {place}".format(
            **{name: pick.choice(words) for name, words in _WORDS.items()},
            thing2=pick.choice(_WORDS["thing"]),
        )
        for _ in range(count)
    ]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        lines = captions(json.dumps([asked["messages"], asked.get("seed")]), 6)
        text = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 4))
        answer = {
            "id": "one",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 60, "total_tokens": 160},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's own output matters more."""


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server that runs in a process of its own while the block does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    pid = os.fork()
    if pid == 0:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # killed clients
        server.serve_forever()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.server_close()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
