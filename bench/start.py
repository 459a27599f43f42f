"""How long `selma --help` takes, beside what a script does before it reads an argument (B12).

    .venv/bin/python bench/start.py

Training scripts import torch, transformers, diffusers and peft first. CPU seconds of whole
processes, in turn; `python -c pass` is what no Python program can do without.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from turns import in_turn

SCRIPT = "import argparse, torch, transformers, diffusers, peft, accelerate"
HEAVY = ("torch", "transformers", "diffusers", "scipy")


def main(rounds: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Print seconds and their ratios; fail if a model library was imported."""
    sides = {
        "selma --help": ["-m", "selma", "--help"],
        "selma check": ["-m", "selma", "check", "configs/toybox.yaml"],
        "a script's imports": ["-c", SCRIPT],
        "python alone": ["-c", "pass"],
    }
    in_turn({name: partial(started, given) for name, given in sides.items()}, rounds=rounds).show(
        "start of a command"
    )
    told = started(["-X", "importtime", "-m", "selma", "--help"]).stderr
    heavy = [name for name in HEAVY if f" {name}\n" in told]
    Console().print(f"Imported by --help: {', '.join(heavy) or 'none of ' + ', '.join(HEAVY)}.")
    raise typer.Exit(1 if heavy else 0)


def started(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


if __name__ == "__main__":
    typer.run(main)
