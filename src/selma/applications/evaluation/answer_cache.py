"""A cache of a judge's answers: no question about an image is asked twice.

    <folder>/<identity>.jsonl       one line for each image and question that the judge answered
    <folder>/images.jsonl           sha256 of a file → sha256 of its pixels as selma opens them

An answer is reused if the judge (weights, wording, decoding), the image's pixels and the question
are the same, whatever the file is called and whichever prompt the question belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from selma.backbones.judges.judge import Judge, possible
from selma.image_files import OPENER, open_image
from selma.progress import progress
from selma.record_files import read_rows
from selma.records.rows import CachedAnswer, CachedPixels
from selma.versions import versions
from selma.workspace import DECIDING, SCORES, append_lines, file_sha256, inside, recipe_key

CHUNK = 32
"""Images whose answers are written together: a crash loses no more than these."""

RawAnswer = tuple[str, float | None]
"""The raw text and P(yes), if the judge gives one."""


def _identity(judge: Judge) -> str:
    """What tells its answers from others: its fingerprint, and of a judge that runs here the
    versions that it runs on. What a server was paid for outlasts an upgrade."""
    if getattr(judge, "paid", False):
        return judge.fingerprint
    return recipe_key({"judge": judge.fingerprint, "versions": versions(DECIDING[SCORES])})


class AnswerCache:
    """One judge's answers in one folder."""

    def __init__(self, folder: Path, judge: Judge) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._judge = judge
        self._answers = inside(folder, f"{_identity(judge)}.jsonl")
        self._index = folder / "images.jsonl"

    def ask(
        self, images: Sequence[Path], questions: Sequence[Sequence[str]]
    ) -> list[list[RawAnswer]]:
        """The judge's answers, for each image and each of its questions; only new questions reach
        the judge. Raises DataError for an image that is missing or broken."""
        pixels = self._pixels(images)
        known = self._known()
        unanswered = [
            number
            for number, texts in enumerate(questions)
            if any((pixels[number], question) not in known for question in texts)
        ]
        done = len(images) - len(unanswered)
        if unanswered:
            with progress(self._judge.name, total=len(images), done=done) as advance:
                for start in range(0, len(unanswered), CHUNK):
                    part = unanswered[start : start + CHUNK]
                    self._ask(part, images, pixels, questions, known)
                    advance(len(part))
        return [
            [known[pixels[number], question] for question in texts]
            for number, texts in enumerate(questions)
        ]

    def _ask(
        self,
        part: Sequence[int],
        images: Sequence[Path],
        pixels: Sequence[str],
        questions: Sequence[Sequence[str]],
        known: dict[tuple[str, str], RawAnswer],
    ) -> None:
        wanted: dict[str, dict[str, None]] = {}  # the same image may come twice
        paths: dict[str, Path] = {}
        for number in part:
            paths.setdefault(pixels[number], images[number])
            for question in questions[number]:
                if (pixels[number], question) not in known:
                    wanted.setdefault(pixels[number], {})[question] = None
        if not wanted:
            return
        opened = [open_image(paths[digest]) for digest in wanted]
        replies = self._judge.answer(opened, [list(texts) for texts in wanted.values()])
        rows = []
        for (digest, texts), answers in zip(wanted.items(), replies, strict=True):
            for question, (text, yes) in zip(texts, answers, strict=True):
                known[digest, question] = (text, possible(self._judge.name, yes))
                rows.append({"image": digest, "question": question, "text": text, "yes": yes})
        append_lines(self._answers, rows)

    def _known(self) -> dict[tuple[str, str], RawAnswer]:
        return {
            (row["image"], row["question"]): (row["text"], row["yes"])
            for row in read_rows(self._answers, CachedAnswer, repair=True)
        }

    def _pixels(self, images: Sequence[Path]) -> list[str]:
        """The digest of each image's pixels; each file is decoded only once."""
        rows = read_rows(self._index, CachedPixels, repair=True)
        known = {row["file"]: row["pixels"] for row in rows if row.get("opener") == OPENER}
        digests, new = [], []
        for path in images:
            file = file_sha256(path)
            if file not in known:
                known[file] = _pixels(open_image(path))
                new.append({"file": file, "pixels": known[file], "opener": OPENER})
            digests.append(known[file])
        if new:
            append_lines(self._index, new)
        return digests


def _pixels(image: Image.Image) -> str:
    size = f"{image.width}x{image.height}\n".encode()
    return hashlib.sha256(size + image.tobytes()).hexdigest()
