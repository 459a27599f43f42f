"""A run's figures beside the paper's, in the layout of the paper's tables.

Only results on the same prompts are compared: tables 1 and 7 for a run on DSG-1k, table 6 on TIFA
v1.0, table 5 if HPS's benchmark was scored. Each row says whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from selma.backbones.bases import paper_base
from selma.backbones.hub import HUB_ID
from selma.config.networks import BaseConfig
from selma.records.report import Findings
from selma.records.scores import Interval, ModelScore, Scorecard
from selma.report import paper
from selma.report.paper import SELMA, Printed
from selma.report.tables import CHOSE, model_with_role, points, signed, spread

PROMPTS = {"dsg-1k": 1060, "tifa-v1.0": 4081}
MEASURED_BY = {
    "PickScore": ("PickScore v1",),
    "ImageReward": ("ImageReward v1.0",),
    "HPS": ("HPS v2.1", "HPS v2.0"),
}
"""Column of table 1 → names of scorers that it may show; the likeliest of the paper's is first."""
FINE = 2
"""Decimals of preference scores, whose differences are small."""
ELEMENTS = paper.TABLE_6.columns[:-1]
KINDS = paper.TABLE_7.columns[:-1]
STYLES = paper.TABLE_5.columns[:-1]

Measured = list[Interval | None]


@dataclass(frozen=True)
class Cell:
    """One figure as text; `ends`: its interval and standard error, which the paper never gives."""

    text: str
    ends: str = ""


@dataclass(frozen=True)
class Row:
    """One model's figures, or a difference, from this run or the paper."""

    name: str
    ours: bool
    gain: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Block:
    """One base's rows."""

    base: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Beside:
    """One of the paper's tables with this run's rows in it."""

    printed: Printed
    caption: str
    """How this run's figures and the paper's were measured."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Ours:
    """This run's rows of a table, a value for each column; gain: merged minus base, paired."""

    base: Measured
    merged: Measured
    gain: Measured


def beside(findings: Findings) -> list[Beside]:
    """The paper's tables that this run has figures for, in order; [] for most runs."""
    card = findings.scorecard
    tables = []
    if card.published == "dsg-1k":
        tables += [
            _compare(findings, paper.TABLE_1, _table_1(card), _dsg_caption(card, preference=True))
        ]
    if ours := _table_5(findings.hps):
        tables += [_compare(findings, paper.TABLE_5, ours, _hps_caption(findings.hps))]
    if card.published == "tifa-v1.0":
        ours = _ours(card, lambda m: [*_of(m.categories, ELEMENTS), m.score],
                     lambda m: [*_of(m.category_differences, ELEMENTS), m.difference])  # fmt: skip
        tables += [_compare(findings, paper.TABLE_6, ours, _tifa_caption(card))]
    if card.published == "dsg-1k":
        ours = _ours(
            card,
            lambda m: [*_of(m.details, KINDS), m.by_question],
            lambda m: [*_of(m.detail_differences, KINDS), m.by_question_difference],
        )
        tables += [_compare(findings, paper.TABLE_7, ours, _dsg_caption(card))]
    return tables


def own_base(findings: Findings) -> tuple[str, bool]:
    """The name of the run's base, and whether it is one of the paper's."""
    settings = findings.settings.get("base", {})
    if settings.get("kind") == "served":
        return str(settings.get("model")), False
    base = BaseConfig.model_validate(settings)
    if known := paper_base(base):
        return known, True
    plain = HUB_ID.fullmatch(base.model) and not base.model.startswith(".")
    return (base.model if plain else PurePath(base.model).name), False


def _table_1(card: Scorecard) -> Ours:
    labels = {
        column: next((s.label for name in names for s in card.preferences if s.name == name), "")
        for column, names in MEASURED_BY.items()
    }
    scorers = list(labels.values())
    return _ours(
        card,
        lambda m: [m.by_question, None, *_of(m.preferences, scorers)],
        lambda m: [m.by_question_difference, None, *_of(m.preference_differences, scorers)],
    )


def _table_5(hps: dict[str, dict[str, Any]]) -> Ours | None:
    comparable = _comparable(hps)
    if not {"base", "merged"} & set(comparable):
        return None

    def values(model: str) -> Measured:
        if model not in comparable:
            return [None] * len(paper.TABLE_5.columns)
        result = comparable[model]
        return [_interval(result["styles"][style]) for style in STYLES] + [_interval(result)]

    minus = comparable.get("merged", {}).get("minus_base") or {}
    gain = [minus.get(name) for name in (*STYLES, "all")]
    return Ours(
        values("base"), values("merged"), [Interval.model_validate(g) if g else None for g in gain]
    )


def _comparable(hps: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results by HPS v2.1, the version in table 5."""
    return {model: r for model, r in hps.items() if r["scorer"]["name"] == "HPS v2.1"}


def _interval(row: dict[str, Any]) -> Interval | None:
    if row["score"] is None:
        return None
    low, high = row["interval"]
    return Interval(
        mean=row["score"],
        low=low,
        high=high,
        n=row["images"],
        standard_error=row.get("standard_error"),
    )


def _ours(
    card: Scorecard,
    values: Callable[[ModelScore], Measured],
    gains: Callable[[ModelScore], Measured],
) -> Ours:
    base, merged = (model_with_role(card, role) for role in ("base", "merged"))
    return Ours(values(base), values(merged), gains(merged))


def _of(intervals: dict[str, Interval], names: Sequence[str]) -> Measured:
    return [intervals.get(name) for name in names]


def _compare(findings: Findings, printed: Printed, ours: Ours, caption: str) -> Beside:
    name, known = own_base(findings)
    merged = f"merged ({findings.merged.method.replace('_', ' ')})"
    own_rows = {"": ("base", ours.base), SELMA: (merged, ours.merged)}
    bases = [name] if known else []
    bases += [base for base in printed.rows if base not in bases]
    blocks = [] if known else [Block(name, tuple(_rows(printed, None, own_rows, ours.gain)))]
    blocks += [
        Block(
            base,
            tuple(_rows(printed, base, *((own_rows, ours.gain) if base == name else ({}, [])))),
        )
        for base in bases
    ]
    if not known:
        caption += f" The run's base, {name}, is not known to be one of the paper's."
    return Beside(printed, caption, tuple(blocks))


def _rows(
    printed: Printed,
    base: str | None,
    own_rows: dict[str, tuple[str, Measured]],
    gain: Measured,
) -> Iterator[Row]:
    """A base's rows: ours above the paper's for the same model, and last the gains."""
    printed_rows = printed.rows[base] if base else {}
    for method in printed_rows or own_rows:
        if method in own_rows:
            name, values = own_rows[method]
            yield Row(name, True, False, tuple(_cells(printed, values)))
        if method in printed_rows:
            yield Row(
                f"+ {method}" if method else "base",
                False,
                False,
                tuple(
                    None if value is None else Cell(points(value, digits))
                    for value, digits in zip(printed_rows[method], printed.decimals, strict=True)
                ),
            )
    if own_rows:
        yield Row("merged minus base", True, True, tuple(_cells(printed, gain, sign=True)))
    if printed_rows:
        pairs = zip(printed_rows[SELMA], printed_rows[""], printed.decimals, strict=True)
        yield Row("SELMA minus base", False, True, tuple(
            None if after is None or before is None else Cell(signed(after - before, digits))
            for after, before, digits in pairs
        ))  # fmt: skip


def _cells(printed: Printed, values: Measured, *, sign: bool = False) -> Iterator[Cell | None]:
    show = signed if sign else points
    for column, digits, interval in zip(printed.columns, printed.decimals, values, strict=True):
        fine = FINE if column in MEASURED_BY or printed.number == 5 else digits
        if interval is None:
            yield None
        else:
            yield Cell(show(interval.mean, fine), spread(interval, sign=sign, digits=fine))


def _dsg_caption(card: Scorecard, *, preference: bool = False) -> str:
    zeroing = card.zeroing.replace("_", " ")
    caption = (
        f"Ours: {_share(card, 'DSG-1k')}, judged by {card.judge}; the mean over all questions, "
        f"zeroing {zeroing}. The paper's: judged by mPLUG-large; its released code zeroes in row "
        "order."
    )
    if not preference:
        return caption
    shown = {
        column: next((s for name in names for s in card.preferences if s.name == name), None)
        for column, names in MEASURED_BY.items()
    }
    for column, scorer in shown.items():
        if scorer is not None:
            caption += f" {column} of ours: {scorer.name}, {scorer.weights}."
            caption += f" {CHOSE[0].upper()}{CHOSE[1:]}" if scorer.chose else ""
    return caption


def _tifa_caption(card: Scorecard) -> str:
    matched = f", free answers matched by {card.matcher}" if card.matcher else ""
    return (
        f"Ours: {_share(card, 'TIFA v1.0')}, judged by {card.judge}{matched}. The paper's: judged "
        "by BLIP-2 FlanT5-XL."
    )


def _share(card: Scorecard, name: str) -> str:
    total = PROMPTS[card.published or ""]
    if card.prompts == total:
        return f"all {total} prompts of {name}"
    return f"only {card.prompts} of the {total} prompts of {name}, so that the prompts differ too"


def _hps_caption(hps: dict[str, dict[str, Any]]) -> str:
    captions = []
    for model, result in _comparable(hps).items():
        if model in ("base", "merged"):
            scorer = result["scorer"]
            generated = (
                "generated by this run" if result["generated"] == "run" else "given as a folder"
            )
            captions.append(
                f"Ours, {model}: {result['images']} images, {generated}"
                + ("" if result["complete"] else ", not the benchmark's 800 of each style")
                + f"; {scorer['name']}, {scorer['weights']}, {scorer['preprocessing']}."
                + (f" Known: {scorer['known']}" if scorer.get("known") else "")
            )
    return " ".join(captions)
