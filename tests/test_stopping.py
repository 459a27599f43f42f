"""Signals wait for the end of the block, once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from selma.stopping import SIGNALS, stopping


class Told(Exception):
    pass


def tell(number: int, frame: FrameType | None) -> None:
    raise Told(number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, tell) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_and_then_goes_where_it_would_have_gone(number: signal.Signals) -> None:
    reached = False
    with pytest.raises(Told, match=str(int(number))), stopping() as asked:
        assert not asked
        signal.raise_signal(number)
        reached = bool(asked)
    assert reached
    assert [signal.getsignal(each) for each in SIGNALS] == [tell] * len(SIGNALS)


def test_without_a_signal_nothing_happens() -> None:
    with stopping() as asked:
        pass
    assert not asked and [signal.getsignal(each) for each in SIGNALS] == [tell] * len(SIGNALS)


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="mine"), stopping():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")
    assert [signal.getsignal(each) for each in SIGNALS] == [tell] * len(SIGNALS)


def test_what_was_ignored_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping() as asked:
        signal.raise_signal(signal.SIGINT)
        assert not asked


def test_a_thread_beside_the_main_one_notes_nothing() -> None:
    found = []

    def work() -> None:
        with stopping() as asked:
            found.append(bool(asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = (
        "import signal\n"
        "from selma.stopping import stopping\n"
        "with stopping() as asked:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print(asked.number, flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "15\n")


def test_a_signal_during_a_callback_is_not_lost() -> None:
    """Python ignores what is raised in the callback of a weak reference, as imports have them."""
    program = """
import signal, time, weakref
from selma import cli

class Thing: ...

def command():
    thing = Thing()
    watched = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing
    time.sleep(2)

cli.app = command
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.startswith("Stopped.")


COMMAND = """
import signal, time
from selma import cli

def command():
    signal.raise_signal(signal.SIGHUP)
    print("goes on", flush=True)

cli.app = command
cli.main()
"""


@pytest.mark.parametrize(
    ("before", "code", "out"), [("", 128 + signal.SIGHUP, ""), ("nohup ", 0, "goes on\n")]
)
def test_a_closed_terminal_stops_the_command_unless_it_is_to_outlive_it(
    before: str, code: int, out: str, tmp_path: Path
) -> None:
    program = tmp_path / "command.py"
    program.write_text(COMMAND)
    done = subprocess.run(
        [*before.split(), sys.executable, program],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, out)
    assert ("Stopped. What is finished is kept" in done.stderr) == (not before)
