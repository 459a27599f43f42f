"""`python -m selma.toybox.pretraining`: every weight of toybox from nothing, resumable.

The parts are trained one after the other; each continues from its checkpoint. What was used and
reached (seeds, data version, steps, hardware, metrics) is written to `pretraining.json` beside the
weights. `bench/gates.py` then measures whether they pass the gates, and adds that.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import diffusers
import torch
import transformers
import typer

from selma.toybox import ON_WISH, WORLD, weights_folder
from selma.toybox.pretraining.autoencoder import train_autoencoder
from selma.toybox.pretraining.denoiser import train_base
from selma.toybox.pretraining.gates import fingerprint, without_outdated
from selma.toybox.pretraining.judging import train_judge
from selma.toybox.pretraining.locating import train_reader
from selma.toybox.pretraining.reading import train_text_encoder
from selma.toybox.pretraining.scoring import train_scorer
from selma.toybox.pretraining.segmenting import train_segmenter
from selma.toybox.pretraining.sisters import save_weak
from selma.toybox.pretraining.transformer import train_transformer
from selma.workspace import write_json

SEED = 0
PARTS = (
    "vae", "text-encoder", "base", "weak", "judge-a", "judge-b", "clip", "segmenter", "reader",
)  # fmt: skip
SHIPPED = PARTS[2:]


def main(
    work: Annotated[
        Path, typer.Option(help="Checkpoints and caches; continue by naming it again.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the weights go; none: the package.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Some of {', '.join((*PARTS, *ON_WISH))}.")
    ] = None,
    length: Annotated[float, typer.Option(min=0.0001, help="Multiplies all step counts.")] = 1.0,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop each part after this long; run again to go on."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the bases: slow to start, faster steps.")
    ] = False,
    weak_step: Annotated[
        int | None,
        typer.Option(help="The snapshot of the base that is its weak sister; none: the first."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; none: the best.")] = None,
) -> None:
    """Trains the parts, then installs them beside the package's code."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    work.mkdir(parents=True, exist_ok=True)

    def steps(full: int) -> int:
        return max(1, round(full * length))

    on = torch.device(
        device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    )
    limit_s = None if minutes is None else 60 * minutes
    courses: dict[str, Callable[[], dict[str, float]]] = {
        "vae": lambda: train_autoencoder(
            work, steps=steps(6000), batch=32, seed=SEED, device=on, limit_s=limit_s
        ),
        "text-encoder": lambda: train_text_encoder(
            work, steps=steps(1500), batch=128, seed=SEED, device=on, limit_s=limit_s
        ),
        "base": lambda: train_base(
            work,
            steps=steps(21_000),
            batch=64,
            scenes=steps(200_000),
            seed=SEED,
            device=on,
            compiled=compiled,
            limit_s=limit_s,
        ),
        "weak": lambda: save_weak(work, step=weak_step),
        "dit": lambda: train_transformer(
            work,
            steps=steps(21_000),
            batch=64,
            scenes=steps(200_000),
            seed=SEED,
            device=on,
            compiled=compiled,
            limit_s=limit_s,
        ),
        "judge-a": lambda: train_judge(
            work, "judge-a", steps=steps(4000), batch=32, seed=SEED, device=on, limit_s=limit_s
        ),
        "judge-b": lambda: train_judge(
            work, "judge-b", steps=steps(4000), batch=32, seed=SEED + 1, device=on, limit_s=limit_s
        ),
        "clip": lambda: train_scorer(
            work, steps=steps(2000), batch=128, seed=SEED, device=on, limit_s=limit_s
        ),
        "segmenter": lambda: train_segmenter(
            work, steps=steps(2500), batch=32, seed=SEED, device=on, limit_s=limit_s
        ),
        "reader": lambda: train_reader(
            work, steps=steps(2000), batch=64, seed=SEED, device=on, limit_s=limit_s
        ),
    }
    target = out or weights_folder()
    for name in only or PARTS:
        if name not in courses:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(courses)}")
        metrics = courses[name]()
        typer.echo(f"{name}: {json.dumps(metrics)}")
        if name in (*SHIPPED, *ON_WISH):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copytree(work / name, target / name, dirs_exist_ok=True)
        _record(target, name, metrics, on)


def _record(target: Path, name: str, metrics: dict[str, float], device: torch.device) -> None:
    """Adds what was reached to `pretraining.json`; gates that rested on other weights go."""
    target.mkdir(parents=True, exist_ok=True)
    path = target / "pretraining.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes[name] = {
        "metrics": metrics,
        "seed": SEED,
        "data_version": WORLD,
        "hardware": _hardware(device),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    }
    if (target / name).is_dir():
        notes[name]["weights"] = fingerprint(target / name)
    write_json(path, without_outdated(notes, target))


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    typer.run(main)
