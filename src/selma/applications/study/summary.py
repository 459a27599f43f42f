"""Votes → the paper's table 8 and figure 4, with intervals, agreement, and who is unfinished."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from selma.applications.study.agreement import alpha_interval, tally
from selma.applications.study.ballot import Ballot, Vote, read_ballot
from selma.records.record import Record
from selma.records.scores import Interval
from selma.report.tables import between, points
from selma.scores import statistics
from selma.workspace import write_bytes

OUTCOMES = ("win", "lose", "tie")


class Tally(Record):
    """Votes on the second model against the first."""

    win: int
    lose: int
    tie: int
    prompts: int
    percent: Interval | None
    """100 win / (win + lose), as the paper has it; n counts the prompts with such a vote. None
    where all are ties."""
    percent_ties_half: Interval | None
    """100 (win + tie / 2) / all; None without votes."""


class Part(Record):
    """How far one annotator is."""

    name: str
    votes: int
    of: int
    median_seconds: float | None
    """Of a vote; None without votes."""


class Summary(Record):
    """What a study has found so far."""

    models: tuple[str, str]
    prompts: int
    votes: int
    all: Tally
    groups: dict[str, Tally]
    annotators: tuple[Part, ...]
    unfinished: tuple[str, ...]
    alpha: Interval | None
    """Krippendorff's, of win, lose and tie; None where no two annotators can be compared."""
    left: Interval | None
    """100 left / (left + right); far from 50, people favoured a side and not a model."""


def report(path: Path, *, resamples: int = 10_000) -> Summary:
    """What the study in this file has found. Raises WorkspaceError where there is none."""
    return summarise(read_ballot(path), resamples=resamples)


def summarise(ballot: Ballot, *, resamples: int = 10_000) -> Summary:
    """Counts and intervals of the votes that were not undone; groups in the benchmark's order."""
    study = ballot.study
    votes = [vote for vote in ballot.votes if vote.undone is None]
    given: dict[str, list[str]] = {pair.id: [] for pair in study.pairs}
    sides: dict[str, list[str]] = defaultdict(list)
    for vote in votes:
        given[vote.pair].append(vote.outcome)
        sides[vote.pair].append(vote.choice)
    groups: dict[str, list[list[str]]] = defaultdict(list)
    for pair in study.pairs:
        groups[pair.group].append(given[pair.id])
    sure = _Intervals(study.seed, resamples)
    parts = tuple(_part(name, votes, len(study.pairs)) for name in ballot.annotators)
    return Summary(
        models=study.models,
        prompts=len(study.pairs),
        votes=len(votes),
        all=sure.tally(list(given.values())),
        groups={group: sure.tally(units) for group, units in groups.items()},
        annotators=parts,
        unfinished=tuple(part.name for part in parts if part.votes < part.of),
        alpha=alpha_interval(
            tally(list(given.values()), OUTCOMES), seed=study.seed, resamples=resamples
        ),
        left=sure.share(list(sides.values()), of="left", against="right"),
    )


class _Intervals:
    """Shares of votes; prompts are resampled, since votes on one are no independent trials."""

    def __init__(self, seed: int, resamples: int) -> None:
        self.seed, self.resamples = seed, resamples

    def tally(self, units: Sequence[Sequence[str]]) -> Tally:
        """units: for each prompt the outcomes that it was given."""
        win, lose, tie = (sum(unit.count(outcome) for unit in units) for outcome in OUTCOMES)
        voted = [unit for unit in units if unit]
        return Tally(
            win=win,
            lose=lose,
            tie=tie,
            prompts=len(voted),
            percent=self.share(voted, of="win", against="lose"),
            percent_ties_half=self._interval(
                [unit.count("win") + unit.count("tie") / 2 for unit in voted],
                [len(unit) for unit in voted],
            ),
        )

    def share(self, units: Sequence[Sequence[str]], *, of: str, against: str) -> Interval | None:
        # A prompt with ties alone says nothing about a share of the others, nor does it move it
        # in a resample.
        decided = [unit for unit in units if of in unit or against in unit]
        return self._interval(
            [unit.count(of) for unit in decided],
            [unit.count(of) + unit.count(against) for unit in decided],
        )

    def _interval(self, totals: Sequence[float], sizes: Sequence[int]) -> Interval | None:
        if not totals:
            return None
        percents = [100 * total for total in totals]
        return statistics.interval(percents, sizes, seed=self.seed, resamples=self.resamples)


def _part(name: str, votes: Sequence[Vote], total: int) -> Part:
    seconds = [vote.seconds for vote in votes if vote.annotator == name]
    middle = round(median(seconds), 2) if seconds else None
    return Part(name=name, votes=len(seconds), of=total, median_seconds=middle)


COLUMNS = (
    *("annotator", "step", "prompt_id", "group", "prompt", "left_model", "right_model"),
    *("choice", "outcome", "seconds", "time", "undone"),
)


def write_votes(path: Path, ballot: Ballot) -> None:
    """Every vote as a row of CSV in the order in which they came, the undone ones too, marked by
    the time of their undoing. `outcome` is the second model's."""
    models = ballot.study.models
    pairs = {pair.id: pair for pair in ballot.study.pairs}
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for vote in ballot.votes:
        pair = pairs[vote.pair]
        writer.writerow((
            vote.annotator, vote.step + 1, pair.id, pair.group, pair.text, models[vote.left],
            models[1 - vote.left], vote.choice, vote.outcome, f"{vote.seconds:.2f}",
            _time(vote.time), "" if vote.undone is None else _time(vote.undone),
        ))  # fmt: skip
    write_bytes(path, file.getvalue().encode())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def print_summary(summary: Summary, console: Console) -> None:
    """The paper's table, and below it what a reader must know to believe it."""
    base, model = summary.models
    table = Table(
        title=f"{model} against {base}: {summary.votes} votes on {summary.all.prompts} of "
        f"{summary.prompts} prompts",
        caption="% is win / (win + lose), with its 95% bootstrap interval over prompts",
    )
    table.add_column("")
    for column in ("win", "lose", "tie", "%", "95%", "ties as half", "95%"):
        table.add_column(column, justify="right")
    for name, row in {"all": summary.all, **summary.groups}.items():
        cells = [str(row.win), str(row.lose), str(row.tie), *_cells(row.percent)]
        table.add_row(name, *cells, *_cells(row.percent_ties_half))
        if name == "all":
            table.add_section()
    console.print(table)
    for part in summary.annotators:
        pace = "" if part.median_seconds is None else f", {part.median_seconds:.1f} s a vote"
        state = "finished" if part.votes == part.of else "unfinished"
        console.print(f"{part.name}: {part.votes} of {part.of}, {state}{pace}", markup=False)
    if summary.alpha:
        alpha = summary.alpha
        console.print(
            f"Agreement: Krippendorff's alpha {alpha.mean:.2f} (95%: {alpha.low:.2f} to "
            f"{alpha.high:.2f}), on {alpha.n} prompts that two or more judged."
        )
    if summary.left:
        console.print(
            f"The image at left was chosen in {points(summary.left.mean)}% of the votes that "
            f"were no tie (95%: {between(summary.left)}); 50 is no preference for a side."
        )


def _cells(interval: Interval | None) -> tuple[str, str]:
    return (points(interval.mean), between(interval)) if interval else ("", "")
