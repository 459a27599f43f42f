"""The studies of a run, for its report: what was voted, and on pictures that are still there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selma.applications.study.ballot import read_ballot
from selma.applications.study.plan import Study, place_of
from selma.applications.study.summary import Summary, Tally, summarise
from selma.scores.answering import manifest
from selma.workspace import inside


class Studied(NamedTuple):
    """One study that somebody voted in."""

    summary: Summary
    current: bool
    """Whether the pictures voted on are those that the run has now."""

    @property
    def rows(self) -> Iterator[tuple[str, Tally]]:
        """As the paper's table 8: all votes, then each split."""
        yield "All", self.summary.all
        yield from self.summary.groups.items()


def run_studies(run: Path) -> dict[str, Studied]:
    """Name → study, of those in `RUN/study` with any vote. Raises DataError for what is none."""
    found = {}
    for path in sorted((run / "study").glob("*.sqlite")):
        ballot = read_ballot(path)
        summary = summarise(ballot)
        if summary.votes:
            found[path.stem] = Studied(summary, _current(run, ballot.study))
    return found


def _current(run: Path, study: Study) -> bool:
    for place, model in enumerate(study.models):
        files = manifest(inside(run, place_of(model))).get("files", {})
        for pair in study.pairs:
            if files.get(f"{pair.id}.png", {}).get("sha256") != pair.sha256[place]:
                return False
    return True
