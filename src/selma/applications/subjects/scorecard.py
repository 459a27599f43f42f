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
    """One line of the table. Each subject and prompt counts the same."""
    values = {m: column(rows, m) for m in measures}
    measured = {m: column_values for m, column_values in values.items() if column_values}
    pairs = [float(row["pairs"]) for subject_rows in rows.values() for row in subject_rows]
    return SubjectRow(
        model=model,
        values={
            m: statistics.interval(column_values, **bootstrap)
            for m, column_values in measured.items()
        },
        released={
            m: round(sum(v * n for v, n in zip(column_values, pairs, strict=True)) / sum(pairs), 6)
            for m, column_values in measured.items()
            if m in ("dino", "clip_i", "lpips_real")
        },
        subjects={
            subject: {m: round(_mean(column({subject: subject_rows}, m)), 6) for m in measured}
            for subject, subject_rows in rows.items()
        },
        parameters=parameters,
    )


def real_row(among: Mapping[str, Mapping[str, float]], **bootstrap: int) -> SubjectRow | None:
    """The line of the subjects' own images; None where each has but one."""
    by_subject = {subject: values for subject, values in among.items() if values}
    if not by_subject:
        return None
    measures = list(next(iter(by_subject.values())))
    return SubjectRow(
        model="real",
        values={
            m: statistics.interval([values[m] for values in by_subject.values()], **bootstrap)
            for m in measures
        },
        subjects={subject: dict(values) for subject, values in by_subject.items()},
    )


def comparisons(
    rows: Mapping[str, Rows], measures: Sequence[str], **bootstrap: int
) -> list[SubjectComparison]:
    """Every pair of methods, the later one minus the earlier one, for each measure."""
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
    """The means over the first image of each of these prompts, of every subject. prompts: subject
    → numbers of its own, which differ where subjects have not equally many prompts."""
    first = [
        row["each"][0]
        for subject, subject_rows in rows.items()
        for row in subject_rows
        if row["prompt"] in prompts[subject]
    ]
    shared = [m for m in measures if first and all(m in image for image in first)]
    return CurvePoint(
        step=step, values={m: round(_mean([image[m] for image in first]), 6) for m in shared}
    )


def column(rows: Rows, measure: str) -> list[float]:
    """The measure of each subject and prompt; [] if some have none."""
    every = [row for subject_rows in rows.values() for row in subject_rows]
    return [float(row[measure]) for row in every] if all(measure in row for row in every) else []


def _paired(after: Rows, before: Rows, measure: str, **bootstrap: int) -> Interval:
    return statistics.paired_difference(
        column(after, measure),
        column(before, measure),
        **bootstrap,
    )


def _paired_by_subject(after: Rows, before: Rows, measure: str, **bootstrap: int) -> Interval:
    means = [
        [_mean(column({subject: rows[subject]}, measure)) for subject in before]
        for rows in (after, before)
    ]
    return statistics.paired_difference(means[0], means[1], **bootstrap)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
