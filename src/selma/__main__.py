"""`python -m selma` is the command `selma`.

Until `main` has begun, Ctrl-C is a traceback of Python's own: neither this file nor
`selma/__init__` imports anything before that.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the command."""
    import _signal  # type: ignore[import-not-found]  # built in; `signal` imports others

    # Until it has handlers of its own, Ctrl-C ends the process as it is, rather than by an
    # exception in the midst of some import.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from selma.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
