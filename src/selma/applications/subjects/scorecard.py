"""Subjects' rows → the table: means with intervals, paired differences, curves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

from selma.applications.subjects.records import CurvePoint, SubjectComparison, SubjectRow
from selma.records.scores import Interval
from selma.scores import statistics

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]
"""Subject → its prompts' rows."""


def method_row(
    model: str, rows: Rows, measures: Sequence[str], *, parameters: int | None, **bootstrap: int
) -> SubjectRow:
    """One row of the table. Each subject and prompt counts the same."""
    columns = {m: values for m in measures if (values := column(rows, m))}
    pairs = [float(row["pairs"]) for own_rows in rows.values() for row in own_rows]
    return SubjectRow(
        model=model,
        values={m: statistics.interval(values, **bootstrap) for m, values in columns.items()},
        released={
            m: round(sum(v * n for v, n in zip(values, pairs, strict=True)) / sum(pairs), 6)
            for m, values in columns.items()
            if m in ("dino", "clip_i", "lpips_real")
        },
        subjects={
            subject: {m: round(_mean(column({subject: own_rows}, m)), 6) for m in columns}
            for subject, own_rows in rows.items()
        },
        parameters=parameters,
    )


def real_row(among: Mapping[str, Mapping[str, float]], **bootstrap: int) -> SubjectRow | None:
    """The row of the subjects' own images; None if no subject has more than one."""
    by_subject = {subject: dict(values) for subject, values in among.items() if values}
    if not by_subject:
        return None
    measures = list(next(iter(by_subject.values())))
    return SubjectRow(
        model="real",
        values={
            m: statistics.interval([values[m] for values in by_subject.values()], **bootstrap)
            for m in measures
        },
        subjects=by_subject,
    )


def comparisons(
    rows: Mapping[str, Rows], measures: Sequence[str], **bootstrap: int
) -> list[SubjectComparison]:
    """Every pair of methods, the later minus the earlier, for each measure."""
    return [
        SubjectComparison(
            model=later,
            against=earlier,
            measure=measure,
            difference=_paired(rows[later], rows[earlier], measure, **bootstrap),
            over_subjects=_paired_by_subject(rows[later], rows[earlier], measure, **bootstrap),
        )
        for earlier, later in combinations(rows, 2)
        for measure in measures
        if column(rows[later], measure) and column(rows[earlier], measure)
    ]


def curve_point(
    step: int, rows: Rows, measures: Sequence[str], prompts: Mapping[str, Collection[str]]
) -> CurvePoint:
    """The means over the first image of each curve prompt of every subject.

    prompts: subject → numbers of its curve prompts, which depend on how many prompts it has.
    """
    firsts = [
        row["each"][0]
        for subject, own_rows in rows.items()
        for row in own_rows
        if row["prompt"] in prompts[subject]
    ]
    shared = [m for m in measures if firsts and all(m in image for image in firsts)]
    return CurvePoint(
        step=step, values={m: round(_mean([image[m] for image in firsts]), 6) for m in shared}
    )


def column(rows: Rows, measure: str) -> list[float]:
    """The measure's value for each subject and prompt; [] unless all rows have one."""
    flat = [row for own_rows in rows.values() for row in own_rows]
    return [float(row[measure]) for row in flat] if all(measure in row for row in flat) else []


def _paired(after: Rows, before: Rows, measure: str, **bootstrap: int) -> Interval:
    return statistics.paired_difference(
        column(after, measure), column(before, measure), **bootstrap
    )


def _paired_by_subject(after: Rows, before: Rows, measure: str, **bootstrap: int) -> Interval:
    means = [
        [_mean(column({subject: rows[subject]}, measure)) for subject in before]
        for rows in (after, before)
    ]
    return statistics.paired_difference(means[0], means[1], **bootstrap)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
