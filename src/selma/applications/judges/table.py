"""What was found of judges, as tables for the terminal and as a section of the run's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from selma.applications.judges.checking import sentences
from selma.plurals import counted
from selma.records.judges import Agreement, Checked, JudgeCheck, PeopleCheck
from selma.records.pages import Page, PageTable
from selma.report.fitting import Column, Row, print_fitted
from selma.report.tables import cell

NAME = "judges"
TITLE = "The judges, judged"
MEASURES = {
    "right": "right, %",
    "yes_bias": "bias to yes",
    "one_fact": "told apart: one fact changed",
    "other_image": "told apart: another image",
    "nothing": "things seen in nothing, %",
    "turned": "question turned round, %",
    "reworded": "question in other words, %",
}
"""Measure → its row."""
AGREEMENT = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "pearson": "Pearson",
    "pairwise": "pairs, %",
}
"""Measure of an `Agreement` → its column."""
NOTES = (
    "Right: of questions about drawn scenes, as often to be answered yes as no, all and by kind of "
    "fact. Bias to yes: how much more often than half it says yes to them, in points.",
    "Told apart: yes where the image shows what is asked, minus yes where that fact alone is "
    "another, or the image is of another scene; 100 is perfect, 0 is one who does not look.",
    "Nothing: images of one colour or of noise. Turned round: answered the other way where the "
    "question asks the opposite. Other words: answered alike.",
    "95% intervals over scenes; an empty cell: it could read no such question.",
)


def print_checks(checks: Mapping[str, Checked], console: Console) -> None:
    """Print a table of the judges, and below it what is wrong with each."""
    drawn = [check.drawn for check in checks.values()]
    columns, rows = _table(drawn)
    kinds = [Column(columns[0], "name"), *map(Column, columns[1:])]
    print_fitted(console, kinds, [Row(row) for row in rows])
    for check in drawn:
        text = f"{check.judge}: {' '.join(sentences(check))}"
        console.print(text, highlight=False, markup=False)
    for note in NOTES:
        console.print(note, style="dim", highlight=False, markup=False)
    if people := [check.people for check in checks.values() if check.people]:
        console.print()
        print_people(people, console)


def print_people(checks: Sequence[PeopleCheck], console: Console) -> None:
    """Print how scores agree with people's votes, over all images and by skill."""
    columns, rows = _people_table(checks)
    kinds = [Column(columns[0], "name"), *map(Column, columns[1:])]
    print_fitted(console, kinds, [Row(row) for row in rows])
    for note in _people_notes(checks):
        console.print(note, style="dim", highlight=False, markup=False)


def judges_page(checks: Mapping[str, Checked]) -> Page:
    """The section of the report."""
    drawn = {setting: check.drawn for setting, check in checks.items()}
    people = [check.people for check in checks.values() if check.people]
    first = next(iter(drawn.values()))
    headline = " ".join(
        f"{check.judge} ({_role(setting)}): {' '.join(sentences(check))}"
        for setting, check in drawn.items()
    )
    asked = (
        f"{counted(first.scenes, 'scene')}, {counted(first.images, 'image')}, "
        f"{counted(first.questions, 'question')}"
    )
    known = ", ".join(f"{check.judge} {check.fingerprint}" for check in drawn.values())
    columns, rows = _table([*drawn.values()])
    tables = [PageTable(columns=tuple(columns), rows=tuple(map(tuple, rows)))]
    if people:
        columns, rows = _people_table(people)
        tables.append(
            PageTable(
                caption="Agreement with people's votes",
                columns=tuple(columns),
                rows=tuple(map(tuple, rows)),
                notes=tuple(_people_notes(people)),
            )
        )
    return Page(
        name=NAME,
        title=TITLE,
        headline=headline,
        about={"scores/judge": drawn["judge"].judge} if "judge" in drawn else {},
        tables=tuple(tables),
        notes=(f"Images that need no network to be understood: {asked}.", *NOTES,
               f"What they were: {known}."),
    )  # fmt: skip


def _role(setting: str) -> str:
    return "chooses" if setting == "choosing_judge" else "reports"


def _table(judges: Sequence[JudgeCheck]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a column for each judge."""
    rows = [
        [title, *(cell(getattr(judge, name), sign=name == "yes_bias") for judge in judges)]
        for name, title in MEASURES.items()
    ]
    kinds = list(dict.fromkeys(kind for judge in judges for kind in judge.categories))
    by_kind = [
        [f"right: {kind}, %", *(cell(j.categories.get(kind)) for j in judges)] for kind in kinds
    ]
    return ["", *(judge.judge for judge in judges)], [rows[0], *by_kind, *rows[1:]]


def _people_table(checks: Sequence[PeopleCheck]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a row for each judge and each skill."""
    rows = []
    for check in checks:
        rows.append(_agreement_row(f"{check.judge}, {check.measure}", check.every))
        rows += [_agreement_row(f"  {skill}", each) for skill, each in check.skills.items()]
    return ["", *AGREEMENT.values(), "images", "prompts"], rows


def _agreement_row(name: str, told: Agreement) -> list[str]:
    measures = [cell(getattr(told, measure)) for measure in AGREEMENT]
    return [name, *measures, str(told.images), str(told.prompts)]


def _people_notes(checks: Sequence[PeopleCheck]) -> Iterator[str]:
    yield (
        "Rank and linear correlation with the mean vote of each image, times 100, and the share of "
        "pairs of images that scores and people order alike or both hold for alike, all with 95% "
        "intervals over prompts. An empty cell: the scores are all alike."
    )
    for check in checks:
        parts = [
            f"{check.judge}: {counted(check.every.images, 'image')} of {', '.join(check.models)}",
            f"scores within {check.every.tie:.4g} of each other are alike, which agrees best",
        ]
        if check.only_rated:
            parts.append(f"{counted(check.only_rated, 'image')} with votes have no score")
        if check.only_scored:
            parts.append(f"{counted(check.only_scored, 'score')} without votes")
        if check.unread:
            parts.append(f"{check.unread:.1f}% of its answers say nothing")
        yield "; ".join(parts) + "."
