"""The page on subjects: the table of methods, convergence curves and example images.

6-report/_subjects/index.html    a self-contained page; equal results give equal bytes
6-report/_subjects/card.json     every number on it
6-report/pages/subjects.json     its section of the run's report
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from selma.applications.subjects.records import (
    SubjectCard,
    SubjectComparison,
    SubjectMeasure,
    SubjectRow,
)
from selma.errors import DataError
from selma.image_places import image_of, image_place
from selma.plurals import counted
from selma.records.benchmarks import BenchmarkPrompt, spaced
from selma.records.pages import Page, PageTable
from selma.report import page
from selma.report.fitting import Column, Row, print_fitted
from selma.report.grids import data_uri
from selma.report.pages import write_page
from selma.report.tables import apart, cell, clear, points
from selma.report.templates import environment, policy
from selma.workspace import REPORT, Workspace, write_bytes, write_json

NAME = "_subjects"
DIGITS = 3
"""Decimals of cosines and distances, as the papers print them."""
SHOWN_SUBJECTS, SHOWN_PROMPTS, SHOWN_REAL = 10, 4, 5
WIDTH, HEIGHT, LEFT, BOTTOM = 340, 190, 44, 26
"""Size of a chart in SVG units, and the margins of its axis labels."""

Generated = Mapping[tuple[str, str, int], Path]


def write_subject_page(
    card: SubjectCard,
    real: Mapping[str, Sequence[Path]],
    prompts: Mapping[str, Sequence[BenchmarkPrompt]],
    generated: Generated,
    *,
    settings: Mapping[str, Any],
    name: str,
    folder: Workspace,
    about: Mapping[str, str],
) -> Path:
    """Write the page and its section of the run's report; returns the page's path.

    real: subject → its images.  prompts: subject → the prompts that the last step generated.
    generated: (method, subject, step) → folder.  about: `records.pages.Page.about`. Raises
    DataError if an image cannot be read.
    """
    text = card.model_dump_json()
    recipe = {"card": hashlib.sha256(text.encode()).hexdigest()[:16], "settings": dict(settings)}
    item = folder.item(REPORT, NAME, recipe=recipe)
    if not item.done:
        html = render(card, real, prompts, generated, settings=settings, name=name)
        files = [item.begin() / "index.html", item.path / "card.json"]
        write_bytes(files[0], html.encode())
        write_json(files[1], json.loads(text))
        item.finish(files, {"methods": len(card.curves)})
    return write_page(subjects_page(card, about=about), folder)


def subjects_page(card: SubjectCard, *, about: Mapping[str, str]) -> Page:
    """The section of the run's report: the table of methods, and differences from the first."""
    headline, meaning = conclusion(card)
    columns = [f"{m.label} {'↑' if m.better == 'higher' else '↓'}" for m in card.measures]
    first = next(iter(card.curves))
    differences = [
        (
            method,
            *(
                _difference(next((c for c in card.comparisons if (c.model, c.against, c.measure)
                                  == (method, first, measure.key)), None))
                for measure in card.measures
            ),
        )
        for method in list(card.curves)[1:]
    ]  # fmt: skip
    methods = PageTable(
        columns=("Method", "trained parameters", *columns),
        rows=tuple(
            (
                row.model,
                trained(row),
                *(cell(row.values.get(m.key), digits=DIGITS) for m in card.measures),
            )
            for row in card.rows
        ),
        notes=("Means with 95% intervals over subjects and prompts.",),
    )
    paired = PageTable(
        caption=f"Minus {first}",
        columns=("Method", *columns),
        rows=tuple(differences),
        notes=("Paired by subject and prompt; a dot marks intervals that exclude zero.",),
    )
    return Page(
        name="subjects",
        title="Subjects",
        headline=f"{headline.removesuffix('.')}. {meaning}",
        file=f"{NAME}/index.html",
        about=dict(about),
        tables=(methods, paired) if differences else (methods,),
    )


def _difference(comparison: SubjectComparison | None) -> str:
    if comparison is None:
        return ""
    change = comparison.difference
    mean, ends = apart(change, sign=True, digits=DIGITS)
    return f"{mean}{' •' if clear(change) else ''} ({ends})"


def render(
    card: SubjectCard,
    real: Mapping[str, Sequence[Path]],
    prompts: Mapping[str, Sequence[BenchmarkPrompt]],
    generated: Generated,
    *,
    settings: Mapping[str, Any],
    name: str,
) -> str:
    """Render the page's HTML; everything from outside is escaped."""
    headline, meaning = conclusion(card)
    methods = list(card.curves)
    shown = list(card.subjects)[:SHOWN_SUBJECTS]
    return (
        environment("selma.applications.subjects")
        .get_template("subjects.html")
        .render(
            policy=policy(),
            name=name,
            card=card,
            headline=headline,
            meaning=meaning,
            methods=methods,
            first=methods[0],
            digits=DIGITS,
            differences={
                method: {
                    c.measure: c
                    for c in card.comparisons
                    if c.model == method and c.against == methods[0]
                }
                for method in methods[1:]
            },
            charts=list(charts(card)),
            shown=[
                _Shown(
                    subject,
                    card.subjects[subject],
                    [data_uri(path) for path in real[subject][:SHOWN_REAL]],
                    list(_lines(card, subject, prompts[subject], generated)),
                )
                for subject in shown
            ],
            steps=[
                _Steps(subject, list(_step_lines(card, subject, generated))) for subject in shown
            ],
            settings=list(page.flat(settings)),
        )
    )


@dataclass(frozen=True)
class _Shown:
    """One subject: its own images, and prompts with one image by each model."""

    name: str
    kind: str
    real: list[str]
    lines: list[tuple[str, list[tuple[str, str]]]]
    """(prompt, [(model, image)])."""


@dataclass(frozen=True)
class _Steps:
    """One subject's first curve prompt, method by method and step by step."""

    name: str
    lines: list[tuple[str, list[tuple[int, str]]]]


@dataclass(frozen=True)
class Chart:
    """One measure's curves in a box of WIDTH x HEIGHT."""

    measure: SubjectMeasure
    levels: list[tuple[float, str]]
    """(y, label) of the horizontal lines."""
    steps: list[tuple[float, str]]
    """(x, label) of the steps."""
    lines: list[tuple[int, str, str, list[tuple[float, float]]]]
    """(number of the method, its name, points of its polyline, its dots)."""


def conclusion(card: SubjectCard) -> tuple[str, str]:
    """A headline and a paragraph: which method is most faithful to the subjects and which follows
    prompts best, and how certain that is."""
    fidelity, text = card.measures[0], next(m for m in card.measures if m.key == "clip_t")
    if len(card.curves) == 1:
        return (
            f"{next(iter(card.curves))} on {counted(len(card.subjects), 'subject')}",
            "A single method was trained; nothing is compared with it.",
        )
    faithful, clearly = _leader(card, fidelity)
    following, _ = _leader(card, text)
    headline = (
        f"{faithful} is most faithful to the subjects"
        if clearly
        else "No method is clearly most faithful to the subjects"
    )
    return (
        f"{headline}.",
        f"{_lead(card, fidelity, faithful)} {_lead(card, text, following)} Intervals are over "
        "subjects and prompts, paired; training again with another seed is a further source of "
        "chance.",
    )


def _leader(card: SubjectCard, measure: SubjectMeasure) -> tuple[str, bool]:
    """The best method by a measure, and whether it is clearly ahead of every other."""
    sign = 1 if measure.better == "higher" else -1
    rows = {row.model: row for row in card.rows if row.model in card.curves}
    best = max(rows, key=lambda model: sign * rows[model].values[measure.key].mean)
    others = [c for c in _about(card, measure, best) if clear(c.difference)]
    return best, len(others) == len(rows) - 1


def _lead(card: SubjectCard, measure: SubjectMeasure, best: str) -> str:
    """A sentence on how far ahead the best method is."""
    about = _about(card, measure, best)
    ahead = [_other(c, best) for c in about if clear(c.difference)]
    level = [_other(c, best) for c in about if not clear(c.difference)]
    value = next(row for row in card.rows if row.model == best).values[measure.key]
    lead = f"By {measure.label} ({measure.network}), {best} leads with {points(value.mean, DIGITS)}"
    parts = [f"clearly ahead of {', '.join(ahead)}"] if ahead else []
    parts += [f"not clearly ahead of {', '.join(level)}"] if level else []
    return f"{lead}, {' and '.join(parts)}."


def _about(card: SubjectCard, measure: SubjectMeasure, method: str) -> list[SubjectComparison]:
    return [
        c for c in card.comparisons if c.measure == measure.key and method in (c.model, c.against)
    ]


def _other(comparison: SubjectComparison, method: str) -> str:
    return comparison.against if comparison.model == method else comparison.model


def charts(card: SubjectCard) -> Iterator[Chart]:
    """The convergence curves of each measure that every checkpoint has."""
    steps = sorted({point.step for curve in card.curves.values() for point in curve})
    for measure in card.measures:
        curves = {
            method: [(point.step, point.values[measure.key]) for point in curve]
            for method, curve in card.curves.items()
            if all(measure.key in point.values for point in curve)
        }
        if not curves or len(steps) < 2:
            continue
        values = [value for curve in curves.values() for _, value in curve]
        low, high = min(values), max(values)
        pad = 0.08 * (high - low) or 0.01
        low, high = low - pad, high + pad

        def y(value: float, low: float = low, high: float = high) -> float:
            return round((HEIGHT - BOTTOM) * (high - value) / (high - low), 2)

        def x(step: int) -> float:
            return round(LEFT + (WIDTH - LEFT - 12) * step / steps[-1], 2)

        yield Chart(
            measure=measure,
            levels=[
                (y(level), points(level, 2 if high - low > 0.05 else DIGITS))
                for level in (low + share * (high - low) for share in (0.1, 0.37, 0.63, 0.9))
            ],
            steps=[(x(step), str(step)) for step in steps],
            lines=[
                (
                    list(card.curves).index(method) % 6,
                    method,
                    " ".join(f"{x(step)},{y(value)}" for step, value in curve),
                    [(x(step), y(value)) for step, value in curve],
                )
                for method, curve in curves.items()
            ],
        )


def _lines(
    card: SubjectCard, subject: str, prompts: Sequence[BenchmarkPrompt], generated: Generated
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The first image of evenly spaced prompts: a choice that ignores scores."""
    firsts = [prompt for prompt in prompts if prompt.id.endswith("-0")]
    for prompt in spaced(firsts, SHOWN_PROMPTS):
        models = [("base", 0), *((method, card.steps) for method in card.curves)]
        yield (
            prompt.text,
            [
                (model, data_uri(image_of(generated[model, subject, step], prompt.id)))
                for model, step in models
            ],
        )


def _step_lines(
    card: SubjectCard, subject: str, generated: Generated
) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Each method's image of the first curve prompt at each kept step."""
    for method in card.curves:
        steps = sorted(step for m, s, step in generated if (m, s) == (method, subject))
        first = generated[method, subject, steps[0]]
        names = sorted(path.name for path in first.rglob("*.png"))
        if not names:
            raise DataError(f"{first} must hold images, but is empty.")
        yield (
            method,
            [
                (step, data_uri(image_place(generated[method, subject, step], names[0])))
                for step in steps
            ],
        )


def print_subject_card(card: SubjectCard, console: Console) -> None:
    """Print the table and, below it, the differences from the first method."""
    title = (
        f"{counted(len(card.subjects), 'subject')}, {counted(card.prompts, 'prompt')}, "
        f"{counted(card.images, 'image')} each, {counted(card.steps, 'step')}"
    )
    columns = [Column("method", "name"), Column("trained")]
    for measure in card.measures:
        arrow = "↑" if measure.better == "higher" else "↓"
        columns += [Column(f"{measure.label} {arrow}"), Column("95%", "ends")]
    rows = []
    for row in card.rows:
        cells = [row.model, trained(row)]
        for measure in card.measures:
            cells += apart(row.values.get(measure.key), digits=DIGITS)
        rows.append(Row(cells))
    console.print(title, style="italic", highlight=False, markup=False)
    print_fitted(console, columns, rows)
    console.print(
        "means with 95% intervals over subjects and prompts; ↑ higher is better, ↓ lower",
        style="dim",
        highlight=False,
    )
    first = next(iter(card.curves))
    for method in list(card.curves)[1:]:
        for c in card.comparisons:
            if (c.model, c.against) == (method, first):
                label = next(m.label for m in card.measures if m.key == c.measure)
                unclear = "" if clear(c.difference) else ": no clear difference"
                console.print(
                    f"{method} minus {first}, {label}: "
                    f"{cell(c.difference, sign=True, digits=DIGITS)}{unclear}",
                    highlight=False,
                )
    console.print(" ".join(conclusion(card)), highlight=False)


def trained(row: SubjectRow) -> str:
    """The number of trained parameters, with spaces between thousands."""
    if row.parameters is None:
        return ""
    return f"{row.parameters:,}".replace(",", " ")
