"""Runs inside the scorers' environment: their own code on networks of few layers.

HPS's wheel lacks the vocabulary that it reads, which open_clip's has; ImageReward's imports a
package that only its other scorers need. Both are put right here, and nothing else is.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
CLIP_TOKENS = 49408


def package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def pairs(about: dict[str, Any]) -> list[tuple[Image.Image, str]]:
    images = [Image.open(path) for path in about["images"]]
    return list(zip(images, about["texts"], strict=True))


def hps(about: dict[str, Any]) -> dict[str, Any]:
    """hpsv2.score of each pair, with a random checkpoint that it saves first."""
    folder = Path(about["folder"])
    inside = package("hpsv2") / "src" / "open_clip" / VOCABULARY
    if not inside.exists():
        shutil.copyfile(package("open_clip") / VOCABULARY, inside)
    import hpsv2.img_score as program
    from hpsv2.src.open_clip import factory

    factory._MODEL_CONFIGS["ViT-H-14"] = about["shape"]
    torch.manual_seed(0)
    checkpoint = folder / "HPS.pt"
    model = factory.create_model("ViT-H-14", None)
    torch.save({"state_dict": model.state_dict()}, checkpoint)
    torch.save(model.state_dict(), folder / "pretrained.pt")
    factory.download_pretrained = lambda *_, **__: str(folder / "pretrained.pt")
    scores = [
        float(program.score(image, text, cp=str(checkpoint))[0]) for image, text in pairs(about)
    ]
    write_words(folder / "words.json")
    return {"scores": scores}


def write_words(path: Path) -> None:
    """CLIP's vocabulary and merges, as open_clip makes them of its file."""
    from open_clip.tokenizer import SimpleTokenizer

    words = SimpleTokenizer()
    packed = (package("open_clip") / VOCABULARY).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")
    merges = [line.split() for line in lines[1 : CLIP_TOKENS - 256 * 2 - 2 + 1]]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in words.encoder.items()}
    path.write_text(json.dumps({"vocabulary": vocabulary, "merges": merges}))


def imagereward(about: dict[str, Any]) -> dict[str, Any]:
    """ImageReward's score of each pair, with a random checkpoint that it saves first."""
    sys.modules.setdefault("clip", types.ModuleType("clip"))  # of other scorers in the package
    import ImageReward.models.BLIP.blip as blip
    import ImageReward.models.BLIP.blip_pretrain as pretrain
    from ImageReward.ImageReward import ImageReward
    from transformers import BertTokenizer

    folder, shape = Path(about["folder"]), about["shape"]
    look = shape["vision"]

    def create_vit(_: str, image_size: int, *__: Any) -> tuple[Any, int]:
        return (
            blip.VisionTransformer(
                img_size=image_size, patch_size=look["patch_size"],
                embed_dim=look["hidden_size"], depth=look["num_hidden_layers"],
                num_heads=look["num_attention_heads"],
            ),
            look["hidden_size"],
        )  # fmt: skip

    def init_tokenizer() -> Any:
        tokenizer = BertTokenizer(about["words"])
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        return tokenizer

    pretrain.create_vit, pretrain.init_tokenizer = create_vit, init_tokenizer
    settings = folder / "med_config.json"
    settings.write_text(json.dumps({**shape["text"], "add_cross_attention": True}))
    torch.manual_seed(0)
    model = ImageReward(med_config=str(settings)).eval()
    for parameter in model.mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    scores = [model.score(text, image) for image, text in pairs(about)]
    return {"scores": scores}


def pickscore(about: dict[str, Any]) -> dict[str, Any]:
    """The lines of PickScore's model card, with the classes that its Auto classes stand for."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    model = CLIPModel.from_pretrained(about["folder"]).eval()
    side = model.config.vision_config.image_size
    processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side),
        CLIPTokenizerFast.from_pretrained(about["folder"]),
    )
    scores = []
    limits = {"padding": True, "truncation": True, "max_length": about["tokens"]}
    for image, text in pairs(about):
        pixels = processor(images=[image], return_tensors="pt")
        tokens = processor(text=text, return_tensors="pt", **limits)
        with torch.no_grad():
            seen = model.get_image_features(**pixels)
            seen = seen / torch.norm(seen, dim=-1, keepdim=True)
            read = model.get_text_features(**tokens)
            read = read / torch.norm(read, dim=-1, keepdim=True)
            scores.append(float((model.logit_scale.exp() * (read @ seen.T)[0])[0]))
    return {"scores": scores}


if __name__ == "__main__":
    tasks = json.loads(sys.argv[1])
    print(json.dumps([globals()[task["task"]](task) for task in tasks]))
