"""A judge of boxes: what it reads, GenEval's rules, colours by pixels, and real detectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw

from selma.backbones.judges.detector import (
    COLOURS,
    DetectorJudge,
    colour_of,
    lab,
    read,
    sides,
)
from selma.backbones.judges.judge import NOT_READ
from selma.backbones.judges.loading import load_judge
from selma.backbones.perception.detecting import Box
from selma.config import load_config
from selma.config.scores import DetectorJudge as Settings
from selma.config.scores import ScoresConfig
from selma.errors import ModelError
from selma.preflight import check

CLASSES = ("person", "dog", "cat", "bus", "sheep", "teddy bear", "knife", "cherry")


class Given:
    """A detector that is told what is to be seen."""

    name, fingerprint, classes = "given", "g", CLASSES

    def __init__(self, *of_images: list[Box]) -> None:
        self.of_images = list(of_images)
        self.asked = 0

    def detect(self, images: Sequence[Image.Image], *, least: float) -> Iterator[list[Box]]:
        for boxes in self.of_images[: len(images)]:
            self.asked += 1
            yield [box for box in boxes if box.score > least]


def judge(*of_images: list[Box], **settings: Any) -> DetectorJudge:
    return DetectorJudge(Settings(model="a/model", **settings), detector=Given(*of_images))


def says(boxes: list[Box], question: str, image: Image.Image | None = None) -> str:
    shown = image or Image.new("RGB", (100, 100))
    ((answer,),) = judge(boxes).answer([shown], [[question]])
    assert answer[1] is None
    return answer[0]


def box(name: str, x: float, y: float, *, score: float = 0.95, side: float = 20) -> Box:
    return Box(name, score, x - side / 2, y - side / 2, x + side / 2, y + side / 2)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there a dog?", "yes"),
        ("Is there a bus?", "no"),
        ("Are there dogs?", "yes"),
        ("Are there any people?", "no"),
        ("Are there two dogs?", "yes"),
        ("Are there three dogs?", "no"),
        ("Are there exactly 2 dogs?", "yes"),
        ("Are there twelve dogs?", "no"),
        ("Is there one cat?", "yes"),
        ("Is there exactly one dog?", "no"),
        ("Is there only 1 cat?", "yes"),
        ("Is there a single teddy bear?", "yes"),
        ("Are there sixteen cats?", "no"),
        ("Are there seventeen cats?", NOT_READ),
        ("Are there 100 cats?", NOT_READ),
        ("Are there zero cats?", NOT_READ),
        ("Is there a teddy bear?", "yes"),
        ("Are there teddy bears?", "yes"),
        ("Are there sheep?", "no"),
        ("Are there knives?", "no"),
        ("Is the cat left of the dog?", "yes"),
        ("Is the cat to the left of the dogs?", "yes"),
        ("Are the dogs on the right of the cat?", "yes"),
        ("Is the dog left of the cat?", "no"),
        ("Is the teddy bear above the cat?", "yes"),
        ("Is the cat below the teddy bear?", "yes"),
        ("Is the cat above the teddy bear?", "no"),
        ("is  there a DOG", "yes"),
        ("Is the dog happy?", NOT_READ),
        ("Is there a unicorn?", NOT_READ),
        ("Is the dog left of the unicorn?", NOT_READ),
        ("Is there no dog?", NOT_READ),
        ("Is the dog not red?", NOT_READ),
        ("Does the image show a dog?", NOT_READ),
    ],
)
def test_plain_questions_are_answered_by_boxes(question: str, answer: str) -> None:
    boxes = [box("dog", 80, 80), box("dog", 80, 50), box("cat", 20, 80), box("teddy bear", 20, 20)]
    assert says(boxes, question) == answer
    unread = [question] if answer == NOT_READ else []
    assert judge(boxes).unread([question, "Is there a dog?"]) == unread


def test_faint_boxes_are_there_but_not_counted() -> None:
    boxes = [box("dog", 50, 50), box("dog", 55, 50, score=0.5), box("cat", 10, 10, score=0.2)]
    assert says(boxes, "Is there a dog?") == "yes"
    assert says(boxes, "Are there two dogs?") == "no"
    assert says(boxes, "Is there a cat?") == "no"
    many = [box("dog", x, 50) for x in range(0, 100, 5)]
    assert says(many, "Are there 16 dogs?") == "no", "there are 20"
    assert says(many[:16], "Are there sixteen dogs?") == "yes"
    # It counts up to 16, and does not say no to more.
    assert says(many, "Are there 20 dogs?") == says(many, "Are there twenty dogs?") == NOT_READ
    ((answer,),) = judge(many, most=30).answer([Image.new("RGB", (9, 9))], [["Are there 20 dogs?"]])
    assert answer[0] == "yes"


def test_it_says_what_it_reads() -> None:
    assert judge(most=30).reads.endswith("numbers up to 30")


@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_sides_are_told_by_the_way_between_the_middles(degrees: int) -> None:
    """GenEval's rule, written out: offsets beyond a tenth of both sizes, as a unit vector; more
    than half of it must point to a side."""
    x, y = 60 * math.cos(math.radians(degrees)), 60 * math.sin(math.radians(degrees))
    dx, dy = (math.copysign(max(abs(v) - 0.1 * (20 + 20), 0), v) for v in (x, y))
    length = math.hypot(dx, dy)
    expected = {
        side
        for side, share in (
            ("left of", -dx / length), ("right of", dx / length),
            ("above", -dy / length), ("below", dy / length),
        )
        if share > 0.5
    }  # fmt: skip
    assert sides(box("a", 100 + x, 100 + y), box("b", 100, 100)) == expected


def test_things_in_one_place_lie_on_no_side() -> None:
    assert sides(box("a", 50, 50), box("b", 53, 50)) == set()


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_told_by_pixels(name: str) -> None:
    image = Image.new("RGB", (100, 100), (90, 160, 90))
    ImageDraw.Draw(image).ellipse((30, 30, 70, 70), fill=COLOURS[name])
    assert colour_of(image, box("dog", 50, 50, side=40)) == name
    assert says([box("dog", 50, 50, side=40)], f"Is the dog {name}?", image) == "yes"
    assert says([box("dog", 10, 10)], f"Is the dog {name}?", image) == (
        "yes" if name == "green" else "no"
    )
    assert says([], f"Is the dog {name}?", image) == "no"


def test_what_lies_outside_of_the_image_has_no_colour() -> None:
    image = Image.new("RGB", (40, 30), COLOURS["red"])
    for edges in ((50, 5, 60, 9), (5, -9, 9, -3), (float("nan"), 5, 9, 9), (40, 0, 40.1, 9)):
        assert colour_of(image, Box("dog", 0.9, *edges)) is None
    for edges in ((-20, -20, 70, 70), (39.9, 29.9, 40.1, 30.1), (5, 5, 5, 5)):
        assert colour_of(image, Box("dog", 0.9, *edges)) == "red"
    assert says([Box("dog", 0.9, 50, 5, 60, 9)], "Is the dog black?", image) == "no"


def test_of_a_large_box_some_pixels_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    monkeypatch.setattr(
        "selma.backbones.judges.detector.lab",
        lambda rgb: (counted.append(len(rgb)), lab(rgb))[1],
    )
    image = Image.new("RGB", (3000, 2000), COLOURS["blue"])
    assert colour_of(image, Box("dog", 0.9, 0, 0, 3000, 2000)) == "blue"
    assert max(counted) <= 128 * 128


def test_of_several_all_must_have_the_colour() -> None:
    image = Image.new("RGB", (100, 50), COLOURS["red"])
    image.paste(COLOURS["blue"], (50, 0, 100, 50))
    pair = [box("dog", 25, 25, score=0.99), box("dog", 75, 25)]
    assert says(pair, "Are the dogs red?", image) == "no"
    assert says(pair, "Is the dog red?", image) == "yes", "the likeliest"
    assert says(pair[:1], "Are the dogs gray?", image) == "no"


def test_lab_is_that_of_the_published_values() -> None:
    """CIELAB (D65) of sRGB's corners, as colour tables print them."""
    corners = {(255, 255, 255): (100, 0, 0), (255, 0, 0): (53.24, 80.09, 67.20),
               (0, 255, 0): (87.73, -86.18, 83.18), (0, 0, 255): (32.30, 79.19, -107.86),
               (0, 0, 0): (0, 0, 0)}  # fmt: skip
    found = lab(np.array(list(corners)))
    np.testing.assert_allclose(found, np.array(list(corners.values())), atol=0.05)


def test_images_without_a_readable_question_are_not_looked_at() -> None:
    one = judge([box("dog", 5, 5)])
    images = [Image.new("RGB", (9, 9))] * 3
    answers = one.answer(images, [["Is it art?"], [], ["Is there a dog?"]])
    assert answers == [[(NOT_READ, None)], [], [("yes", None)]]
    assert one._detector.asked == 1  # type: ignore[attr-defined]


def test_an_unknown_thing_is_never_taken_for_another() -> None:
    classes = frozenset(CLASSES)
    for text in ("Is there a hot dog?", "Is the red dog blue?", "Are there two"):
        assert read(text, classes) is None


def _detr(folder: Path) -> None:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, backbone=None,
        use_pretrained_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5, id2label=dict(enumerate(("N/A", "Dog", "cat"))),
    )  # fmt: skip
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 48, "longest_edge": 64}
    transformers.DetrImageProcessorPil(size=size).save_pretrained(folder)


def _yolos(folder: Path) -> None:
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=[48, 48], patch_size=16, num_detection_tokens=5,
        id2label=dict(enumerate(("dog", "cat", "bus"))),
    )  # fmt: skip
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 48, "longest_edge": 64}
    transformers.YolosImageProcessorPil(size=size).save_pretrained(folder)


@pytest.fixture(scope="module", params=[_detr, _yolos], ids=["detr", "yolos"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("detector") / "weights"
    torch.manual_seed(0)
    request.param(place)
    return place


def test_a_model_of_transformers_is_asked_image_by_image(folder: Path) -> None:
    settings = Settings(model=str(folder), threshold=0.2, device="cpu")
    one = load_judge(settings)
    assert one.name == "weights" and one.fingerprint != judge().fingerprint
    numbers = np.random.default_rng(0)
    images = [
        Image.fromarray(numbers.integers(0, 256, (h, w, 3), np.uint8))
        for w, h in ((40, 40), (64, 32), (20, 50))
    ]
    questions = [["Is there a dog?", "Are there cats?", "Is there a tram?"]] * 3
    whole = one.answer(images, questions)
    assert all(row[2] == (NOT_READ, None) for row in whole)
    assert whole == [one.answer([image], [questions[0]])[0] for image in images]

    detector = one._detector  # type: ignore[attr-defined]
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    prepare = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    for image, boxes in zip(images, detector.detect(images, least=0.2), strict=True):
        with torch.inference_mode():
            outputs = model(**prepare(images=image, return_tensors="pt"))
        chances = outputs.logits[0].softmax(-1)[:, :-1].max(-1)
        keep = chances.values > 0.2
        assert [b.score for b in boxes] == pytest.approx(chances.values[keep].tolist(), abs=1e-5)
        middle = outputs.pred_boxes[0][keep, 0] * image.width
        found = [(b.left + b.right) / 2 for b in boxes]
        assert found == pytest.approx(middle.tolist(), abs=1e-3)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"must hold the config\.json of a detector"):
        load_judge(Settings(model=str(tmp_path / "empty"))).answer(
            [Image.new("RGB", (9, 9))], [["Is there a dog?"]]
        )
    (tmp_path / "run.yaml").write_text(
        "name: a\nscores: {judge: {kind: detector, model: empty, threshold: 0.4}}\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert isinstance(config.scores.judge, Settings)
    with pytest.raises(Exception, match=r"scores\.judge\.model: .* must hold a config\.json"):
        check(config, ["5-scores"])
    assert ScoresConfig.model_validate(config.scores.model_dump()) == config.scores
