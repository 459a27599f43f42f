"""The preference scorers' own packages beside selma's, on random networks of few layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from backbones.preference_files import clip_folder
from interop.programs import run
from PIL import Image
from transformers import CLIPTokenizer

from selma.backbones.preference.converting import convert_weights
from selma.backbones.preference.scorers import load_preference
from selma.config.scores import PreferenceConfig
from selma.image_files import open_image

pytestmark = pytest.mark.interop

EXACT = 5e-4
"""Relative: pixels are resized by another library's code, and sums are of other orders."""
TEXTS = [
    "a red ball under a blue chair",
    "“curly” quotes & <b>tags</b>, naïve café  ",
    "two dogs " * 60,
    "x",
]
SIZES = [(224, 224), (300, 170), (97, 411), (640, 480)]

OPEN_CLIP = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16,
                   "patch_size": 14, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip
IMAGEREWARD = {
    "vision": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
               "num_attention_heads": 4, "image_size": 224, "patch_size": 16,
               "layer_norm_eps": 1e-6},
    "text": {"hidden_size": 768, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 12, "vocab_size": 80, "encoder_hidden_size": 64,
             "encoder_width": 64, "max_position_embeddings": 40, "layer_norm_eps": 1e-12,
             "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def program(needs):
    return needs("scorers")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of smooth images of several sizes, so that resizing matters."""
    folder, numbers, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for size in SIZES:
        coarse = numbers.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        paths.append(folder / f"{len(paths)}.png")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def ours(folder: Path, kind: str, images: list[Path], texts: list[str], **how: object):
    scorer = load_preference(PreferenceConfig(kind=kind, model=str(folder), device="cpu", **how))
    return scorer.score([open_image(path, max_pixels=10**6) for path in images], texts)


def apart(theirs: list[float], ours: list[float]) -> float:
    """The largest difference, relative to how far scores lie apart."""
    assert len(theirs) == len(ours) and np.ptp(theirs) > 0
    return float(np.abs(np.subtract(theirs, ours)).max() / np.ptp(theirs))


def hps_shape() -> dict:
    """The same network as settings of transformers' CLIPConfig."""
    look, read = OPEN_CLIP["vision_cfg"], OPEN_CLIP["text_cfg"]
    return {
        "projection_dim": OPEN_CLIP["embed_dim"],
        "vision_config": {"hidden_size": look["width"], "intermediate_size": 2 * look["width"],
                          "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 224,
                          "patch_size": 14, "hidden_act": "gelu",
                          "projection_dim": OPEN_CLIP["embed_dim"]},
        "text_config": {"hidden_size": read["width"], "intermediate_size": 4 * read["width"],
                        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 49408,
                        "max_position_embeddings": 77, "hidden_act": "gelu",
                        "projection_dim": OPEN_CLIP["embed_dim"], "bos_token_id": 49406,
                        "eos_token_id": 49407, "pad_token_id": 49407},
    }  # fmt: skip


def test_hps_is_hpsv2s(program, measured, images, tmp_path):
    task = {"task": "hps", "folder": tmp_path, "shape": OPEN_CLIP, "images": images,
            "texts": TEXTS}  # fmt: skip
    theirs = run(program, "scorers", [task])[0]["scores"]
    words = json.loads((tmp_path / "words.json").read_text())
    CLIPTokenizer(
        vocab=words["vocabulary"], merges=[tuple(pair) for pair in words["merges"]],
        pad_token="<|endoftext|>", model_max_length=77,
    ).save_pretrained(tmp_path / "words")  # fmt: skip
    (tmp_path / "shape.json").write_text(json.dumps(hps_shape()))
    folder = convert_weights(tmp_path / "HPS.pt", tmp_path / "hps", kind="hps_v2.1",
                             tokenizer=str(tmp_path / "words"),
                             config=tmp_path / "shape.json")  # fmt: skip
    scores = [score / 100 for score in ours(folder, "hps_v2.1", images, TEXTS)]
    measured("hpsv2", "1.2.0", "hpsv2.score: scores, of their range", apart(theirs, scores),
             EXACT)  # fmt: skip


def test_imagereward_is_image_rewards(program, measured, images, tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz,"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(pieces))
    task = {"task": "imagereward", "folder": tmp_path, "shape": IMAGEREWARD, "images": images,
            "words": tmp_path / "bert" / "vocab.txt", "texts": TEXTS}  # fmt: skip
    theirs = run(program, "scorers", [task])[0]["scores"]
    (tmp_path / "shape.json").write_text(json.dumps(IMAGEREWARD))
    folder = convert_weights(tmp_path / "ImageReward.pt", tmp_path / "reward", kind="imagereward",
                             tokenizer=str(tmp_path / "bert"),
                             config=tmp_path / "shape.json")  # fmt: skip
    scores = ours(folder, "imagereward", images, TEXTS)
    measured("image-reward", "1.5", "ImageReward.score: scores, of their range",
             apart(theirs, scores), EXACT)  # fmt: skip


def test_pickscore_is_its_cards(program, measured, images, tmp_path):
    folder = clip_folder(tmp_path / "clip")
    task = {"task": "pickscore", "folder": folder, "images": images,
            "texts": TEXTS, "tokens": tiny.TOKENS}  # fmt: skip
    theirs = run(program, "scorers", [task])[0]["scores"]
    scores = ours(folder, "pickscore", images, TEXTS)
    measured("transformers", "4.54.1", "PickScore by its card's lines: scores, of their range",
             apart(theirs, scores), EXACT)  # fmt: skip
