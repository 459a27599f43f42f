"""`selma` as a program that starts at once: what it imports has been imported, and it forks.

    with warm_selma(folder) as program: subprocess.run([program, "images", "run.yaml"])

Each start is a process of its own with its caller's environment, folder and files, as the installed
program is; one whose caller is killed is killed, too. What has imported serves all programs of this
process; what libraries read from the environment when they are imported, they read then.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

CALL = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect({address!r})
    asked = [sys.argv[1:], dict(os.environ), os.getcwd(), {before!r}]
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
    program = folder / "selma"
    program.write_text(
        CALL.format(python=sys.executable, address=str(_address()), before=before), "utf-8"
    )
    program.chmod(stat.S_IRWXU)
    yield program
    program.unlink()


@cache
def _address() -> Path:
    """Where the process listens that forks; it lasts as long as this one."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder / "selma.socket")],
        stdin=subprocess.PIPE,  # its end is this process's
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.kill)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    return folder / "selma.socket"


def serve(address: str) -> None:
    from pipeline.killing import warm

    warm()
    threading.Thread(target=end_with_the_caller, daemon=True).start()
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
                start(*asked, files)


def end_with_the_caller() -> None:
    os.read(0, 1)  # nothing is ever written
    os._exit(0)


def received(calling: socket.socket) -> tuple[Any, list[int]]:
    """Arguments, environment and folder of the caller, and what to run before; its input, output
    and errors."""
    text, files = b"", list[int]()
    while not text.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(calling, MOST, 3)
        assert part, "the caller has gone"
        text, files = text + part, [*files, *found]
    return json.loads(text), files


def start(
    arguments: list[str], environment: dict[str, str], folder: str, before: str, files: list[int]
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
