"""`selma` as a program that starts at once: what it imports has been imported, and it forks.

    with warm_selma(folder) as program: subprocess.run([program, "images", "run.yaml"])

Each start is a process of its own with its caller's environment, folder and files, as the installed
program is; one whose caller is killed is killed, too.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CALL = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect({address!r})
    asked = [sys.argv[1:], dict(os.environ), os.getcwd()]
    socket.send_fds(calling, [json.dumps(asked).encode() + b"\\n"], [0, 1, 2])
    code = int(calling.makefile().readline() or 1)
if code < 0:
    import signal
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
MOST = 1 << 20


@contextmanager
def warm_selma(folder: Path, *, before: str = "") -> Iterator[Path]:
    """The program, in the folder. before: Python that each start runs before selma's own."""
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "selma.socket"
    program = folder / "selma"
    program.write_text(CALL.format(python=sys.executable, address=str(address)))
    program.chmod(stat.S_IRWXU)
    with subprocess.Popen(
        [sys.executable, __file__, str(address), before],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            yield program
        finally:
            server.kill()


def serve(address: str, before: str) -> None:
    from pipeline.killing import warm

    warm()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            calling, _ = listening.accept()
            asked, files = received(calling)
            if pid := os.fork():
                for file in files:
                    os.close(file)
                threading.Thread(target=answer, args=(calling, pid), daemon=True).start()
            else:
                calling.close()
                start(*asked, files, before=before)


def received(calling: socket.socket) -> tuple[Any, list[int]]:
    """Arguments, environment and folder of the caller; its input, output and errors."""
    text, files = b"", list[int]()
    while not text.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(calling, MOST, 3)
        assert part, "the caller has gone"
        text, files = text + part, [*files, *found]
    return json.loads(text), files


def start(
    arguments: list[str], environment: dict[str, str], folder: str, files: list[int], *, before: str
) -> None:
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["selma", *arguments]
        from selma.__main__ import main

        exec(before)
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(calling: socket.socket, pid: int) -> None:
    """Tell the caller how it ended; end it if the caller has ended."""
    ended = threading.Event()

    def watch() -> None:
        calling.recv(1)  # nothing is ever sent: it is the caller's end
        if not ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(pid, 9)

    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(pid, 0)
    ended.set()
    with suppress(OSError), calling:
        calling.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve(*sys.argv[1:])
