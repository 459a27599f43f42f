"""No score depends on what else is installed: images are prepared by Pillow, with torchvision or
without it, and what prepares them is asked for in one place."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges
import torch
import transformers
from backbones import made_up_torchvision, seen_by_networks
from backbones.preference_files import clip_folder, hps_folder, imagereward_folder
from backbones.seen_by_networks import MODES
from backbones.test_detector_judge import _detr, _yolos
from PIL import Image

import selma
from selma.backbones.image_processors import load_image_processor
from selma.backbones.judges.loading import JUDGES
from selma.backbones.preference.scorers import SCORERS
from selma.image_modes import plain_rgb

ROOT = Path(selma.__file__).parent
LOADERS = {
    "backbones/judges/vqa.py": tuple(f"vqa/{shape}" for shape in tiny_judges.SHAPES),
    "backbones/perception/captioning.py": ("captioner", "classifier"),
    "backbones/perception/prepared.py": ("detr", "yolos", "segmenter"),
}
"""Modules that ask for what prepares images → what is seen by their networks below."""
_NAMES = re.compile(r"\w*(Image|Video|Auto|Feature)(Processor|Extractor)\w*|torchvision\w*")
_LAYER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2}  # fmt: skip
_TORCHVISION_ALONE = "Sam2ImageProcessor"


def _captioner(folder: Path) -> None:
    text = _LAYER | tiny_judges._vocabulary() | {
        "encoder_hidden_size": 32, "sep_token_id": 2, "max_position_embeddings": 48,
    }  # fmt: skip
    vision = _LAYER | {"image_size": 32, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision)
    tiny_judges._save(transformers.BlipForConditionalGeneration(config), folder)
    tiny_judges._processor("Blip", folder, tiny_judges.words("<s>", "</s>"))


def _classifier(folder: Path) -> None:
    names = dict(enumerate(("neutral", "drawings")))
    config = transformers.ViTConfig(**_LAYER, image_size=32, patch_size=16, id2label=names)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)


def _dino(folder: Path) -> None:
    config = transformers.ViTConfig(**_LAYER, image_size=32, patch_size=8)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def _segformer(folder: Path) -> None:
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4,
        decoder_hidden_size=8, id2label=dict(enumerate("abcd")),
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.SegformerImageProcessorPil(size=size).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    own = {"detr": _detr, "yolos": _yolos, "segmenter": _segformer, "captioner": _captioner,
           "classifier": _classifier, "dino": _dino}  # fmt: skip
    for name, build in own.items():
        build(root / name)
    (root / "a").mkdir()
    (root / "b").mkdir()
    hps, clip = hps_folder(root / "a"), clip_folder(root / "clip")
    scorers = {"pickscore": clip, "clip": clip, "hps_v2": hps, "hps_v2.1": hps,
               "imagereward": imagereward_folder(root / "b")}  # fmt: skip
    paths = {
        **{name: root / name for name in own},
        **{f"vqa/{shape}": tiny_judges.folder(shape) for shape in tiny_judges.SHAPES},
        **{f"preference/{kind}": folder for kind, folder in scorers.items()},
    }
    names = ("toybox-a", "toybox-b", "toybox-regions", "toybox")
    return {name: str(path) for name, path in paths.items()} | {name: name for name in names}


def _seen_beside(torchvision: Path, folders: dict[str, str], scratch: Path) -> Any:
    (scratch / "folders.json").write_text(json.dumps(folders))
    path = os.pathsep.join([str(torchvision), str(ROOT.parent), str(Path(__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, "-m", "backbones.seen_by_networks", str(scratch / "folders.json")],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.skipif(
    transformers.utils.is_torchvision_available(), reason="there is a real torchvision"
)
def test_every_network_sees_the_same_with_torchvision_and_without(
    folders: dict[str, str], tmp_path: Path
) -> None:
    """The one beside which they run believes that it has torchvision, and is told of any use."""
    without = json.loads(json.dumps(seen_by_networks.seen(folders)))
    beside = _seen_beside(made_up_torchvision.build(tmp_path), folders, tmp_path)
    assert (without["there"], beside["there"]) == (False, True)
    assert without["by itself"] == "DetrImageProcessorPil"
    assert beside["by itself"] == "DetrImageProcessor"  # what everything would be prepared by
    assert without["says"].keys() == folders.keys()
    for name, says in without["says"].items():
        assert beside["says"][name] == says, name
        # As files and as they are handed over: colours that are hidden are seen by no network.
        assert says[: len(MODES)] == says[len(MODES) :], name


def test_every_row_of_judges_and_scorers_is_among_them(folders: dict[str, str]) -> None:
    seen = {name.partition("/")[0] for name in folders} | {"transformers", "detector"}
    # A server prepares images itself: it gets the file's own pixels.
    assert {*JUDGES} - {"openai"} <= seen
    assert {f"preference/{name}" for name in SCORERS} <= folders.keys()
    assert {name for names in LOADERS.values() for name in names} <= folders.keys()


def test_what_prepares_images_is_asked_for_in_one_place() -> None:
    """A new loader asks `image_processors`, and is seen above."""
    asking = set()
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        if module == "backbones/image_processors.py":
            continue
        names = set(_names(ast.parse(path.read_text())))
        if names & {"load_image_processor", "load_processor"}:
            asking.add(module)
        # Made-up files of toybox's networks name the class that reads them.
        named = {name for name in names if _NAMES.fullmatch(name)}
        assert not named or module.startswith("toybox/pretraining/"), f"{module}: {named}"
    assert asking == LOADERS.keys()


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name.rpartition(".")[2] if not name.startswith("torchvision") else name
            case ast.ImportFrom(module=str(module)):
                yield module
            case ast.Constant(value=str(text)):
                yield text
            case _:
                pass


def test_what_torchvision_alone_prepares_is_refused(
    tmp_path: Path,
) -> None:
    """Beside torchvision transformers would take it with a warning: whose pixels, nobody knows."""
    config = {"image_processor_type": _TORCHVISION_ALONE, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match="torchvision"):
        load_image_processor({"pretrained_model_name_or_path": tmp_path})
    program = (
        "import sys\nfrom selma.backbones.image_processors import load_image_processor\n"
        "try:\n    load_image_processor({'pretrained_model_name_or_path': sys.argv[1]})\n"
        "except ValueError as error:\n    print(error)\n"
    )
    path = os.pathsep.join([str(made_up_torchvision.build(tmp_path)), str(ROOT.parent)])
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{_TORCHVISION_ALONE} prepares images by torchvision alone" in result.stdout


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_what_the_originals_make_of_them(mode: str) -> None:
    """Pillow's own conversion, as all their programs call it."""
    image = noise().convert(mode)
    np.testing.assert_array_equal(np.asarray(plain_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_over_white_as_qwens_program_has_it(mode: str) -> None:
    image, alpha = noise(), np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    if mode == "P":  # each colour of a palette has one opacity
        image = image.quantize(256)
        image.info["transparency"] = bytes(range(256))
    else:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(alpha))
    channels = np.asarray(image.convert("RGBA"), np.float64)
    opacity = channels[..., 3:] / 255
    expected = channels[..., :3] * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(np.asarray(plain_rgb(image)), expected, atol=0.51)


@pytest.mark.parametrize("kind", ["CLIPImageProcessorPil", "BlipImageProcessorPil"])
def test_transformers_processors_lay_transparent_parts_over_white_too(kind: str) -> None:
    """PickScore's, CLIP's and BLIP's, since they do so by themselves."""
    image = noise().convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)))
    prepare = getattr(transformers, kind)(
        size={"height": 32, "width": 32}, do_center_crop=False, do_normalize=False
    )
    theirs, ours = (
        prepare(images=each, return_tensors="pt")["pixel_values"]
        for each in (image, plain_rgb(image))
    )
    torch.testing.assert_close(ours, theirs, atol=1.01 / 255, rtol=0)


def test_pillows_own_conversion_is_not_used_where_networks_look() -> None:
    """It drops the opacity; `image_modes.plain_rgb` is what every network is shown."""
    for path in sorted((ROOT / "backbones").rglob("*.py")):
        assert 'convert("RGB")' not in path.read_text(), path


def noise() -> Image.Image:
    numbers = np.random.default_rng(1)
    return Image.fromarray(numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8))
