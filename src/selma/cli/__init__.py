"""The command `selma`. No logic: each command calls what it is named after."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from selma.applications import APPLICATIONS
from selma.cli import adapters, benchmarks, merging, scoring, stages
from selma.console import Commands
from selma.disk import refusal
from selma.errors import SelmaError, WorkspaceError
from selma.outputs import written
from selma.screen import say, show_traceback
from selma.stopping import SIGNALS

SPINS = "10000"
"""How often a thread of torch looks for work before it sleeps: libgomp's own 300,000 take the
processor from the very thread that is waited for, wherever something else runs, too
(`bench/crowded.py`)."""

app = typer.Typer(
    cls=Commands,
    help="Make a text-to-image model follow its prompts better, without a single human label.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
toybox = typer.Typer(help="The embedded model and its world.", cls=Commands, no_args_is_help=True)
for command in (
    stages.run,
    stages.prompts,
    stages.images,
    stages.experts,
    merging.merge,
    merging.resize,
    stages.report,
    stages.status,
    stages.check,
    stages.memory,
    stages.plan,
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
    out: Annotated[
        Path, typer.Argument(callback=written, help="Folder; one with images for each subject.")
    ],
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

    if processes.launched()[0]:
        _hush()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    sys.unraisablehook = _again
    sys.excepthook = show_traceback
    atexit.register(_let_end)  # before all others, so that it runs after them
    try:
        sys.exit(_told(_exit_code()))
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def _exit_code() -> int:
    """Run the command; what went wrong is told, as its exit code is returned."""
    try:
        _heed(_stop)
        app()
    except SystemExit as end:  # typer's own
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except SelmaError as error:
        return _failed(error)
    except OSError as error:  # a file where a folder goes, no right to write, a full disk
        if error.errno == errno.EPIPE:  # whoever read the output has gone
            return _PIPE
        return _failed(_of_output(error) or refusal(error))
    except Stopped as stopped:
        _say(_STOPPED)
        return stopped.exit_code
    return 0


_PIPE = 128 + signal.SIGPIPE
_STOPPED = "Stopped. What is finished is kept: the same command goes on from here."


def _of_output(error: OSError) -> SelmaError | None:
    """What standard output refuses that is closed or whose terminal has gone; files have names."""
    if error.filename is not None or error.errno not in (errno.EBADF, errno.EIO):
        return None
    return WorkspaceError(
        f"Standard output takes nothing: {error.strerror}. What is finished is kept: run the same "
        "command with an output that is open."
    )


def _failed(error: SelmaError) -> int:
    _say(f"Error: {error}")
    return error.exit_code


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens
        say(text, err=True)


def _told(code: int) -> int:
    """The exit code, after all that was printed has gone out; its own failure if it could not."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Else the interpreter tries again as it ends, and fails with a message of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            return code or _PIPE
        told = _of_output(error) or refusal(error, Path("standard output"), task="written")
        return code or _failed(told)
    return code


def _hush() -> None:
    """What every process would say, the main one says."""
    from selma.progress import console

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)
    console.quiet = True


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal ends the process at once; whatever is half-written is made again.
    _heed(signal.SIG_DFL)
    if _imports(frame):
        # What is raised amid an import, compiled code wraps into errors of its own or swallows.
        with suppress(OSError):
            os.write(2, f"{_STOPPED}\n".encode())
        os._exit(128 + number)
    raise Stopped(number)


def _let_end() -> None:
    """What is left is the interpreter's own end, which puts back the system's handlers: a signal
    would only rob a command that is through of its exit code."""
    _heed(signal.SIG_IGN)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _heed(handler: Any) -> None:
    """Set what signals do that ask for the end. Under nohup SIGHUP is ignored, and stays so; that a
    shell's background jobs ignore SIGINT is no wish of anybody's."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _again(ignored: sys.UnraisableHookArgs) -> None:
    """Sends a signal again that came while a callback ran (of a weak reference, as imports have
    them, or `__del__`): Python ignores whatever is raised there."""
    if not isinstance(ignored.exc_value, Stopped):
        sys.__unraisablehook__(ignored)
        return
    _heed(_stop)
    # From another thread, a little later: here it would be ignored, too.
    timer = threading.Timer(0.05, signal.raise_signal, [ignored.exc_value.exit_code - 128])
    timer.daemon = True
    timer.start()
