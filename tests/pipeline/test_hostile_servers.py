"""The command that writes prompts, asked of servers that answer with malice: it ends in time and in
small memory, by success or one error of ours, and nothing shows what is private."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import Attack, dice, numbers
from scripted import Act, Script, completion, fails, says, send, sends, serving

from selma.texts import printable

LOGIN, QUERY, KEY = "pw-5290-private", "qk-7731-private", "sk-6604-of-the-environment"
SECRETS = (LOGIN, QUERY, KEY, base64.b64encode(f"me:{LOGIN}".encode()).decode())
STEERS = "\x1b[2J\x1b]0;owned\x07\u202edog\u2066\x00\x9b31m\u200b\ud800"
STEERING = set("\x1b\x07\u202e\u2066\x00\x9b\u200b\ud800")
LONGEST_S = 180
"""Of a command; all its requests may take 30 s, and on a busy machine its start takes some, too."""
MOST_BYTES = 700 << 20
"""Of memory; in peace it is 100 MiB."""


def raw(handler: BaseHTTPRequestHandler, *parts: bytes, every_s: float = 0.0) -> None:
    with suppress(OSError):  # the client may leave
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(every_s)
    handler.close_connection = True


def endless(pick: random.Random) -> Act:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    piece = pick.choice([b" ", b"[", b'{"a":', b"\x00", b"\xff"]) * (1 << 18)
    return lambda handler, _: raw(handler, head, *[piece] * 400)


def endless_headers(pick: random.Random) -> Act:
    line = pick.choice([b"X-A: b\r\n", b"Set-Cookie: a=b\r\n", b" folded\r\n", b"X" * 70 + b"\r\n"])
    return lambda handler, _: raw(handler, b"HTTP/1.1 200 OK\r\n", *[line * 1000] * 500)


def drips(pick: random.Random) -> Act:
    piece, every_s = pick.choice([b" ", b"[", b'"']), pick.uniform(0.05, 0.5)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    return lambda handler, _: raw(handler, head, *[piece] * int(20 / every_s), every_s=every_s)


def bomb(pick: random.Random) -> Act:
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = pick.choice([b"a", b" ", b"[", b"\x00"]) * (1 << 20)
    body = b'{"id": "'
    body = packing.compress(body) + b"".join(packing.compress(piece) for _ in range(300))
    data = body + packing.flush()
    name = pick.choice(["gzip", "deflate", "br", "gzip, gzip"])
    return lambda handler, _: send(handler, 200, data, headers={"Content-Encoding": name})


def chunks(pick: random.Random) -> Act:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    size = pick.choice([b"ff\r\n", b"-1\r\n", b"f" * 40 + b"\r\n", b"zz\r\n", b"1e\r\n", b"\r\n"])
    return lambda handler, _: raw(handler, head, b"5\r\n[1234\r\n", size, b'{"a": 1')


PLACES = (
    *("http://127.0.0.2:9/v1", f"http://me:{LOGIN}@127.0.0.3/", "file:///etc/passwd", "//x"),
    *("http://[", "javascript:0", "http://127.0.0.1:1/" + "a" * 10_000, "/v1" * 50),
)
WAITS = (
    *("1" + "0" * 30, "-1", "nan", "inf", "-inf", "1e400", "soon", "Fri, 31 Dec 9999 23:59:59 GMT"),
    *(f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", "Sat, 01 Jan 0001 00:00:00 +2359"),
)


def redirects(pick: random.Random) -> Act:
    headers = {"Location": pick.choice(PLACES)}
    status = pick.choice([301, 302, 303, 307, 308])
    return lambda handler, _: send(handler, status, b"", headers=headers)


def waits(pick: random.Random) -> Act:
    return fails(pick.choice([429, 503, 500, 408]), Retry_After=pick.choice(WAITS))


def bytes_of_no_text(pick: random.Random) -> Act:
    body = json.dumps(completion("1. a dog\n2. a cat")).encode()
    at = pick.randrange(len(body))
    odd = pick.choice([b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf"])
    return sends(body[:at] + odd + body[at:])


def steering(pick: random.Random) -> Act:
    texts = [
        f"a {pick.choice(STEERS)}{STEERS} {thing} in a {STEERS}box" for thing in ("dog", "cat")
    ]
    if pick.random() < 0.5:
        return says(json.dumps([f"{text} {n}" for n, text in enumerate(texts * 3)]))
    return says("\n".join(f"{n}. {text} {n}" for n, text in enumerate(texts * 3, 1)))


def refuses(pick: random.Random) -> Act:
    return fails(pick.choice([400, 401, 403, 404, 422, 500]), message=f"no {STEERS * 99}")


SHAPES: tuple[Any, ...] = (
    *(None, [], {}, 0, "", [None], {"choices": None}, {"choices": []}, {"choices": {}}),
    *({"choices": [None]}, {"choices": [{}]}, {"choices": [{"message": None}]}),
    *({"choices": [{"message": message}]} for message in ([], {"content": 7}, {"content": [{}]})),
    *({"error": KEY}, {"error": {"message": []}}, completion("1. a") | {"choices": "x" * 9}),
    *(completion("1. a") | {"usage": usage} for usage in ([], 7, {"prompt_tokens": "x"})),
    completion("1. a") | {"usage": {"prompt_tokens": 10**30, "completion_tokens": -5}},
)


def other_shapes(pick: random.Random) -> Act:
    return sends(json.dumps(pick.choice(SHAPES)).encode())


def nested(pick: random.Random) -> Act:
    depth = pick.choice([1000, 10_000, 100_000])
    opens, closes = pick.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"choices":[', b"]}")])
    body = opens * depth + b"1" + closes * depth
    if pick.random() < 0.3:
        return says(body.decode())
    status = pick.choice([200, 200, 400, 500])
    return lambda handler, _: send(handler, status, body)


def page(pick: random.Random) -> Act:
    body = pick.choice([b"<html>" + b"<script" * 20_000, b"<html><title>login</title></html>", b""])
    return sends(body, kind="text/html")


def resets(pick: random.Random) -> Act:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"[: pick.choice([0, 5, 40, 90])]

    def act(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        raw(handler, head)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return act


def echoes(pick: random.Random) -> Act:
    """Says what it was sent, in an error or in its very captions."""
    status = pick.choice([200, 200, 400, 401, 403, 422, 429, 500])

    def act(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        said = f"{handler.path} {handler.headers} {KEY} me:{LOGIN} http://me:{LOGIN}@host/"
        if status == 200:
            says("\n".join(f"{n}. a dog {n} {said!r}" for n in range(1, 7)))(handler, asked)
        else:
            fails(status, message=said)(handler, asked)

    return act


Behaviour = Callable[[random.Random], Act]
BEHAVIOURS: tuple[Behaviour, ...] = (
    *(echoes, steering, endless, endless_headers, drips, bomb, chunks, redirects, waits),
    *(bytes_of_no_text, refuses, other_shapes, nested, page, resets),
)


@pytest.mark.parametrize("number", numbers(3, 105))
def test_no_server_breaks_the_command_or_has_it_tell(
    tmp_path: Path, number: int, attack: Attack
) -> None:
    pick = dice("servers", number)
    behaviour = BEHAVIOURS[number % len(BEHAVIOURS)]
    act = behaviour(pick)
    with (
        attack("servers: hostile replies to a command"),
        serving(Script(*pick.choice([(act,), (act, says("1. a dog\n2. a cat"))]))) as script,
    ):
        code, said = prompts(tmp_path, script.url)
        assert script.asked, said
        told = f"{behaviour.__name__}: {code}\n{said}"
        assert "Traceback" not in said and not set(said) & STEERING, told
        assert code in (0, 4), told
        errors = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert len(errors) == (code == 4), told
        shown = {"what it says": said.encode()} | {
            str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
        }
        shown.pop(str(tmp_path / "own.yaml"))  # the user's own
        for name, data in shown.items():
            assert not [s for s in SECRETS if s.encode() in data], f"{name}: {told}"
        for path in tmp_path.rglob("prompts.jsonl"):
            for line in path.read_text("utf-8").splitlines():
                text = json.loads(line)["text"]
                assert text == printable(text) and not set(text) & STEERING, told


def resident(pid: int) -> int:
    """The most bytes that the process has held since it began its program; 0 once it has ended.
    The rusage of a child counts what its parent held when it forked."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    told = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(told[1]) << 10 if told else 0


def prompts(folder: Path, url: str) -> tuple[int, str]:
    """The exit code of the real command, and all that it said."""
    address = url.replace("://", f"://me:{LOGIN}@") + f"?api_key={QUERY}"
    backend = {
        "kind": "openai",
        "model": "m",
        "base_url": address,
        "key_variable": "SELMA_TEST_KEY",
    }
    backend |= {"timeout_s": 2.0, "max_attempts": 2, "max_seconds": 30.0}
    settings = {"skills": ["coco"], "per_skill": 4, "asked_per_reply": 6, "backend": backend}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder / "run"), "prompts": settings}))
    command = [sys.executable, "-m", "selma", "prompts", str(path)]
    environment = os.environ | {"SELMA_TEST_KEY": KEY, "no_proxy": "*"}
    with (folder / "said.txt").open("w+b") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        deadline, held = time.monotonic() + LONGEST_S, 0
        while (end := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise TimeoutError((folder / "said.txt").read_text(errors="replace"))
            held = max(held, resident(process.pid))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(end[1])
        assert 0 < held < MOST_BYTES
    return process.returncode, (folder / "said.txt").read_text("utf-8")
