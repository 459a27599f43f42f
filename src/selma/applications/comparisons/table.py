"""A comparison as the paper's table: ours with intervals, the paper's figures, what each took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from selma.applications.comparisons.comparing import difference
from selma.applications.comparisons.records import BEST, Compared, ComparedRow
from selma.records.scores import Interval, ModelScore, Scorecard
from selma.report.beside import MEASURED_BY
from selma.report.fitting import Column, Row, print_fitted
from selma.report.paper import COMPARISONS
from selma.report.tables import CHOSE, apart, between, points, signed
from selma.report.templates import duration


@dataclass(frozen=True)
class Figure:
    """One cell: a number, and below it the ends of its interval, if it has one."""

    text: str = ""
    ends: str = ""

    @property
    def joined(self) -> str:
        return f"{self.text} ({self.ends})" if self.ends else self.text


@dataclass(frozen=True)
class Sheet:
    """One table: the first column has the rows' names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Figure, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [list(map(_cell, self.columns)), ["---"] * len(self.columns)]
        lines += [[_cell(figure.joined) for figure in row] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *self.notes])

    def print(self, console: Console) -> None:
        console.print(self.title, style="italic", highlight=False, markup=False)
        columns = [Column(self.columns[0], "name")]
        with_ends = [any(row[n].ends for row in self.rows) for n in range(len(self.columns))]
        for name, ends in list(zip(self.columns, with_ends, strict=True))[1:]:
            columns += [Column(name), *([Column("95%", "ends")] if ends else [])]
        rows = []
        for row in self.rows:
            cells = [row[0].text]
            for figure, ends in list(zip(row, with_ends, strict=True))[1:]:
                cells += [figure.text, *([figure.ends] if ends else [])]
            rows.append(Row(cells))
        print_fitted(console, columns, rows)
        for note in self.notes:
            console.print(note, style="dim", highlight=False, markup=False)


def _cell(text: str) -> str:
    """The text in one cell of a table in Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def sheets(compared: Compared) -> Iterator[Sheet]:
    """All tables, in the order in which they are read."""
    for reading in reversed(compared.readings):
        for benchmark, card in compared.cards(reading).items():
            yield score_sheet(compared, reading, benchmark, card)
        if preferences := preference_sheet(compared, reading):
            yield preferences
    if compared.paper is not None and any(row.paper for row in compared.rows):
        yield paper_sheet(compared)
    if any(row.curve for row in compared.rows):
        yield curve_sheet(compared)
    yield cost_sheet(compared)
    if compared.verdicts:
        yield claim_sheet(compared)


def guided(compared: Compared, reading: str) -> str:
    """The reading in words."""
    if reading == BEST:
        return "each row at its own best guidance"
    return f"all rows at guidance {compared.training_guidance:g}, the training images'"


def score_sheet(compared: Compared, reading: str, benchmark: str, card: Scorecard) -> Sheet:
    """One benchmark: each row's score, minus the base row and minus the named one."""
    scores, rows = _by_row(card), []
    columns = [card.measure, "minus base"]
    columns += [f"minus {_title(compared, compared.against)}"] if compared.against else []
    for row in compared.rows:
        model = scores[row.name]
        figures = [Figure(row.title), _figure(model.score), _figure(model.difference, sign=True)]
        if compared.against:
            pair = difference(card, row.name, compared.against)
            figures.append(_figure(pair.difference if pair else None, sign=True))
        if reading == BEST:
            figures.append(Figure(f"{row.best:g}"))
        if any(other.clip for other in card.models):
            figures.append(Figure(points(model.clip.mean, 2) if model.clip else ""))
        rows.append(tuple(figures))
    columns += ["guidance"] * (reading == BEST)
    columns += ["CLIP"] * any(model.clip is not None for model in card.models)
    note = (
        f"{card.benchmark} ({card.split}): {card.prompts} prompts, {card.seeds} image(s) of each, "
        f"judge {card.judge}; {card.measure} is 0-100; differences are paired by prompt, with "
        f"their 95% intervals; base: {_title(compared, compared.base)}."
    )
    notes = (note, f"CLIP: {CHOSE}") if card.clip_chose else (note,)
    return Sheet(f"{benchmark}, {guided(compared, reading)}", ("row", *columns), tuple(rows), notes)


def preference_sheet(compared: Compared, reading: str) -> Sheet | None:
    """Preference scorers on the first benchmark; None if there are none."""
    card = next(iter(compared.cards(reading).values()))
    if not card.preferences:
        return None
    scores, rows = _by_row(card), []
    for row in compared.rows:
        figures = [Figure(row.title)]
        for scorer in card.preferences:
            model = scores[row.name]
            figures.append(_figure(model.preferences[scorer.label], digits=2))
            figures.append(
                _figure(model.preference_differences.get(scorer.label), sign=True, digits=2)
            )
        rows.append(tuple(figures))
    columns = [name for s in card.preferences for name in (s.name, "minus base")]
    notes = tuple(f"{s.name}: {CHOSE}" for s in card.preferences if s.chose)
    title = f"Preference, {guided(compared, reading)}"
    return Sheet(title, ("row", *columns), tuple(rows), notes)


def paper_sheet(compared: Compared) -> Sheet:
    """The paper's figures of the rows that name one, and below them its gains and ours."""
    assert compared.paper is not None
    printed = COMPARISONS[compared.paper]
    reading = compared.readings[-1]
    cards = compared.cards(reading)
    rows = []
    for row in compared.rows:
        if row.paper is None:
            continue
        base, method = row.paper
        cells, before = printed.rows[base][method], printed.rows[base][""]
        texts = [
            Figure(_printed(cell, digits))
            for cell, digits in zip(cells, printed.decimals, strict=True)
        ]
        rows.append((Figure(f"{row.title}: the paper's"), *texts))
        if method:
            gains = [
                Figure("" if cell is None or start is None else signed(cell - start, digits))
                for cell, start, digits in zip(cells, before, printed.decimals, strict=True)
            ]
            rows.append((Figure("its gain over its base"), *gains))
            ours = [_our_gain(cards, row, column, compared.base) for column in printed.columns]
            rows.append((Figure("our gain over our base"), *ours))
    title = f"Beside the paper's table {printed.number}: {printed.title.lower()}"
    measured = f"Our gains: {guided(compared, reading)}. The paper gives no intervals."
    return Sheet(title, ("row", *printed.columns), tuple(rows), (measured, *printed.notes))


def curve_sheet(compared: Compared) -> Sheet:
    """Each row's score on dev at each guidance."""
    guidances = list(dict.fromkeys(g for row in compared.rows for g in row.curve))
    rows = tuple(
        (
            Figure(row.title),
            *(Figure(points(row.curve[g]) if g in row.curve else "") for g in guidances),
            Figure("" if row.best is None else f"{row.best:g}"),
        )
        for row in compared.rows
    )
    note = "By the choosing judge, which never reports; of equal scores the lowest guidance."
    return Sheet("Dev: score at each guidance", ("row", *guidances, "best"), rows, (note,))


def cost_sheet(compared: Compared) -> Sheet:
    """What each row's model took."""
    rows = tuple(
        (
            Figure(row.title),
            *(Figure(f"{count:,}" if count else "") for count in _counts(row)),
            Figure(duration(row.cost.seconds) if row.cost.seconds else ""),
        )
        for row in compared.rows
    )
    note = (
        "What a row's model took from nothing, though rows share what they have in common. images: "
        "generated to be trained on or to choose by; scored: of these, looked at by a judge or "
        "scorer; time: of all that was finished, attempts that were cut off left out."
    )
    columns = ("row", "images", "scored", "trained on", "steps", "time")
    return Sheet("What each row took", columns, rows, (note,))


def claim_sheet(compared: Compared) -> Sheet:
    """Each claim: what the difference of two rows says of it."""
    rows = tuple(
        (
            Figure(verdict.says),
            Figure(f"{verdict.benchmark}, {verdict.reading}"),
            _figure(verdict.difference, sign=True),
            Figure(verdict.word),
        )
        for verdict in compared.verdicts
    )
    return Sheet("Claims", ("claim", "where", "difference", "verdict"), rows)


def as_markdown(compared: Compared) -> str:
    """All tables, for a page of documentation."""
    parts = [f"## {compared.title}", *(sheet.markdown() for sheet in sheets(compared))]
    return "\n\n".join([*parts, *compared.notes]) + "\n"


def print_compared(compared: Compared, console: Console) -> None:
    for sheet in sheets(compared):
        sheet.print(console)
    for note in compared.notes:
        console.print(note, highlight=False, markup=False)


def headline(compared: Compared) -> str:
    """The row that gains most on the first benchmark, in one sentence."""
    reading = compared.readings[-1]
    benchmark, card = next(iter(compared.cards(reading).items()))
    gains = [(m.difference, m.model) for m in card.models if m.difference is not None]
    gain, row = max(gains, key=lambda of: of[0].mean)
    clear = "" if gain.low > 0 else ", which is no clear gain"
    return (
        f"{_title(compared, row)} is {signed(gain.mean)} {benchmark} points "
        f"({between(gain, sign=True)}) from {_title(compared, compared.base)}{clear}"
    )


def _our_gain(cards: dict[str, Scorecard], row: ComparedRow, column: str, base: str) -> Figure:
    """Ours in a column of the paper's: a benchmark's by its name, a scorer's on the first one, of
    which rows over another one than the base have no interval."""
    if column in cards:
        pair = None if row.over == base else difference(cards[column], row.name, row.over)
        change = pair.difference if pair else _by_row(cards[column])[row.name].difference
        return _figure(change, sign=True)
    card = next(iter(cards.values()))
    labels = [s.label for s in card.preferences if s.name in MEASURED_BY.get(column, ())]
    if not labels:
        return Figure()
    if row.over != base:
        own, over = (_by_row(card)[name].preferences[labels[0]] for name in (row.name, row.over))
        return Figure(signed(own.mean - over.mean, 2))
    change = _by_row(card)[row.name].preference_differences.get(labels[0])
    return _figure(change, sign=True, digits=2)


def _counts(row: ComparedRow) -> Sequence[int]:
    cost = row.cost
    return cost.generated, cost.scored, cost.trained, cost.steps


def _printed(value: float | None, digits: int) -> str:
    return "" if value is None else points(value, digits)


def _by_row(card: Scorecard) -> dict[str, ModelScore]:
    return {model.model: model for model in card.models}


def _title(compared: Compared, name: str | None) -> str:
    return next(row.title for row in compared.rows if row.name == name)


def _figure(interval: Interval | None, *, sign: bool = False, digits: int = 1) -> Figure:
    return Figure(*apart(interval, sign=sign, digits=digits))
