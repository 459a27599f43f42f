"""Candidates with scores → pairs of winner and loser, without those that the judge cannot tell
apart.

    2-images/_preferences/<skill>/preferences.jsonl    the pairs
    2-images/_moved/<skill>/                           all candidates moved by one pixel, with
    2-images/_moved-scores, _moved-answers/<skill>/    what the judge says of them: only where its
                                                       noise is measured
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from PIL import Image

from selma import processes
from selma.backbones.preference.scorers import load_image_scorer
from selma.config.images import ImagesConfig
from selma.config.preferences import NO_ANSWERS, NO_CANDIDATES, PreferencePairs
from selma.errors import ConfigError
from selma.image_files import open_image, png_bytes
from selma.image_places import image_of, make_folders, places
from selma.images.choosing import CANDIDATES, Accepting, scored
from selma.images.generating import CHOSEN
from selma.record_files import read_rows
from selma.records.images import Preference, PreferenceCount
from selma.records.prompts import Prompt
from selma.records.rows import CandidateRow, PreferenceRow
from selma.row_files import write_rows
from selma.workspace import IMAGES, Item, Workspace, manifest, write_bytes

PREFERENCES, MOVED, MOVED_SCORES, MOVED_ANSWERS = (
    "_preferences",
    "_moved",
    "_moved-scores",
    "_moved-answers",
)
_FILE = "preferences.jsonl"
MAX_PIXELS = 2**26
"""Of a candidate, which selma itself generated."""


@dataclass(frozen=True)
class Candidate:
    """One of a prompt's images, and what counts of it."""

    name: str
    prompt: Prompt
    score: float


def preferred_pairs(
    candidates: Sequence[Candidate], of: str, *, least_difference: float
) -> tuple[list[tuple[Candidate, Candidate]], int]:
    """(winner, loser) of one prompt's candidates, and how many pairs were dropped because they
    differ by no more than that."""
    if of == "first_two":
        pairs = [candidates[:2]]
    elif of == "all":
        pairs = list(combinations(candidates, 2))
    else:
        best = max(candidates, key=lambda candidate: candidate.score)
        pairs = [(best, min(candidates, key=lambda candidate: candidate.score))]
    ordered = [sorted(pair, key=lambda candidate: -candidate.score) for pair in pairs]
    apart = [
        (winner, loser)
        for winner, loser in ordered
        if winner.score - loser.score > least_difference
    ]
    return apart, len(pairs) - len(apart)


def noise_of(scores: Sequence[float], of_moved: Sequence[float]) -> float:
    """Root mean square of what scores change by when images are moved by a pixel: the standard
    deviation of a difference of two scores, in so far as that is noise."""
    changes = [moved - score for score, moved in zip(scores, of_moved, strict=True)]
    return math.sqrt(math.fsum(change**2 for change in changes) / len(changes))


def moved(image: Image.Image) -> Image.Image:
    """The image one pixel further to the right; its first column comes twice."""
    result = image.copy()
    result.paste(image.crop((0, 0, image.width - 1, image.height)), (1, 0))
    return result


def make_preferences(
    skills: Iterable[str],
    config: ImagesConfig,
    settings: PreferencePairs,
    folder: Workspace,
    *,
    accepting: Accepting | None = None,
) -> dict[str, list[Preference]]:
    """Skill → its preferences, of candidates that stage 2 has chosen among; what is finished is
    kept. Raises ConfigError where there is nothing to make them of."""
    if config.choose is None:
        raise ConfigError(f"experts.objective {NO_CANDIDATES}")
    if settings.by == "answers" and accepting is None:
        raise ConfigError(f"experts.objective: {NO_ANSWERS}")
    return {
        skill: _SkillPreferences(skill, config, settings, folder, accepting).finished()
        for skill in skills
    }


def read_counts(folder: Workspace, skills: Iterable[str]) -> dict[str, PreferenceCount]:
    """Skill → what making pairs left, of finished ones."""
    summaries = {
        skill: manifest(folder.folder_of(IMAGES, PREFERENCES, skill)).get("summary")
        for skill in skills
    }
    return {
        skill: PreferenceCount.model_validate(summary)
        for skill, summary in summaries.items()
        if summary
    }


@dataclass(frozen=True)
class _SkillPreferences:
    skill: str
    config: ImagesConfig
    settings: PreferencePairs
    folder: Workspace
    accepting: Accepting | None

    def finished(self) -> list[Preference]:
        """Those on disk, made before if they are not there."""
        item = self.folder.item(IMAGES, PREFERENCES, self.skill, recipe=self._recipe())
        path = item.path / _FILE
        if not item.done:
            item.begin()
            candidates = self._candidates()
            least = self._least_difference(candidates)
            rows, dropped = self._rows(candidates, least)
            if processes.main():
                write_rows(path, rows)
            count = PreferenceCount(
                pairs=len(rows),
                dropped=dropped,
                prompts=len({row["prompt_id"] for row in rows}),
                images=len({row[side] for row in rows for side in ("winner", "loser")}),
                least_difference=least,
                measured=self.settings.least_difference is None,
            )
            item.finish([path], count.model_dump())
        return [self._preference(row) for row in read_rows(path, PreferenceRow)]

    def _recipe(self) -> dict[str, Any]:
        chosen = manifest(self.folder.folder_of(IMAGES, self.skill)).get("key")
        return {"candidates": chosen, "pairs": self.settings.model_dump(mode="json")}

    def _candidates(self) -> list[Candidate]:
        by_score = self.settings.by == "score"
        return [
            Candidate(
                row["candidate"],
                Prompt(id=row["prompt_id"], skill=self.skill, text=row["text"]),
                row["score"] if by_score else row["answered"],
            )
            for row in read_rows(self.folder.folder_of(IMAGES, self.skill) / CHOSEN, CandidateRow)
        ]

    def _rows(
        self, candidates: Sequence[Candidate], least: float
    ) -> tuple[list[dict[str, Any]], int]:
        """A row for each pair, and how many were dropped."""
        rows, dropped = [], 0
        for prompt, of_prompt in groupby(candidates, key=lambda candidate: candidate.prompt):
            pairs, close = preferred_pairs(
                list(of_prompt), self.settings.of, least_difference=least
            )
            dropped += close
            for winner, loser in pairs:
                about = {"prompt_id": prompt.id, "text": prompt.text}
                names = {"winner": winner.name, "loser": loser.name}
                scores = {"winner_score": winner.score, "loser_score": loser.score}
                rows.append(about | names | scores)
        return rows, dropped

    def _preference(self, row: PreferenceRow) -> Preference:
        return Preference(
            prompt=Prompt(id=row["prompt_id"], skill=self.skill, text=row["text"]),
            winner=self._image(row["winner"]),
            loser=self._image(row["loser"]),
            difference=row["winner_score"] - row["loser_score"],
        )

    def _image(self, name: str) -> Path:
        return image_of(self.folder.folder_of(IMAGES, CANDIDATES, self.skill), name)

    def _least_difference(self, candidates: Sequence[Candidate]) -> float:
        """As set, or measured."""
        if self.settings.least_difference is not None:
            return self.settings.least_difference
        item = self._moved(candidates)
        scores = [candidate.score for candidate in candidates]
        if self.settings.by == "answers":
            assert self.accepting is not None
            shares = self.accepting.shares(self.skill, item.path, what=MOVED_ANSWERS)
            return noise_of(scores, [shares[candidate.name] for candidate in candidates])
        assert self.config.choose is not None
        texts = {image_of(item.path, c.name): c.prompt.text for c in candidates}
        scorer = load_image_scorer(self.config.choose.scorer)
        of_moved = scored(
            item,
            self.skill,
            texts,
            scorer,
            self.folder,
            max_pixels=MAX_PIXELS,
            what=MOVED_SCORES,
        )
        return noise_of(scores, of_moved)

    def _moved(self, candidates: Sequence[Candidate]) -> Item:
        """The item of all candidates, each moved by a pixel."""
        originals = manifest(self.folder.folder_of(IMAGES, CANDIDATES, self.skill)).get("key")
        item = self.folder.item(
            IMAGES, MOVED, self.skill, recipe={"candidates": originals, "right_px": 1}
        )
        files = places(item.path, (f"{candidate.name}.png" for candidate in candidates))
        if not item.done:
            item.begin()
            if processes.main():
                make_folders(files)
            for candidate, file in zip(candidates, files, strict=True):
                if processes.main() and not file.exists():
                    image = open_image(self._image(candidate.name), max_pixels=MAX_PIXELS)
                    write_bytes(file, png_bytes(moved(image)))
            item.finish(files, {"images": len(files)})
        return item
