"""Adapters merged by each method: how far each lies from the exact mean, its rank, size and time.

.venv/bin/python bench/merging.py A.safetensors B.safetensors ...
.venv/bin/python bench/merging.py            # five made-up ones, which share a part
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from selma.adapters.files import Lineage, given, write_adapter
from selma.config.merged import MergedConfig
from selma.merged.merging import merge_files
from selma.merged.methods import METHODS

RANK = 16
WIDTHS = (320, 640)
EXPERTS = 5
OWN_SHARE = 1.0  # norm of what is an expert's own, against the part that all share


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="Adapters of any format.")] = None,
) -> None:
    """Print one row for each method with its default settings."""
    with tempfile.TemporaryDirectory() as folder:
        Console().print(errors(files or made_up(Path(folder))))


def errors(files: list[Path]) -> Table:
    """One row for each method: its distance from the exact mean, and its cost."""
    table = Table(title="against the exact mean of the deltas")
    for column in ("method", "relative error", "cosine", "norm x", "rank", "MB", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for method in (row.name for row in METHODS.values() if not row.rotates):
            out = Path(folder) / f"{method}.safetensors"
            started = time.perf_counter()
            _, found = merge_files(files, MergedConfig.model_validate({"method": method}), out)
            seconds = time.perf_counter() - started
            whole = found["all"]
            ranks = {layer["rank"] for layer in found["layers"].values()}
            table.add_row(
                method,
                f"{whole['relative_error']:.4f}",
                f"{whole['cosine']:.4f}",
                f"{whole['norm_ratio']:.3f}",
                "-".join(map(str, sorted({min(ranks), max(ranks)}))),
                f"{out.stat().st_size / 1e6:.1f}",
                f"{seconds:.2f}",
            )
    return table


def made_up(folder: Path) -> list[Path]:
    """Make experts like fine-tuned ones: a shared start for A, and B partly in common."""
    generator = torch.Generator().manual_seed(0)

    def generated(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shared = {width: (generated(RANK, width), generated(width, RANK)) for width in WIDTHS}
    places = []
    for number in range(EXPERTS):
        tensors = {}
        for block, width in enumerate(WIDTHS):
            name = f"down_blocks.{block}.attentions.0.transformer_blocks.0.attn1.to_q"
            a, b = shared[width]
            tensors[f"{name}.lora_A.weight"] = a + OWN_SHARE * generated(RANK, width)
            tensors[f"{name}.lora_B.weight"] = b + OWN_SHARE * generated(width, RANK)
        places.append(folder / f"expert-{number}.safetensors")
        write_adapter(
            places[-1],
            given(tensors),
            rank=RANK,
            alpha=RANK,
            targets=("to_q",),
            lineage=Lineage(),
        )
    return places


if __name__ == "__main__":
    typer.run(main)
