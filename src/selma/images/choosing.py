"""Of several images of each prompt, those that a judge accepts and that score high enough, and of
these the ones that a scorer finds nearest to it (DreamSync's way, arXiv:2311.17946, with any
scorer; nobody's label is needed).

    2-images/_candidates/<skill>/<prompt id>[-<k>].png    all of them, chosen or not
    2-images/_scores/<skill>/scores.jsonl                 the scorer's score of each
    2-images/_answers/<skill>/answers.jsonl               the judge's answers about each
    2-images/<skill>/candidates.jsonl                     what became of each

What was not chosen stays: objectives that learn from preferences need both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from selma import row_files
from selma.backbones.judges.judge import Scorer
from selma.errors import TooFewPairs
from selma.image_files import open_image
from selma.plurals import counted
from selma.record_files import read_rows
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.images import Survivors
from selma.records.rows import Scored
from selma.row_files import Row, fill_rows
from selma.workspace import IMAGES, Item, Workspace

CANDIDATES, SCORES_OF_CANDIDATES = "_candidates", "_scores"
_FILE = "scores.jsonl"


class Accepting(Protocol):
    """What a judge says of candidates; `scores.accepting.Accepting`."""

    @property
    def asked(self) -> Mapping[str, Sequence[BenchmarkPrompt]]:
        """Skill → its prompts that have questions."""
        ...

    def recipe(self, skill: str) -> dict[str, Any]:
        """All that the shares depend on beside the images."""
        ...

    def shares(self, skill: str, candidates: Path, *, what: str = ...) -> Mapping[str, float]:
        """Name of each image in the folder → share of its prompt's questions that earn their point,
        in [0, 1].  what: folder of the answers."""
        ...


def scored(
    candidates: Item,
    skill: str,
    generated: Mapping[Path, str],
    scorer: Scorer,
    folder: Workspace,
    *,
    max_pixels: int,
    what: str = SCORES_OF_CANDIDATES,
) -> list[float]:
    """The score of each image for its text, in their order; a finished item is kept. Raises
    DataError for an image that is missing or broken.

    generated: image → its text.  what: folder of the scores.
    """
    recipe = {"candidates": candidates.key, "scorer": scorer.fingerprint, "chunk": row_files.CHUNK}
    item = folder.item(IMAGES, what, skill, recipe=recipe)

    def score(part: Sequence[Path]) -> list[Row]:
        images = [open_image(path, max_pixels=max_pixels) for path in part]
        scores = scorer.score(images, [generated[path] for path in part])
        return [{"score": score} for score in scores]

    if not item.done:
        path = item.begin() / _FILE
        jobs = {image.stem: image for image in generated}
        fill_rows(path, jobs, score, key="candidate", title=f"choosing by {scorer.name}: {skill}")
        item.finish([path], {"candidates": len(jobs)})
    return [row["score"] for row in read_rows(item.path / _FILE, Scored)]


def best(scores: Sequence[float], *, keep: int, among: Collection[int] | None = None) -> list[int]:
    """Places of the `keep` highest scores, best first; of equal ones, the first. among: the only
    places that count."""
    places = range(len(scores)) if among is None else sorted(among)
    return sorted(places, key=lambda position: -scores[position])[:keep]


def require_pairs(skill: str, count: int, survivors: Survivors, *, fewest: int) -> None:
    """Raise TooFewPairs if a skill has fewer pairs than that."""
    if count >= fewest:
        return
    advice = []
    if survivors.without_questions:
        advice.append(
            "Let images.choose.questions cover more prompts; toybox reads those of its own words "
            "alone (prompts.lexicon: toybox)."
        )
    lower = {"threshold": survivors.rejected, "score_threshold": survivors.below_score}
    if names := [f"images.choose.{name}" for name, count in lower.items() if count]:
        advice.append(f"Raise images.choose.candidates or lower {' and '.join(names)}.")
    advice.append("Raise prompts.per_skill, or be content with fewer: images.choose.fewest_pairs.")
    raise TooFewPairs(
        f"Skill {skill!r} needs {counted(fewest, 'pair')} to train on, but has {count}: of "
        f"{counted(survivors.prompts, 'prompt')}, "
        f"{counted(survivors.without_questions, 'has', 'have')} no questions, "
        f"{survivors.rejected} no image that the judge accepts"
        f"{f', {survivors.below_score} none that scores high enough' * bool(survivors.below_score)}"
        f". What was made is kept. {' '.join(advice)}"
    )
