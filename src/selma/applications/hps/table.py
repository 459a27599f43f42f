"""The result of HPS's benchmark as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from selma.report.fitting import Column, Row, print_fitted
from selma.report.tables import known_sentences, points


def print_hps(result: Mapping[str, Any], console: Console) -> None:
    """Print a table of the scores by style, and below it what the scorer and its scale are."""
    scorer = result["scorer"]
    columns = [Column("style", "name"), Column("score"), Column("95%", "ends")]
    columns += map(Column, ("s.e.", "images", "missing"))
    rows = []
    for style, row in {**result["styles"], "all images": result}.items():
        low, high = row["interval"] or (0.0, 0.0)
        known = row.get("standard_error")
        cells = [points(row["score"] or 0.0, 2), f"{points(low, 2)} to {points(high, 2)}"]
        cells += ["" if known is None else points(known, 2)]
        counts = [str(row["images"]), str(row["missing"])]
        scored = cells if row["score"] is not None else ["", "", ""]
        last = style == "all images"
        rows.append(Row([style, *scored, *counts], last, rule_above=last))
    console.print(
        f"{scorer['name']}, benchmark of four styles", style="italic", highlight=False, markup=False
    )
    print_fitted(console, columns, rows)
    console.print(
        f"{scorer['name']} ({scorer['weights']}): {scorer['scale']}; {scorer['preprocessing']}.",
        highlight=False,
    )
    for sentence in known_sentences(filter(None, [scorer.get("known")])):
        console.print(sentence, style="dim", highlight=False, markup=False)
    if not result["complete"]:
        console.print(
            "The benchmark has 800 images of each style: this number is not comparable with "
            "published ones.",
            highlight=False,
        )
