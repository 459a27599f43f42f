"""The page on control: images by condition, and how well they follow it.

6-report/control.html          a self-contained page
6-report/pages/control.json    its section of the run's report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selma.applications.control.records import ControlCard, ControlSample, ControlScore
from selma.applications.control.settings import Table as TableName
from selma.image_places import image_of
from selma.plurals import counted
from selma.records.benchmarks import spaced
from selma.records.pages import Page, PageTable
from selma.records.scores import Interval
from selma.report import grids, tables
from selma.report.page import flat
from selma.report.pages import write_page
from selma.report.templates import environment, policy
from selma.workspace import Workspace

PAGE = "control.html"
TITLE = "Images generated from a condition"
IMAGES = 6
"""Samples shown for each condition, evenly spaced, whatever their scores."""

LABELS: dict[str, tuple[str, str, int]] = {
    "iou": ("IoU", "higher", 3),
    "f1": ("F1", "higher", 3),
    "miou": ("mIoU", "higher", 1),
    "macc": ("mAcc", "higher", 1),
    "aacc": ("aAcc", "higher", 1),
    "error": ("error, px of 512", "lower", 2),
    "failures": ("failures, %", "lower", 1),
}
"""Measure → its column's name, which direction is better, and decimals."""

UNREAD = "selma has no reader of this condition."
MEANINGS = {
    "canny": "IoU and F1 of edges, exact to the pixel, as the mean over images.",
    "segmentation": "mIoU, mAcc and aAcc of all images' pixels together, in percent.",
    "landmarks": "The mean distance of landmarks where all were found, in pixels of a 512-px "
    "image, and the share of images in which the reader did not find them all.",
}


TITLES: dict[TableName | None, str] = {
    None: "",
    "methods": "Methods, as in the paper's table 2",
    "blocks": "Number of blocks, as in its table 3",
    "magnitudes": "Magnitudes fitted afterwards, as in its table 4",
}


@dataclass(frozen=True)
class ConditionSection:
    """One condition's card and images."""

    card: ControlCard
    samples: Sequence[ControlSample]
    images: Mapping[str, Path | None]
    """Model → its folder; None for the source images."""
    groups: Sequence[tuple[TableName | None, Sequence[str]]]
    """Tables and the networks in each; source and base are in all."""


def write_control_page(
    sections: Sequence[ConditionSection],
    folder: Workspace,
    *,
    name: str,
    settings: Mapping[str, Any],
    about: Mapping[str, str],
) -> Path:
    """Write the page and its section of the run's report; returns the page's path.

    about: `records.pages.Page.about`. Raises DataError if an image cannot be read.
    """
    html = render(sections, name=name, settings=settings)
    return write_page(control_page(sections, about=about), folder, html)


def control_page(sections: Sequence[ConditionSection], *, about: Mapping[str, str]) -> Page:
    """The section of the run's report: one table for each condition, or for each of its groups."""
    return Page(
        name="control",
        title=TITLE,
        headline="How well images follow their condition: "
        + ", ".join(f"{s.card.condition} ({counted(s.card.images, 'image')})" for s in sections)
        + ".",
        file=PAGE,
        about=dict(about),
        tables=tuple(
            _page_table(s.card, table, names) for s in sections for table, names in s.groups
        ),
    )


def _page_table(card: ControlCard, table: TableName | None, names: Sequence[str]) -> PageTable:
    measures = measures_in(card)
    columns = ["Model", "trained"]
    for name in measures:
        arrow = "↑" if LABELS[name][1] == "higher" else "↓"
        columns += [f"{LABELS[name][0]} {arrow} (95%)"]
        columns += [f"minus {card.reference} (95%)"] if card.reference else []
    columns += ["FID ↓"] if card.features else []
    rows = []
    for model in _rows(card, names):
        cells = [model.model, millions(model.parameters)]
        for name in measures:
            cells += [_value(model, name)]
            cells += [_difference(model, name)] if card.reference else []
        cells += ["" if model.fid is None else tables.points(model.fid, 2)] if card.features else []
        rows.append(tuple(cells))
    title = TITLES[table]
    return PageTable(
        caption=f"{card.condition.capitalize()}: {title}" if title else card.condition.capitalize(),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(f"{MEANINGS.get(card.condition, UNREAD)} Read by {card.reader}.",),
    )


def render(sections: Sequence[ConditionSection], *, name: str, settings: Mapping[str, Any]) -> str:
    """Render the page's HTML; jinja's autoescape escapes everything that comes from data."""
    jinja = environment("selma.applications.control")
    jinja.globals.update({"better": better, "labels": LABELS, "millions": millions})
    return jinja.get_template("control.html").render(
        name=name,
        policy=policy(),
        conditions=[
            {
                "card": s.card,
                "measures": measures_in(s.card),
                "tables": [(TITLES[table], _rows(s.card, names)) for table, names in s.groups],
                "meaning": MEANINGS.get(s.card.condition, UNREAD),
                "cards": [_card(s, sample) for sample in spaced(s.samples, IMAGES)],
            }
            for s in sections
        ],
        settings=list(flat(settings)),
    )


def measures_in(card: ControlCard) -> list[str]:
    """The measures that at least one model has, in their order."""
    return [name for name in LABELS if any(name in model.measures for model in card.models)]


def millions(count: int | None) -> str:
    """A parameter count in millions or thousands."""
    if count is None:
        return ""
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count / 1e3:.1f} k"


def print_card(card: ControlCard, console: Console) -> None:
    """Print one condition's table of models."""
    table = Table(
        title=f"{card.condition}: {counted(card.images, 'image')}, read by {card.reader}",
        caption="95% intervals; differences are paired by image"
        + (f", minus {card.reference}" if card.reference else ""),
    )
    table.add_column("model", overflow="fold")
    table.add_column("trained", justify="right", overflow="fold")
    for name in measures_in(card):
        table.add_column(LABELS[name][0], justify="right")
        table.add_column("difference", justify="right", overflow="fold")
    table.add_column("FID", justify="right", no_wrap=True)
    for model in card.models:
        cells = [model.model, millions(model.parameters)]
        for name in measures_in(card):
            cells += [_value(model, name), _difference(model, name)]
        table.add_row(*cells, "" if model.fid is None else tables.points(model.fid, 2))
    console.print(table)


def better(name: str, change: Interval) -> str:
    """The CSS class of a difference: "gain" or "loss" if it is clear in the digits that are shown,
    else ""."""
    _, direction, digits = LABELS[name]
    if not tables.clear(change, digits=digits):
        return ""
    return "gain" if (change.mean > 0) == (direction == "higher") else "loss"


def _value(model: ControlScore, name: str) -> str:
    return tables.cell(model.measures.get(name), digits=LABELS[name][2]) or "none"


def _difference(model: ControlScore, name: str) -> str:
    return tables.cell(model.differences.get(name), sign=True, digits=LABELS[name][2])


def _rows(card: ControlCard, names: Sequence[str]) -> list[ControlScore]:
    by_name = {model.model: model for model in card.models}
    untrained = [model for model in card.models if model.role != "control"]
    return [*untrained, *(by_name[name] for name in names)]


def _card(section: ConditionSection, sample: ControlSample) -> dict[str, Any]:
    images = [("condition", sample.conditioning_image)]
    for model, folder in section.images.items():
        image = sample.image if folder is None else image_of(folder, sample.id)
        images.append((model, image))
    return {
        "text": sample.text,
        "images": [(model, grids.data_uri(image)) for model, image in images],
    }
