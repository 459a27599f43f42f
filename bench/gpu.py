"""The first hour on a GPU: what was promised of it, measured in at most 20 minutes by one command.

    bench/gpu.sh                                    # the tests that need a GPU, then this
    .venv/bin/python bench/gpu.py                   # writes the table into docs/performance.md
    .venv/bin/python bench/gpu.py --device cpu      # the same at the smallest sizes: does it run?

Each line is a bench of its own process at real size with random weights; one that does not end in
its time is stopped, and its line says so. The lines between the marks in docs/performance.md are
replaced as a whole, with the device, driver and versions they were measured by.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from selma.disk import write_bytes
from selma.versions import versions

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured by bench/gpu.sh -->", "<!-- end -->"
SECONDS = 20 * 60


@dataclass(frozen=True)
class Bench:
    """One line of the table. small: the same for a CPU, in seconds."""

    name: str
    command: str
    small: str
    seconds: int


BENCHES = (
    Bench(
        "B4, SD 1",
        "lora_step.py --size sd1 --batch 64 --micro 32 --rank 128 --pairs 64 --steps 6 --rounds 2",
        "lora_step.py --size narrow --batch 2 --pairs 2 --steps 1 --rounds 1",
        120,
    ),
    Bench(
        "B4, SDXL",
        "lora_step.py --size sdxl --batch 16 --micro 4 --rank 128 --pairs 16 --steps 4 --rounds 1",
        "",
        150,
    ),
    Bench(
        "B5, SD 1",
        "generating.py --size sd1 --prompts 16 --steps 20 --rounds 2",
        "generating.py --size narrow --prompts 2 --steps 1 --rounds 1",
        90,
    ),
    Bench("B5, SDXL", "generating.py --size sdxl --batch 8 --prompts 8 --steps 10 --rounds 1", "",
          120),
    Bench("B13", "oft_step.py --model sd15 --batch 8", "oft_step.py --model small --batch 1", 90),
    Bench(
        "B19",
        "repeating.py --size sd1 --batch 16 --rank 128",
        "repeating.py --size narrow --batch 1 --steps 1",
        90,
    ),
    Bench("memory, SD 1.5", "real_sizes.py --base sd-1.5", "", 60),
    Bench("memory, SDXL", "real_sizes.py --base sdxl", "", 90),
    Bench(
        "B20, SD 1",
        "faster.py --size sd1 --batch 16 --rank 128 --steps 10 --rounds 2",
        "faster.py --batch 2 --steps 1 --rounds 1",
        300,
    ),
)  # fmt: skip


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu for the smallest sizes.")] = "cuda",
    only: Annotated[list[str] | None, typer.Option(help="Names of benches, as B13.")] = None,
    out: Annotated[Path, typer.Option(help="The page whose lines are replaced.")] = (
        ROOT / "docs" / "performance.md"
    ),
) -> None:
    """Run each bench, and write what they print."""
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("no CUDA device is there; --device cpu runs the smallest sizes.")
    page = out.read_text("utf-8")
    parts, ends = [], time.monotonic() + SECONDS
    for bench in BENCHES:
        command = bench.command if device == "cuda" else bench.small
        if command and (not only or bench.name in only):
            said = ran(command, device, min(bench.seconds, ends - time.monotonic()))
            parts.append(f"**{bench.name}**: `{command} --device {device}`\n\n```\n{said}\n```")
            print(parts[-1], flush=True)
            # Each time, so that what was measured is there whatever comes after it.
            write_bytes(out, replaced(page, "\n\n".join([measured_on(device), *parts])).encode())


def ran(command: str, device: str, seconds: float) -> str:
    """What a bench prints, or how it ended."""
    program, *options = command.split()
    line = [sys.executable, str(ROOT / "bench" / program), *options, "--device", device]
    try:
        done = subprocess.run(line, capture_output=True, timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired as stopped:
        return f"{_text(stopped.stdout)}\nnot done in {seconds:.0f} s".strip()
    if done.returncode:
        why = _text(done.stderr).splitlines() or ["no word of why"]
        return f"{_text(done.stdout)}\nfailed: {why[-1]:.300}".strip()
    return _text(done.stdout)


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace").strip()


def measured_on(device: str) -> str:
    named = "a CPU, at the smallest sizes"
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        named = f"{about.name} ({about.total_memory / 2**30:.0f} GiB), CUDA {torch.version.cuda}"
    installed = versions(("torch", "diffusers", "peft"))
    return f"On {named}: " + ", ".join(f"{name} {of}" for name, of in installed.items()) + "."


def replaced(page: str, lines: str) -> str:
    """The page with these lines between the marks, which are added where there are none."""
    block = f"{BEGIN}\n\n{lines}\n\n{END}"
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n## On a GPU, by one command\n\n{block}\n"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, page, flags=re.DOTALL)


if __name__ == "__main__":
    typer.run(main)
