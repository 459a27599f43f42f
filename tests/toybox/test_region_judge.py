"""The judge of regions: what it reads, and that it sees what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from selma.applications.judges.asking import SAID, everything
from selma.backbones.judges.loading import load_judge
from selma.backbones.judges.regions import READ, Seen
from selma.config.scores import ScoresConfig
from selma.scores.benchmarks import load_benchmark
from selma.toybox.conditions import CLASSES
from selma.toybox.scenes import COLOURS


def seen(*things: tuple[str, str, int, int]) -> Seen:
    """An image with 10 x 10 squares: kind, colour, left, top."""
    classes = np.full((64, 64), CLASSES.index("grass"))
    pixels = np.full((64, 64, 3), (90.0, 170.0, 90.0))
    for kind, colour, left, top in things:
        box = np.s_[top : top + 10, left : left + 10]
        classes[box], pixels[box] = CLASSES.index(kind), COLOURS[colour]
    return Seen(pixels, classes)


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (("entity", "dog"), True), (("entity", "star"), False),
        (("count", "dog", "two"), True), (("count", "dog", "three"), False),
        (("count", "star", "two"), False), (("colour", "dog", "red"), True),
        (("colour", "cat", "red"), False), (("colour", "cat", "blue"), True),
        (("spatial", "dog", "left of", "cat"), True), (("spatial", "cat", "left of", "dog"), False),
        (("spatial", "dog", "above", "cat"), False), (("spatial", "dog", "below", "star"), False),
        (("global", "grass"), True), (("global", "sea"), False),
    ],
)  # fmt: skip
def test_squares_by_hand(claim: tuple[str, ...], holds: bool) -> None:
    image = seen(("dog", "red", 4, 4), ("dog", "red", 4, 30), ("cat", "blue", 40, 16))
    assert image.holds(claim) is holds


def test_of_several_all_have_the_colour() -> None:
    image = seen(("dog", "red", 4, 4), ("dog", "blue", 4, 30))
    assert not image.holds(("colour", "dog", "red"))


def test_it_reads_all_of_the_benchmark_but_what_animals_do() -> None:
    for prompt in load_benchmark(ScoresConfig()):
        for question in prompt.questions:
            read = READ.get(question.text)
            assert (read is None) == (question.category == "action"), question.text
            if read is not None:
                assert read == (question.category, *question.detail.split(" | "))


def test_it_sees_what_is_drawn() -> None:
    shown = [each for each in everything(12, seed=1) if each.prompt.group == SAID]
    judge, right, total = load_judge("toybox-regions"), 0, 0
    for each in shown:
        asked = [q for q in each.prompt.questions if q.id.endswith("plain")]
        image = Image.fromarray(each.pixels)
        (answers,) = judge.answer([image], [[q.text for q in asked]])
        for question, (text, chance) in zip(asked, answers, strict=True):
            assert chance is None and (text == "not read") == (question.category == "action")
            right += text == question.answer
            total += text != "not read"
    assert right / total > 0.95
