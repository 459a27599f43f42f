"""Votes → the paper's table 8 and figure 4, with intervals, agreement, and annotators' progress."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median

from rich.console import Console
from rich.table import Table

from selma.applications.study.agreement import alpha_interval, tally
from selma.applications.study.ballot import Ballot, Vote
from selma.paths import AnyPath, as_path
from selma.plurals import counted
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
    """100 win / (win + lose), the paper's; n counts the prompts with such a vote. None if all are
    ties."""
    percent_ties_half: Interval | None
    """100 (win + tie / 2) / all; None without votes."""


class Part(Record):
    """One annotator's progress."""

    name: str
    votes: int
    of: int
    median_seconds: float | None
    """For a vote; None without votes."""


class Summary(Record):
    """A study's results so far."""

    models: tuple[str, str]
    prompts: int
    votes: int
    all: Tally
    groups: dict[str, Tally]
    annotators: tuple[Part, ...]
    unfinished: tuple[str, ...]
    alpha: Interval | None
    """Krippendorff's, of win, lose and tie; None if no two annotators can be compared."""
    left: Interval | None
    """100 left / (left + right); far from 50, people favoured a side and not a model."""


def summarise(ballot: Ballot, *, resamples: int = 10_000) -> Summary:
    """Count the votes that were not undone, with intervals; groups in the benchmark's order."""
    study = ballot.study
    votes = [vote for vote in ballot.votes if vote.undone is None]
    outcomes: dict[str, list[str]] = {pair.id: [] for pair in study.pairs}
    sides: dict[str, list[str]] = defaultdict(list)
    for vote in votes:
        outcomes[vote.pair].append(vote.outcome)
        sides[vote.pair].append(vote.choice)
    groups: dict[str, list[list[str]]] = defaultdict(list)
    for pair in study.pairs:
        groups[pair.group].append(outcomes[pair.id])
    intervals = _Intervals(study.seed, resamples)
    parts = tuple(_part(name, votes, len(study.pairs)) for name in ballot.annotators)
    return Summary(
        models=study.models,
        prompts=len(study.pairs),
        votes=len(votes),
        all=intervals.tally(list(outcomes.values())),
        groups={group: intervals.tally(units) for group, units in groups.items()},
        annotators=parts,
        unfinished=tuple(part.name for part in parts if part.votes < part.of),
        alpha=alpha_interval(
            tally(list(outcomes.values()), OUTCOMES), seed=study.seed, resamples=resamples
        ),
        left=intervals.share(list(sides.values()), of="left", against="right"),
    )


class _Intervals:
    """Shares of votes; prompts are resampled, since votes on one prompt are not independent."""

    def __init__(self, seed: int, resamples: int) -> None:
        self.seed, self.resamples = seed, resamples

    def tally(self, units: Sequence[Sequence[str]]) -> Tally:
        """Count outcomes; units: each prompt's outcomes."""
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
        """The percentage of one value among it and another; None without either."""
        # A prompt with ties alone says nothing about the share, in a resample neither.
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
    median_seconds = round(median(seconds), 2) if seconds else None
    return Part(name=name, votes=len(seconds), of=total, median_seconds=median_seconds)


COLUMNS = (
    *("annotator", "step", "prompt_id", "group", "prompt", "left_model", "right_model"),
    *("choice", "outcome", "seconds", "time", "undone"),
)


def write_votes(path: AnyPath, ballot: Ballot) -> None:
    """Write every vote as a row of CSV, in order of time; undone ones have the time of undoing.
    `outcome` is the second model's."""
    path = as_path(path)
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
    """Print the paper's table, and below it annotators' progress, agreement and side preference."""
    base, model = summary.models
    table = Table(
        title=f"{model} against {base}: {counted(summary.votes, 'vote')} on {summary.all.prompts} "
        f"of {counted(summary.prompts, 'prompt')}",
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
            f"{alpha.high:.2f}), on {counted(alpha.n, 'prompt')} with two or more votes."
        )
    if summary.left:
        console.print(
            f"The image on the left was chosen in {points(summary.left.mean)}% of the votes that "
            f"were no tie (95%: {between(summary.left)}); 50 is no preference for a side."
        )


def _cells(interval: Interval | None) -> tuple[str, str]:
    return (points(interval.mean), between(interval)) if interval else ("", "")
