"""A judge of boxes: things, numbers, colours and sides, as GenEval (arXiv:2310.11513) has it.

It has seen no caption and writes no text, so that it shares no fault with models that do. It reads
plain questions alone ("Is there a dog?", "Are there two dogs?", "Is the dog red?", "Is the dog left
of the cat?"); all others it leaves unread. Colours are told by pixels, not by a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.backbones.judges.judge import NOT_READ
from selma.backbones.perception.detecting import Box, Detector, TransformersDetector
from selma.config.scores import DetectorJudge as Settings
from selma.image_modes import plain_rgb
from selma.workspace import recipe_key

NUMBERS = {
    word: number
    for number, word in enumerate(
        (
            "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
            "eighteen", "nineteen", "twenty",
        ),
        1,
    )
}  # fmt: skip
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation → the direction in which the first thing lies."""
COLOURS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (220, 30, 40),
    "orange": (245, 140, 30), "yellow": (250, 215, 50), "green": (50, 155, 65),
    "blue": (45, 100, 215), "purple": (135, 60, 175), "pink": (245, 150, 190),
    "brown": (120, 75, 40),
}  # fmt: skip
"""The eleven words that people agree on (Berlin & Kay 1969) → sRGB of a plain example."""
_SPELLINGS = {"gray": "grey"}
_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse",
    "knives": "knife", "wolves": "wolf", "leaves": "leaf", "geese": "goose",
}  # fmt: skip
OFFSET = 0.1
"""Of both sizes added up: nearer middles lie on no side of each other."""
HALF = 0.5
"""Of the way between the middles must lie in a direction for it to count."""
MIDDLE = 0.6
"""Of a box's sides: its corners are mostly background."""

_MOST_SIDE = 128

See = Callable[["Seen"], bool]


class DetectorJudge:
    """See `selma.backbones.judges.judge.Judge`. The weights are loaded when first asked."""

    def __init__(
        self, settings: Settings, *, setting: str = "scores.judge", detector: Detector | None = None
    ) -> None:
        self._settings = settings
        self._detector = detector or TransformersDetector(
            settings.model, revision=settings.revision, device=settings.device, setting=setting
        )
        self.name = self._detector.name

    @cached_property
    def fingerprint(self) -> str:
        rules = self._settings.model_dump(include={"threshold", "counting_threshold", "most"})
        return recipe_key({"detector": self._detector.fingerprint, "rules": rules, "version": 2})

    @property
    def about(self) -> dict[str, str]:
        asked = self._settings
        return {
            "weights": self._detector.fingerprint,
            "wording": f"plain questions, read as boxes above {asked.threshold:g}, counted above "
            f"{asked.counting_threshold:g}",
            "precision": "fp32",
        }

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """Texts are "yes" and "no", or NOT_READ; there are no probabilities."""
        asked = [[self._read(text) for text in texts] for texts in questions]
        looked_at = [image for image, of_image in zip(images, asked, strict=True) if any(of_image)]
        boxes = self._detector.detect(looked_at, least=self._settings.threshold)
        answers: list[list[tuple[str, float | None]]] = []
        for image, of_image in zip(images, asked, strict=True):
            seen = Seen(plain_rgb(image), next(boxes), self._settings) if any(of_image) else None
            answers.append(
                [
                    (NOT_READ if see is None or seen is None else _YES_NO[see(seen)], None)
                    for see in of_image
                ]
            )
        return answers

    @property
    def reads(self) -> str:
        return (
            "plain questions about things of its own classes, their colours and sides, and numbers "
            f"up to {self._settings.most}"
        )

    def unread(self, questions: Sequence[str]) -> list[str]:
        """Those that it cannot read, or that are of a thing that the detector does not know."""
        return [text for text in questions if self._read(text) is None]

    def _read(self, question: str) -> See | None:
        return read(question, self._classes, most=self._settings.most)

    @cached_property
    def _classes(self) -> frozenset[str]:
        return frozenset(self._detector.classes)


_YES_NO = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Seen:
    """An image, and all that is seen in it."""

    image: Image.Image
    boxes: list[Box]
    settings: Settings

    def of(self, name: str, *, least: float = 0.0) -> list[Box]:
        """The things of a class with this score or more, likeliest first, at most `most`."""
        found = [box for box in self.boxes if box.name == name and box.score > least]
        return sorted(found, key=lambda box: -box.score)[: self.settings.most]


def is_there(seen: Seen, name: str) -> bool:
    return bool(seen.of(name))


def count_is(seen: Seen, name: str, number: int) -> bool:
    """Of those that are seen clearly: one thing often has several faint boxes. More than `most` are
    not taken for `most`."""
    least = seen.settings.counting_threshold
    return sum(box.name == name and box.score > least for box in seen.boxes) == number


def colour_is(seen: Seen, name: str, colour: str, *, every: bool) -> bool:
    """Whether the likeliest thing of the class has this colour; of several all must."""
    boxes = seen.of(name)
    told = [colour_of(seen.image, box) == colour for box in (boxes if every else boxes[:1])]
    return bool(told) and all(told)


def lies(seen: Seen, first: str, relation: str, second: str) -> bool:
    """Whether any thing of the first class lies on that side of any of the second."""
    return any(relation in sides(one, other) for one in seen.of(first) for other in seen.of(second))


def sides(one: Box, other: Box) -> set[str]:
    """On which sides of the other box the one lies, by GenEval's rule: the way between the middles,
    less a tenth of both sizes, must point there by half or more."""
    pair = (one, other)
    middles = np.array([[(b.left + b.right) / 2, (b.top + b.bottom) / 2] for b in pair])
    sizes = np.array([[b.right - b.left, b.bottom - b.top] for b in pair])
    way = middles[0] - middles[1]
    way = np.maximum(np.abs(way) - OFFSET * sizes.sum(axis=0), 0) * np.sign(way)
    if not way.any():
        return set()
    x, y = way / np.linalg.norm(way)
    return {name for name, (right, down) in SIDES.items() if x * right + y * down > HALF}


def colour_of(image: Image.Image, box: Box) -> str | None:
    """The colour word that most pixels in the middle of a box are nearest to, in CIELAB, of at most
    128 x 128 of them evenly spread; None of a box outside of the image."""
    cut = (1 - MIDDLE) / 2
    sides = ((box.left, box.right, image.width), (box.top, box.bottom, image.height))
    spans = []
    for low, high, most in sides:
        if not (high >= 0 and low < most):  # asked so, no number is outside, too
            return None
        low, high = max(low, 0.0), min(high, float(most))
        first = min(int(low + cut * (high - low)), most - 1)
        after = max(round(high - cut * (high - low)), first + 1)
        spans.append(slice(first, after, -(-(after - first) // _MOST_SIDE)))
    pixels = np.asarray(plain_rgb(image))[spans[1], spans[0]]
    names = list(COLOURS)
    references = lab(np.array([COLOURS[name] for name in names]))
    distances = np.linalg.norm(lab(pixels.reshape(-1, 3))[:, None] - references, axis=-1)
    return names[int(np.bincount(distances.argmin(axis=1), minlength=len(names)).argmax())]


def lab(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB 0..255, [n, 3]."""
    share = np.asarray(rgb, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = (
        linear
        @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
        / [0.9505, 1.0, 1.089]
    )
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


def read(question: str, classes: frozenset[str], *, most: int = 16) -> See | None:
    """What a question asks to see; None for one that is not plain, of an unknown thing, or of a
    number above `most`, up to which things are counted."""
    text = " ".join(question.lower().split()).removesuffix("?").strip()
    for pattern, meaning in _PATTERNS:
        if found := pattern.fullmatch(text):
            parts = found.groupdict()
            named = [_class(parts[key], classes) for key in ("first", "second") if key in parts]
            things = [thing for thing in named if thing]
            if "number" in parts and _number(parts["number"]) > most:
                return None
            if len(things) == len(named):
                return meaning(parts, things)
    return None


def _class(words: str, classes: frozenset[str]) -> str | None:
    """The detector's class that words name, in the singular or plural."""
    words = words.strip()
    ends = (("", ""), ("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"))
    forms = [words.removesuffix(end) + new for end, new in ends if words.endswith(end)]
    *front, last = words.split(" ")
    forms += [" ".join([*front, _PLURALS[last]])] if last in _PLURALS else []
    return next((form for form in forms if form in classes), None)


def _colour(word: str) -> str:
    return _SPELLINGS.get(word, word)


def _of_colour(parts: dict[str, str], things: Sequence[str]) -> See:
    every = parts["is"] == "are"
    return partial(colour_is, name=things[0], colour=_colour(parts["colour"]), every=every)


def _of_number(parts: dict[str, str], things: Sequence[str]) -> See:
    return partial(count_is, name=things[0], number=_number(parts["number"]))


def _number(word: str) -> int:
    return 1 if word == "a single" else NUMBERS[word] if word in NUMBERS else int(word)


def _of_side(parts: dict[str, str], things: Sequence[str]) -> See:
    relation = next(side for side in SIDES if side.split(" ")[0] == parts["side"])
    return partial(lies, first=things[0], relation=relation, second=things[1])


def _any_of(words: Iterable[str]) -> str:
    return "|".join(words)


_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[dict[str, str], Sequence[str]], See]], ...] = (
    (
        re.compile(
            r"(?:is|are) there (?:exactly |only |just )?"
            rf"(?P<number>{_any_of(NUMBERS)}|a single|\d{{1,3}}) (?P<first>.+)"
        ),
        _of_number,
    ),
    (
        re.compile(
            r"(?:is|are) the (?P<first>.+?) (?:to the |on the )?(?P<side>left|right) of the "
            r"(?P<second>.+)"
        ),
        _of_side,
    ),
    (
        re.compile(r"(?:is|are) the (?P<first>.+?) (?P<side>above|below) the (?P<second>.+)"),
        _of_side,
    ),
    (
        re.compile(
            rf"(?P<is>is|are) the (?P<first>.+?) (?P<colour>{_any_of((*COLOURS, *_SPELLINGS))})"
        ),
        _of_colour,
    ),
    (
        re.compile(r"(?:is there (?:an?|any)|are there(?: any| some)?) (?P<first>.+)"),
        lambda parts, things: partial(is_there, name=things[0]),
    ),
)
