"""Commands of selma's that serve a page, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Served(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    output: str


@contextmanager
def started(
    *command: str, program: Sequence[str] = (sys.executable, "-m", "selma")
) -> Iterator[Served]:
    """A command of selma's that serves a page, on any port if it names none, while the block runs;
    killed after it, if it still lives."""
    port = () if "--port" in command else ("--port", "0")
    with subprocess.Popen(
        [*program, *command, *port],
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
