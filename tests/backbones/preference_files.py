"""Tiny random checkpoints of the released shapes, and folders made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny
import torch
from backbones import blip_twin, open_clip_twin
from PIL import Image
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from selma.backbones.preference.converting import convert_weights

TEXTS = ["a big fox", "six blue hills, by night", "x", "long " * 40]


def images(count: int = 4) -> list[Image.Image]:
    numbers = np.random.default_rng(3)
    sizes = [(64, 64), (48, 30), (28, 90), (28, 28)]
    return [
        Image.fromarray(numbers.integers(0, 256, (*sizes[i % len(sizes)][::-1], 3), dtype=np.uint8))
        for i in range(count)
    ]


def clip_words(folder: Path) -> Path:
    tiny.tokenizer().save_pretrained(folder)
    return folder


def clip_shape() -> dict:
    words = tiny.tokenizer()
    text = open_clip_twin.SHAPE["text_config"] | {
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    return open_clip_twin.SHAPE | {"text_config": text}


def open_clip_state(seed: int = 0) -> dict[str, torch.Tensor]:
    return open_clip_twin.random_state(len(tiny.tokenizer()), seed=seed)


def hps_folder(folder: Path, *, seed: int = 0) -> Path:
    """An HPS checkpoint as released (a pickle with a state_dict), converted."""
    source = folder / "HPS.pt"
    torch.save({"epoch": 1, "state_dict": open_clip_state(seed)}, source)
    (folder / "shape.json").write_text(json.dumps(clip_shape()))
    words = clip_words(folder / "words")
    return convert_weights(
        source, folder / "hps", kind="hps_v2.1", tokenizer=str(words), config=folder / "shape.json"
    )


def clip_folder(folder: Path) -> Path:
    """A transformers CLIP folder with its tokenizer."""
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**clip_shape())).save_pretrained(folder)
    return clip_words(folder)


def bert_words(folder: Path) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz,"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}).save_pretrained(folder)
    return folder


def imagereward_folder(folder: Path) -> Path:
    torch.save(blip_twin.random_state(), folder / "ImageReward.pt")
    (folder / "shape.json").write_text(json.dumps(blip_twin.SHAPE))
    return convert_weights(
        folder / "ImageReward.pt",
        folder / "imagereward",
        kind="imagereward",
        tokenizer=str(bert_words(folder / "bert")),
        config=folder / "shape.json",
    )
