"""The page on control: what was drawn by which signal, and how well it keeps to it.

6-report/control.html    one file that needs nothing else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from selma.applications.control.records import ControlCard, ControlSample, ControlScore
from selma.applications.control.settings import Table as TableName
from selma.records.scores import Interval
from selma.report import grids, tables
from selma.report.page import flat
from selma.workspace import REPORT, Workspace, inside, write_bytes

PAGE = "control.html"
IMAGES = 6
"""Samples shown for each signal, evenly spaced, chosen without a look at any score."""

LABELS: dict[str, tuple[str, str, int]] = {
    "iou": ("IoU", "higher", 3),
    "f1": ("F1", "higher", 3),
    "miou": ("mIoU", "higher", 1),
    "macc": ("mAcc", "higher", 1),
    "aacc": ("aAcc", "higher", 1),
    "error": ("error, px of 512", "lower", 2),
    "failures": ("failures, %", "lower", 1),
}
"""Measure → its column's name, which way is better, and decimals."""

MEANINGS = {
    "canny": "IoU and F1 of edges, exact to the pixel, as the mean over pictures.",
    "segmentation": "mIoU, mAcc and aAcc of all pictures' pixels together, in percent.",
    "landmarks": "The mean distance of landmarks where all were found, told for pictures of 512 "
    "px, and the share of pictures in which the reader did not find them all.",
}


TITLES: dict[TableName | None, str] = {
    None: "",
    "methods": "Methods, as in the paper's table 2",
    "blocks": "Number of blocks, as in its table 3",
    "magnitudes": "Magnitudes fitted afterwards, as in its table 4",
}


@dataclass(frozen=True)
class Shown:
    """One signal's card and pictures."""

    card: ControlCard
    samples: Sequence[ControlSample]
    images: Mapping[str, Path | None]
    """Model → its folder; None for the source pictures."""
    groups: Sequence[tuple[TableName | None, Sequence[str]]]
    """Tables and which networks stand in each; source and base stand in all."""


def write_control_page(
    shown: Sequence[Shown],
    folder: Workspace,
    *,
    name: str,
    settings: Mapping[str, Any],
) -> Path:
    """The path of `6-report/control.html`, written anew each time. Raises DataError if a picture
    cannot be read."""
    path = folder.root / REPORT / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(shown, name=name, settings=settings)
    write_bytes(path, page.encode())
    return path


def render(shown: Sequence[Shown], *, name: str, settings: Mapping[str, Any]) -> str:
    """The page's HTML. All that comes from data is escaped by jinja's autoescape."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("selma.applications.control", ""), PackageLoader("selma.report", "")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(_functions())
    return environment.get_template("control.html").render(
        name=name,
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'",
        signals=[
            {
                "card": one.card,
                "measures": measures_in(one.card),
                "tables": [(TITLES[table], _rows(one.card, names)) for table, names in one.groups],
                "meaning": MEANINGS.get(one.card.signal, "No reader of this signal is here."),
                "cards": [_card(one, sample) for sample in _chosen(one.samples)],
            }
            for one in shown
        ],
        settings=list(flat(settings)),
    )


def measures_in(card: ControlCard) -> list[str]:
    """The measures that any model has, in their order."""
    return [name for name in LABELS if any(name in model.measures for model in card.models)]


def millions(count: int | None) -> str:
    """Parameters as a reader says them."""
    if count is None:
        return ""
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count / 1e3:.1f} k"


def print_card(card: ControlCard, console: Console) -> None:
    """A table of all models of one signal."""
    found = Table(
        title=f"{card.signal}: {card.images} pictures, read by {card.reader}",
        caption="95% intervals; differences are paired by picture"
        + (f", minus {card.reference}" if card.reference else ""),
    )
    found.add_column("model")
    found.add_column("trained", justify="right")
    for name in measures_in(card):
        found.add_column(LABELS[name][0], justify="right")
        found.add_column("difference", justify="right")
    found.add_column("FID", justify="right")
    for model in card.models:
        cells = [model.model, millions(model.parameters)]
        for name in measures_in(card):
            cells += [_value(model, name), _change(model, name)]
        found.add_row(*cells, "" if model.fid is None else tables.points(model.fid, 2))
    console.print(found)


def better(name: str, change: Interval) -> str:
    """The class of a difference that is clear: "gain" or "loss"; empty for one that is not."""
    if not tables.clear(change):
        return ""
    return "gain" if (change.mean > 0) == (LABELS[name][1] == "higher") else "loss"


def _value(model: ControlScore, name: str) -> str:
    found = model.measures.get(name)
    if found is None:
        return "none"
    digits = LABELS[name][2]
    return f"{tables.points(found.mean, digits)} ({tables.between(found, digits=digits)})"


def _change(model: ControlScore, name: str) -> str:
    found = model.differences.get(name)
    if found is None:
        return ""
    digits = LABELS[name][2]
    ends = tables.between(found, sign=True, digits=digits)
    return f"{tables.signed(found.mean, digits)} ({ends})"


def _functions() -> dict[str, Any]:
    return {
        "points": tables.points,
        "signed": tables.signed,
        "spread": tables.spread,
        "better": better,
        "labels": LABELS,
        "millions": millions,
    }


def _rows(card: ControlCard, names: Sequence[str]) -> list[ControlScore]:
    by_name = {model.model: model for model in card.models}
    always = [model for model in card.models if model.role != "control"]
    return [*always, *(by_name[name] for name in names)]


def _chosen(samples: Sequence[ControlSample]) -> list[ControlSample]:
    count = min(IMAGES, len(samples))
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _card(shown: Shown, sample: ControlSample) -> dict[str, Any]:
    images = [("signal", sample.hint)]
    for model, folder in shown.images.items():
        place = sample.image if folder is None else inside(folder, f"{sample.id}.png")
        images.append((model, place))
    return {
        "text": sample.text,
        "images": [(model, grids.data_uri(place)) for model, place in images],
    }
