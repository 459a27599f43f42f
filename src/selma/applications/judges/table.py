"""What was found of judges, as tables for the terminal and as a section of the run's report."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from selma.applications.judges.checking import sentences
from selma.plurals import counted
from selma.records.judges import JudgeCheck
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
NOTES = (
    "Right: of questions about drawn scenes, as often to be answered yes as no, all and by kind of "
    "fact. Bias to yes: how much more often than half it says yes to them, in points.",
    "Told apart: yes where the image shows what is asked, minus yes where that fact alone is "
    "another, or the image is of another scene; 100 is perfect, 0 is one who does not look.",
    "Nothing: images of one colour or of noise. Turned round: answered the other way where the "
    "question asks the opposite. Other words: answered alike.",
    "95% intervals over scenes; an empty cell: it could read no such question.",
)


def print_checks(checks: Mapping[str, JudgeCheck], console: Console) -> None:
    """Print a table of the judges, and below it what is wrong with each."""
    columns, rows = _table(checks)
    kinds = [Column(columns[0], "name"), *map(Column, columns[1:])]
    print_fitted(console, kinds, [Row(row) for row in rows])
    for check in checks.values():
        text = f"{check.judge}: {' '.join(sentences(check))}"
        console.print(text, highlight=False, markup=False)
    for note in NOTES:
        console.print(note, style="dim", highlight=False, markup=False)


def judges_page(checks: Mapping[str, JudgeCheck]) -> Page:
    """The section of the report."""
    first = next(iter(checks.values()))
    headline = " ".join(
        f"{check.judge} ({_role(setting)}): {' '.join(sentences(check))}"
        for setting, check in checks.items()
    )
    asked = (
        f"{counted(first.scenes, 'scene')}, {counted(first.images, 'image')}, "
        f"{counted(first.questions, 'question')}"
    )
    known = ", ".join(f"{check.judge} {check.fingerprint}" for check in checks.values())
    columns, rows = _table(checks)
    return Page(
        name=NAME,
        title=TITLE,
        headline=headline,
        about={"scores/judge": checks["judge"].judge} if "judge" in checks else {},
        tables=(PageTable(columns=tuple(columns), rows=tuple(map(tuple, rows))),),
        notes=(f"Images that need no network to be understood: {asked}.", *NOTES,
               f"What they were: {known}."),
    )  # fmt: skip


def _role(setting: str) -> str:
    return "reports" if setting == "judge" else "chooses"


def _table(checks: Mapping[str, JudgeCheck]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a column for each judge."""
    judges = list(checks.values())
    rows = [
        [title, *(cell(getattr(judge, name), sign=name == "yes_bias") for judge in judges)]
        for name, title in MEASURES.items()
    ]
    kinds = list(dict.fromkeys(kind for judge in judges for kind in judge.categories))
    by_kind = [
        [f"right: {kind}, %", *(cell(j.categories.get(kind)) for j in judges)] for kind in kinds
    ]
    return ["", *(judge.judge for judge in judges)], [rows[0], *by_kind, *rows[1:]]
