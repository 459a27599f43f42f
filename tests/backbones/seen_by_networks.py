"""What every network that looks at images says of a few: here, or in a process of its own.

    python -m backbones.seen_by_networks FOLDERS   # JSON: what → the folder of its weights

Prints what `seen` tells, as JSON.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODES = ("RGB", "RGBA", "P", "L", "LA", "CMYK")
SIZES = ((41, 40), (90, 33), (20, 57))
QUESTION = "Is there a dog?"


def images() -> list[Image.Image]:
    """Of several sizes, and in the modes that files have."""
    numbers = np.random.default_rng(5)
    images = []
    for number, mode in enumerate(MODES):
        width, height = SIZES[number % len(SIZES)]
        values = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(values).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(numbers.integers(0, 256, (height, width), np.uint8)))
        images.append(image)
    return images


def opened() -> list[Image.Image]:
    """The same as selma opens them, and then as they are."""
    from selma.image_files import decode

    opened: list[Image.Image] = []
    for image in images():
        stored = io.BytesIO()
        image.save(stored, "TIFF" if image.mode == "CMYK" else "PNG")
        opened.append(decode(stored.getvalue()))
    return opened + images()


def judge(settings: Any) -> Any:
    from selma.backbones.judges.loading import load_judge

    return load_judge(settings).answer(opened(), [[QUESTION]] * 2 * len(MODES))


def vqa(folder: str) -> Any:
    from selma.config.scores import LocalJudge

    return judge(LocalJudge(model=folder, max_new_tokens=2, device="cpu"))


def detector(folder: str) -> Any:
    from selma.backbones.perception.detecting import TransformersDetector

    loaded = TransformersDetector(folder, revision=None, device="cpu", setting="x")
    return [[tuple(box) for box in boxes] for boxes in loaded.detect(opened(), least=0.0)]


def segmenter(folder: str) -> Any:
    from selma.backbones.perception.segmenting import load_segmenter

    loaded = load_segmenter(folder, revision=None, device="cpu", setting="x")
    return [classes.tolist() for classes in loaded.segment(opened())]


def captioner(folder: str) -> Any:
    from selma.backbones.perception.captioning import CaptionModel
    from selma.config.networks import Captioner

    model = CaptionModel(Captioner(model=folder, max_new_tokens=4, device="cpu"), setting="x")
    return [*model.caption(opened())]


def classifier(folder: str) -> Any:
    from selma.backbones.perception.captioning import Classifier
    from selma.config.networks import Safety

    model = Classifier(Safety(model=folder, keep=("neutral",)))
    return [*model.classify(opened())]


def preference(kind: str) -> Callable[[str], Any]:
    def score(folder: str) -> Any:
        from selma.backbones.preference.scorers import load_preference
        from selma.config.scores import PreferenceConfig

        scorer = load_preference(PreferenceConfig(kind=kind, model=folder, device="cpu"))  # type: ignore[arg-type]
        return scorer.score(opened(), ["a big fox"] * 2 * len(MODES))

    return score


def toybox_judge(name: str) -> Any:
    return judge(name)


def toybox_scorer(name: str) -> Any:
    from selma.backbones.judges.loading import load_scorer

    return load_scorer(name).score(opened(), ["a red dog"] * 2 * len(MODES))


def features(folder: str) -> Any:
    from selma.backbones.perception.likeness import load_dino
    from selma.config.networks import FeatureNetwork

    network = load_dino(FeatureNetwork(model=folder, device="cpu"), setting="x")
    return network.of_images(opened()).tolist()


def seen(folders: dict[str, str]) -> dict[str, Any]:
    """Whether transformers believes that torchvision is there, what it takes by itself, and for
    each network what it says."""
    from transformers import AutoImageProcessor
    from transformers.utils import is_torchvision_available

    shapes = {name: vqa for name in folders if name.startswith("vqa/")}
    scorers = {
        name: preference(name.partition("/")[2])
        for name in folders
        if name.startswith("preference/")
    }
    ways: dict[str, Callable[[str], Any]] = {
        "detr": detector, "yolos": detector, "segmenter": segmenter, "captioner": captioner,
        "classifier": classifier, "dino": features, "toybox-a": toybox_judge,
        "toybox-b": toybox_judge, "toybox-regions": toybox_judge, "toybox": toybox_scorer,
        **shapes, **scorers,
    }  # fmt: skip
    says = {name: ways[name](folder) for name, folder in folders.items()}
    by_itself = AutoImageProcessor.from_pretrained(folders["detr"])
    return {
        "there": is_torchvision_available(),
        "by itself": type(by_itself).__name__,
        "says": says,
    }


if __name__ == "__main__":
    print(json.dumps(seen(json.loads(Path(sys.argv[1]).read_text()))))
