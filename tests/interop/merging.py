"""`selma merge` as a person runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from selma.cli import app


def merge(
    files: Sequence[Path], out: Path, *, method: str, weights: Sequence[float], **options: object
) -> Path:
    """The file that `selma merge FILES` writes; options by their names on the command line."""
    words = [*map(str, files), "--method", method, "--out", str(out)]
    words += ["--weights", ",".join(map(str, weights))]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        words += [f"--no-{option[2:]}"] if value is False else [option, str(value)]
    result = CliRunner().invoke(app, ["merge", *words])
    assert result.exit_code == 0, result.exception or result.output
    return out
