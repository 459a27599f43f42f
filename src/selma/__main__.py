"""`python -m selma` is the command `selma`."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command."""
    # Until it has handlers of its own, Ctrl-C ends the process as it is, rather than by an
    # exception in the midst of some import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from selma.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
