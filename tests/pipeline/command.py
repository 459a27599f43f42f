"""The real command over the tiny run: in peace once, and then under whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml

from pipeline.killing import home, settings, tree

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
PATIENCE_S = 600
"""A run of a few seconds takes longer where much else runs."""


class Home:
    """A folder with the tiny base and configs, and the address of a language model."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.lasts_s = 0.0
        """How long the whole run took in peace."""

    def command(
        self, run: str, *words: str, launcher: Sequence[str] = (), **options: object
    ) -> list[str]:
        config = self.folder / f"{run}.yaml"
        config.write_text(yaml.safe_dump(settings(self.folder, self.address, run=run) | options))
        return [sys.executable, *launcher, "-m", "selma", *(words or ("run",)), str(config)]

    def start(
        self, command: Sequence[str], says: IO[str] | int = subprocess.PIPE, **how: object
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            command, stdout=says, stderr=says, text=True, env=os.environ | ENVIRONMENT, **how
        )

    def done(self, command: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        with self.start(command, **how) as process:
            out, said = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(command, process.returncode, out, said)

    def differences(self, run: str) -> list[str]:
        """Names of files that are not as in the run that was left in peace."""
        ours, theirs = tree(self.folder / run), tree(self.folder / "peace")
        return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))


@contextmanager
def in_peace(folder: Path) -> Iterator[Home]:
    """A home whose run `peace` nothing has disturbed."""
    with home(folder) as address:
        own = Home(folder, address)
        began = time.monotonic()
        done = own.done(own.command("peace"))
        assert done.returncode == 0, done.stderr[-3000:]
        own.lasts_s = time.monotonic() - began
        yield own
