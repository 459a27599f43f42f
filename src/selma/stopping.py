"""A signal that asks for the end, heeded where nothing is lost by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks for the end; SIGHUP: the terminal was closed."""


@dataclass
class Asked:
    """Which signal came, if one did."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def stopping() -> Iterator[Asked]:
    """While the block runs, `SIGNALS` are only noted; leave it soon after. Then the signal goes
    where it would have gone. A second one ends the process at once.

    In a thread that is not the main one nothing is noted: there, Python gives signals to nobody.
    """
    asked = Asked()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    # What is ignored stays so, and a handler that is not Python's (None) could not be put back.
    before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def note(number: int, frame: FrameType | None) -> None:
        asked.number = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, note)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.number is not None:
        signal.raise_signal(asked.number)
