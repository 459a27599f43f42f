"""The programs that selma exchanges files and replies with, each in an environment of its own.

    python tests/interop/programs.py                  lists them, and what is missing of each
    python tests/interop/programs.py --install        makes the environments, all or those named

An environment is `$SELMA_INTEROP/<program>`, or where `SELMA_INTEROP_<PROGRAM>` says. A program
that is no package also needs a checkout of its repository, in the environment's folder `source`;
none of it belongs in this repository. What is absent is skipped by the tests, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

JOBS = Path(__file__).parent / "jobs"
TIMEOUT_S = 900


@dataclass(frozen=True)
class Program:
    """One row: what its environment holds."""

    name: str
    requirements: tuple[str, ...]
    """Of pip, with the versions that the suite was written with."""
    package: str | None = None
    """The requirement whose version is the program's."""
    checkout: str | None = None
    """Repository and commit, where it is no package."""

    @property
    def folder(self) -> Path | None:
        """Its environment; None where neither variable says where."""
        variable = "SELMA_INTEROP_" + re.sub(r"\W", "_", self.name.upper())
        if variable in os.environ:
            return Path(os.environ[variable])
        root = os.environ.get("SELMA_INTEROP")
        return Path(root) / self.name if root else None

    @property
    def source(self) -> Path:
        """Its checkout."""
        return (self.folder or Path()) / "source"

    @property
    def python(self) -> Path:
        return (self.folder or Path()) / "bin" / "python"

    @property
    def missing(self) -> str | None:
        """Why it cannot be run; None where it can."""
        if self.folder is None:
            return f"{self.name}: SELMA_INTEROP does not say where it is (make interop-programs)"
        if not self.python.exists():
            return f"{self.name}: {self.folder} is no environment (make interop-programs)"
        if self.checkout and not self.source.is_dir():
            return f"{self.name}: {self.source} must be a checkout of {self.checkout}"
        return None

    @property
    def version(self) -> str:
        """The version that is there."""
        return _version(self)


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "sd-scripts",
            (
                "torch==2.14.1", "torchvision==0.29.1", "accelerate==1.6.0",
                "transformers==4.54.1", "diffusers==0.32.1", "ftfy==6.3.1",
                "opencv-python-headless==4.10.0.84", "einops==0.7.0", "safetensors==0.4.5",
                "toml==0.10.2", "voluptuous==0.15.2", "huggingface-hub==0.34.3",
                "imagesize==1.4.1", "numpy", "sentencepiece", "rich",
            ),
            checkout="kohya-ss/sd-scripts at 48d368fa",
        ),
        Program(
            "comfyui",
            (
                "torch==2.14.1", "torchvision==0.29.1", "safetensors", "numpy", "einops",
                "transformers", "tokenizers", "sentencepiece", "psutil", "pyyaml", "Pillow",
                "scipy", "tqdm", "torchsde", "aiohttp", "pydantic~=2.0", "av", "SQLAlchemy",
                "alembic",
            ),
            checkout="Comfy-Org/ComfyUI at a125cd84",
        ),
        Program("mergekit", ("torch==2.13.0", "mergekit==0.1.4"), package="mergekit"),
        Program("llama.cpp", ("xllamacpp==2026.10.11549",), package="xllamacpp"),
        Program(
            "scorers",
            (
                "torch==2.14.1", "torchvision==0.29.1", "hpsv2==1.2.0", "image-reward==1.5",
                "open-clip-torch==2.32.0", "transformers==4.54.1", "setuptools<80",
            ),
        ),
    )
}  # fmt: skip


def run(program: Program, job: str, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the job of that name answers to each task, when the program's interpreter runs them.

    A task names a function of the job as "task"; the rest is what it is told, paths as text. Many
    tasks in one process are much faster, since loading the program takes longest. Raises
    RuntimeError with its last lines if it fails.
    """
    text = json.dumps(list(tasks), default=str)
    printed = command(program, [str(JOBS / f"{job}.py"), text])
    results: list[dict[str, Any]] = json.loads(printed.strip().splitlines()[-1])
    return results


def command(program: Program, words: Sequence[str], *, cwd: Path | None = None) -> str:
    """What a command of the program's interpreter prints. Raises RuntimeError if it fails."""
    done = subprocess.run(
        [str(program.python), *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        env=environment(program),
    )
    if done.returncode:
        raise RuntimeError(
            f"{program.name} {words[0]}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def environment(program: Program) -> Mapping[str, str]:
    """The variables of a job: nothing of ours, and no network."""
    ours = ("PYTHON", "SELMA", "HF_", "VIRTUAL_ENV")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return plain | {
        "PYTHONPATH": str(program.source) if program.checkout else "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@cache
def _version(program: Program) -> str:
    if program.package:
        code = f"import importlib.metadata as m; print(m.version({program.package!r}))"
        return command(program, ["-c", code]).strip()
    if program.checkout is None:
        return ""
    git = ["git", "-C", str(program.source), "rev-parse", "--short=8", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True)
    return done.stdout.strip() or program.checkout.rpartition(" ")[2]


def install(program: Program, root: Path) -> None:
    """Make the program's environment below `root`; a checkout has to be put there by hand."""
    folder = root / program.name
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *program.requirements], check=True)


def main() -> None:
    """List the programs, or make the environments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[*PROGRAMS], metavar="PROGRAM")
    parser.add_argument("--install", action="store_true")
    wanted = parser.parse_args()
    for name in wanted.names:
        program = PROGRAMS[name]
        if wanted.install and program.missing:
            root = os.environ.get("SELMA_INTEROP")
            if not root:
                parser.error("SELMA_INTEROP must name the folder of the environments")
            if not program.python.exists():
                install(program, Path(root))
        print(program.missing or f"{name}: {program.folder}")


if __name__ == "__main__":
    main()
