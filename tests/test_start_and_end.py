"""How the command begins and ends: by a signal at once, with an output that nobody takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from attacks import Attack

import selma

STOPPED = """
import os, runpy, signal, sys

class Interrupts:
    '''Sends a signal while the command is still importing.'''
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Interrupts())
sys.argv = ["selma", "bases"]
runpy.run_module("selma", run_name="__main__")
"""


def command(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "selma", *words)
    return subprocess.run(words, text=True, timeout=120, **how)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_amid_the_first_imports_ends_it_silently(name: str, attack: Attack) -> None:
    program = STOPPED.format(signal=name)
    with attack("signals: the first imports"):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
        assert done.returncode == -getattr(signal, name) and done.stderr == b""


BEFORE = """
import sys
sys.path.insert(0, {source!r})
import _signal
handler, imported = _signal.getsignal(_signal.SIGINT), []

def note(event, words):
    if event == "import" and _signal.getsignal(_signal.SIGINT) is handler:
        imported.append(words[0])

sys.addaudithook(note)
sys.argv = ["selma", "--help"]
from selma.__main__ import main
try:
    main()
finally:
    print(imported)
"""


def test_the_command_takes_ctrl_c_over_before_it_imports_anything() -> None:
    # Isolated from the site, whose own imports would hide ours.
    program = BEFORE.format(source=str(Path(selma.__file__).parents[1]))
    packages = f"import sys; sys.path.append({str(Path(typer.__file__).parents[1])!r})\n"
    words = [sys.executable, "-I", "-S", "-c", packages + program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == str(["selma.__main__", "selma"]), done.stderr


def test_as_a_library_selma_leaves_signals_alone() -> None:
    program = (
        "import signal; before = [signal.getsignal(n) for n in signal.valid_signals()]\n"
        "import selma; [getattr(selma, name) for name in selma.__all__]\n"
        "assert before == [signal.getsignal(n) for n in signal.valid_signals()]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [("bases",), ("--help",)])
def test_a_full_disk_behind_the_output_is_one_sentence(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = command(*words, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 5
        assert done.stderr.startswith("Error: ") and "No space left" in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
        assert command(*words, stdout=full, stderr=full).returncode == 5


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        done = command("bases", stdout=output, stderr=subprocess.PIPE)
    assert done.stderr == "" and done.returncode in (1, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("words", [("bases",), ("--help",), ("check", "nowhere.yaml")])
def test_an_output_that_takes_nothing_is_no_fault_of_a_disk(words: tuple[str, ...]) -> None:
    with open(os.devnull) as unwritable:
        done = command(*words, stdout=unwritable, stderr=subprocess.PIPE)
    assert len(done.stderr.splitlines()) == 1 and "disk" not in done.stderr
    if words[0] != "check":
        assert done.returncode == 5 and "an output that is open" in done.stderr


def test_a_terminal_that_has_gone_is_no_fault_of_a_disk() -> None:
    main, end = os.openpty()
    with open(end, "w") as output:
        os.close(main)
        done = command("bases", stdout=output, stderr=subprocess.PIPE)
    assert done.returncode == 5 and "an output that is open" in done.stderr


def test_a_closed_output_is_no_error() -> None:
    script = f"{sys.executable} -m selma bases >&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


IMPORTING = """
import os, signal, sys

class Interrupts:
    '''Sends a signal while a command imports what it needs.'''
    def find_spec(self, name, path=None, target=None):
        if name == "selma.pipeline":
            os.kill(os.getpid(), signal.{signal})

from selma.cli import main
sys.meta_path.insert(0, Interrupts())
sys.argv = ["selma", "prompts", "nowhere.yaml"]
main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_amid_a_commands_imports_is_one_sentence(name: str) -> None:
    program = IMPORTING.format(signal=name)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr.startswith("Stopped. ") and len(done.stderr.splitlines()) == 1


ENDING = """
import os, signal, sys, typer
from selma import cli

class Late:
    # When the interpreter clears what is left; by then there are no globals.
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{signal}):
        kill(pid, number)

sys.late = Late()
cli.app = lambda: None
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_as_the_interpreter_ends_takes_no_exit_code(name: str) -> None:
    program = ENDING.format(signal=name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
