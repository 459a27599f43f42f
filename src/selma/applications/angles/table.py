"""The toy experiment's numbers for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from selma.records.scores import Interval
from selma.report import tables

DIGITS = {"mse": 4, "correlation": 3, "recognised": 1}
"""Measure → decimals."""


def print_angles(numbers: Mapping[str, Any], console: Console) -> None:
    """Print what each way of decoding left of the held-out images (`experiment.run_angles`)."""
    table = Table(
        title=f"{numbers['source']}: {numbers['images']['held_out']} held-out images",
        caption="95% intervals over images; recognised: percent more like their own image than any "
        "other",
    )
    table.add_column("decoded from")
    for name in ("mse", "correlation", "recognised, %"):
        table.add_column(name, justify="right")
    for mode, values in numbers["modes"].items():
        table.add_row(mode, *(_cell(values[name], digits) for name, digits in DIGITS.items()))
    console.print(table)


def _cell(value: Mapping[str, Any], digits: int) -> str:
    interval = Interval.model_validate(value)
    ends = tables.between(interval, digits=digits)
    return f"{tables.points(interval.mean, digits)} ({ends})"
