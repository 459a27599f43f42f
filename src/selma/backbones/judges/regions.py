"""Toybox's third judge, of quite another build: it has seen no question.

It reads maps of classes (toybox's segmenter, a SegFormer): things are connected regions, their
colours are told by pixels, sides by the middles of regions. What animals do it does not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.backbones.judges.judge import NOT_READ
from selma.backbones.perception.segmenting import Segmenter, load_segmenter
from selma.image_modes import plain_rgb
from selma.toybox.captions import NUMBERS
from selma.toybox.conditions import CLASSES
from selma.toybox.drawing import BACKGROUNDS, KINDS
from selma.toybox.questions import Claim, ask
from selma.toybox.scenes import COLOURS, RELATIONS

WORDING = "plain questions, read as regions of a map"
LEAST_PX = 40
"""Of a region: a thing is drawn 24 x 24, and a speck is none."""
EITHER = np.ones((3, 3))
"""Pixels that touch by a corner are of one region."""
_NEAR = 90.0
"""Of 442: ink, beaks and windows are of no colour that is asked for."""


class RegionJudge:
    """See `selma.backbones.judges.judge.Judge`."""

    name = "toybox-regions"
    reads = "what is there, how many, in which colour, on which side and before which background"

    @property
    def about(self) -> Mapping[str, str]:
        return {"weights": self._segmenter.fingerprint, "wording": WORDING, "precision": "fp32"}

    @cached_property
    def _segmenter(self) -> Segmenter:
        return load_segmenter("toybox", revision=None, device="cpu", setting="scores.judge")

    @property
    def fingerprint(self) -> str:
        return f"regions-1-{self._segmenter.fingerprint}"

    def unread(self, questions: Sequence[str]) -> list[str]:
        return [text for text in questions if text not in READ]

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """ "yes", "no" or NOT_READ, without probabilities."""
        answers: list[list[tuple[str, float | None]]] = []
        for image, texts, classes in zip(
            images, questions, self._segmenter.segment(images), strict=True
        ):
            seen = Seen(np.asarray(plain_rgb(image), np.float64), classes)
            answers.append(
                [(("no", "yes")[seen.holds(READ[t])] if t in READ else NOT_READ, None)
                 for t in texts]
            )  # fmt: skip
        return answers


class Seen:
    """One image and its map."""

    def __init__(self, pixels: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
        self.pixels, self.classes = pixels, classes

    def regions(self, kind: str) -> list[NDArray[np.bool_]]:
        """The things of a kind, each as a mask."""
        from scipy import ndimage

        labels, count = ndimage.label(self.classes == CLASSES.index(kind), EITHER)
        masks = [labels == number for number in range(1, count + 1)]
        return [mask for mask in masks if mask.sum() >= LEAST_PX]

    def holds(self, claim: Claim) -> bool:
        if claim[0] == "global":
            behind = {name: (self.classes == CLASSES.index(name)).sum() for name in BACKGROUNDS}
            return max(behind, key=lambda name: behind[name]) == claim[1]
        regions = self.regions(claim[1])
        if claim[0] == "entity" or not regions:
            return bool(regions)
        if claim[0] == "count":
            return NUMBERS.get(len(regions)) == claim[2]
        if claim[0] == "colour":
            return all(self._colour(mask) == claim[2] for mask in regions)
        others = self.regions(claim[3])
        return bool(others) and _side(_middle(regions), _middle(others)) == claim[2]

    def _colour(self, mask: NDArray[np.bool_]) -> str:
        """The colour that most of its pixels are nearest to."""
        names, references = list(COLOURS), np.array(list(COLOURS.values()), np.float64)
        far = np.linalg.norm(self.pixels[mask][:, None] - references, axis=-1)
        near = far.argmin(axis=1)[far.min(axis=1) < _NEAR]
        return names[int(np.bincount(near, minlength=len(names)).argmax())]


def _middle(regions: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    return np.array(np.nonzero(np.logical_or.reduce(regions))).mean(axis=1)


def _side(first: NDArray[np.float64], second: NDArray[np.float64]) -> str:
    down, right = first - second
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def _every_claim() -> Iterable[Claim]:
    yield from (("global", name) for name in BACKGROUNDS)
    for kind in KINDS:
        yield ("entity", kind)
        yield from (("colour", kind, colour) for colour in COLOURS)
        yield from (("count", kind, number) for number in NUMBERS.values())
        for other in KINDS:
            if other != kind:
                yield from (("spatial", kind, relation, other) for relation in RELATIONS)


READ: Mapping[str, Claim] = {
    ask(claim, {claim[1]: one, claim[-1]: two}): claim
    for claim in _every_claim()
    for one in (False, True)
    for two in (False, True)
}
"""Question → what it asks; nothing of what animals do."""
