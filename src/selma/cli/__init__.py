"""The command `selma`. No logic: each command calls what it is named after."""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from selma.applications import APPLICATIONS
from selma.cli import adapters, benchmarks, merging, scoring, stages
from selma.screen import say, show_traceback

SPINS = "10000"
"""How often a thread of torch looks for work before it sleeps: libgomp's own 300,000 take the
processor from the very thread that is waited for, wherever something else runs, too
(`bench/crowded.py`)."""

app = typer.Typer(
    help="Make a text-to-image model follow its prompts better, without a single human label.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
toybox = typer.Typer(help="The embedded model and its world.", no_args_is_help=True)
for command in (
    stages.run,
    stages.prompts,
    stages.images,
    stages.experts,
    merging.merge,
    stages.report,
    stages.status,
    stages.check,
    stages.memory,
    adapters.generate,
    adapters.convert,
    adapters.inspect,
    adapters.bases,
):
    app.command(cls=merging.MergeCommand if command is merging.merge else None)(command)
app.add_typer(scoring.score, name="score")
app.add_typer(benchmarks.data, name="data")
app.add_typer(toybox, name="toybox")
for application in APPLICATIONS.values():
    with APPLICATIONS.guarded(application.name):
        import_module(application.commands).register(app)


@toybox.command()
def path() -> None:
    """Print the folder of the embedded models."""
    from selma.toybox import weights_folder

    say(weights_folder())


@toybox.command()
def subjects(
    out: Annotated[Path, typer.Argument(help="Folder; one with images for each subject.")],
) -> None:
    """Draw toybox's eight subjects, in the layout of DreamBooth's dataset."""
    from selma.toybox.subjects import write_subjects

    say(write_subjects(out))


class Stopped(BaseException):
    """A signal asked for the end; not an Exception, so that no library swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main() -> NoReturn:
    """Runs the command; an error of ours is its message and its exit code, without a traceback."""
    from selma import processes
    from selma.errors import DataError, SelmaError

    if processes.launched()[0]:
        _hush()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    sys.unraisablehook = _again
    sys.excepthook = show_traceback
    try:
        app()
        sys.exit(0)
    except SelmaError as error:
        say(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a file where a folder goes, no right to write, a full disk
        say(f"Error: {_of_the_system(error)}", err=True)
        sys.exit(DataError.exit_code)
    except Stopped as stopped:
        say("Stopped. What is finished is kept: the same command goes on from here.", err=True)
        sys.exit(stopped.exit_code)


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, as a sentence."""
    if error.filename is None or error.strerror is None:
        return f"{error}."
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(names)} cannot be used: {error.strerror}."


def _hush() -> None:
    """What every process would say, the main one says."""
    from selma.progress import console

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)
    console.quiet = True


def _stop(number: int, frame: object) -> None:
    # A second signal ends the process at once; whatever is half-written is made again.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise Stopped(number)


def _again(ignored: sys.UnraisableHookArgs) -> None:
    """Sends a signal again that came while a callback ran (of a weak reference, as imports have
    them, or `__del__`): Python ignores whatever is raised there."""
    if not isinstance(ignored.exc_value, Stopped):
        sys.__unraisablehook__(ignored)
        return
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # From another thread, a little later: here it would be ignored, too.
    timer = threading.Timer(0.05, signal.raise_signal, [ignored.exc_value.exit_code - 128])
    timer.daemon = True
    timer.start()
