"""All that goes to a terminal: no text of others steers it, and no address shows its password."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

import typer

from selma.texts import legible, without_logins

LONGEST = 50_000
"""Characters of one message: all mistakes of a config, but not a file that is none."""


def shown(text: str) -> str:
    """The text as a terminal is sent it."""
    rest = len(text) - LONGEST
    more = f"\n... and {rest:,} characters more" if rest > 0 else ""
    return legible(without_logins(text[:LONGEST])) + more


def say(text: object = "", *, err: bool = False) -> None:
    """Write a line to standard output, or to standard error."""
    typer.echo(shown(str(text)), err=err)


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Python's own report of an error that is none of ours, for `sys.excepthook`."""
    lines = traceback.format_exception(kind, error, trace)
    sys.stderr.write("".join(legible(without_logins(line)) for line in lines))
