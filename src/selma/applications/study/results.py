"""A study's page and section of the run's report: its votes, and whether its images are current.

6-report/study-<name>.html          one page for each study
6-report/pages/study-<name>.json    its section of the report
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selma.applications.study.ballot import Ballot
from selma.applications.study.plan import Study, images_in, images_path
from selma.applications.study.summary import Summary, Tally, summarise
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.records.pages import Page, PageTable
from selma.records.scores import Interval, Scorecard
from selma.report import paper
from selma.report.pages import write_page
from selma.report.tables import between, points, spread
from selma.report.templates import environment, policy
from selma.workspace import SCORES, Workspace, inside, manifest

TITLE = "What people chose"
INTRODUCTION = (
    "Two images of one prompt, in random order and without names: which fits the caption better? "
    "The layout is that of the paper’s table 8. Percent is win / (win + lose), without ties, with "
    "its 95% bootstrap interval over prompts."
)
OLD = "These votes are on images that the run has generated anew since."
COLUMNS = ("Split", "win", "lose", "tie", "% (95%, s.e.)", "ties as half, % (95%, s.e.)")


class Studied(NamedTuple):
    """A study with votes."""

    summary: Summary
    current: bool
    """Whether the run still has the images that were voted on."""

    @property
    def rows(self) -> Iterator[tuple[str, Tally]]:
        """The rows of the paper's table 8: all votes, then each split."""
        yield "All", self.summary.all
        yield from self.summary.groups.items()


def studied(run: AnyPath, ballot: Ballot, *, resamples: int = 10_000) -> Studied:
    """Summarise a study of the run in `run`."""
    run = as_path(run)
    return Studied(summarise(ballot, resamples=resamples), _current(run, ballot.study))


def write_study_page(run: AnyPath, name: str, study: Studied) -> Path:
    """Write a study's page and its section of the run's report; returns the page's path."""
    run = as_path(run)
    page = study_page(name, study, about=_images(run, study), votes=_votes(run))
    html = (
        environment("selma.applications.study")
        .get_template("results.html")
        .render(
            policy=policy(),
            name=name,
            title=TITLE,
            introduction=INTRODUCTION,
            old=OLD,
            headline=page.headline,
            study=study,
            summary=study.summary,
            notes=_notes(study.summary),
            votes=_votes(run),
            votes_note=paper.VOTES_NOTE,
        )
    )
    return write_page(page, Workspace(run), html)


def study_page(
    name: str,
    study: Studied,
    *,
    about: dict[str, str],
    votes: dict[str, tuple[int, int, int]],
) -> Page:
    """A study's section of the report; `votes` are the paper's, if the run is on its prompts."""
    summary = study.summary
    own = PageTable(
        columns=COLUMNS,
        rows=tuple(
            (split, *map(str, (row.win, row.lose, row.tie)), _share(row.percent),
             _share(row.percent_ties_half))
            for split, row in study.rows
        ),
        notes=tuple(_notes(summary)),
    )  # fmt: skip
    paper_table = PageTable(
        caption="The paper: SDXL + SELMA against SDXL",
        columns=("Split", "win", "lose", "tie", "%", "ties as half, %"),
        rows=tuple(
            (split, *map(str, (win, lose, tie)), points(100 * win / (win + lose)),
             points(100 * (win + tie / 2) / (win + lose + tie)))
            for split, (win, lose, tie) in votes.items()
        ),
        notes=(paper.VOTES_NOTE,),
    )  # fmt: skip
    unfinished = len(summary.unfinished)
    return Page(
        name=f"study-{name}",
        title=TITLE,
        headline=_headline(name, summary),
        file=f"study-{name}.html",
        about=about,
        tables=(own, paper_table) if votes else (own,),
        notes=(
            *(() if study.current else (OLD,)),
            *((f"{unfinished} of them had not finished.",) if unfinished else ()),
            INTRODUCTION,
        ),
    )


def _headline(name: str, summary: Summary) -> str:
    return (
        f"{summary.models[1]} against {summary.models[0]}: {counted(summary.votes, 'vote')} on "
        f"{summary.all.prompts} of {counted(summary.prompts, 'prompt')} by "
        f"{counted(len(summary.annotators), 'person', 'people')}, study “{name}”."
    )


def _notes(summary: Summary) -> Iterator[str]:
    """Sentences on the annotators' agreement and on their preference for a side."""
    alpha, left = summary.alpha, summary.left
    if alpha:
        yield (
            f"Agreement: Krippendorff’s alpha {points(alpha.mean, 2)} (95%: "
            f"{between(alpha, digits=2)}) on {counted(alpha.n, 'prompt')} with two or more votes; "
            "1 is full agreement, 0 is chance."
        )
    else:
        yield (
            "Agreement cannot be computed: no prompt has votes by two people, or all votes are "
            "alike."
        )
    if left:
        yield (
            f"The image on the left was chosen in {points(left.mean)}% (95%: {between(left)}) of "
            "the votes that were no tie; 50 is no preference for a side."
        )


def _share(interval: Interval | None) -> str:
    return "–" if interval is None else f"{points(interval.mean)} ({spread(interval)})"


def _votes(run: Path) -> dict[str, tuple[int, int, int]]:
    """The paper's votes if the run's scorecard is on DSG-1k, too; else {}."""
    path = inside(run, f"{SCORES}/scorecard/scorecard.json")
    if not path.is_file():
        return {}
    card = Scorecard.model_validate_json(path.read_text("utf-8"))
    return dict(paper.VOTES) if card.published == "dsg-1k" else {}


def _images(run: Path, study: Studied) -> dict[str, str]:
    """Keys of the models' current images."""
    keys = {
        f"images/{model}": manifest(inside(run, images_path(model))).get("key")
        for model in study.summary.models
    }
    return {name: key for name, key in keys.items() if key is not None}


def _current(run: Path, study: Study) -> bool:
    for position, model in enumerate(study.models):
        files = images_in(manifest(inside(run, images_path(model))))
        for pair in study.pairs:
            if files.get(pair.id, {}).get("sha256") != pair.sha256[position]:
                return False
    return True
