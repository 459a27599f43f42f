"""ImageReward v1.0 (arXiv:2304.05977): BLIP's image encoder, a BERT that looks at the image by
cross attention, and a reward read from its first token. Built from transformers' own parts.

A folder of it holds vision/ and text/ (transformers' BlipVisionModel and BlipTextModel) and
head.safetensors; `selma score convert` makes it of ImageReward.pt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from selma.backbones.preference.checkpoints import Checkpoint, read_shape, save_exactly
from selma.backbones.preference.preprocessing import normalised, shortest_side_and_crop
from selma.backbones.weights import Weights, load_network, load_tokenizer
from selma.errors import ModelError

if TYPE_CHECKING:
    import torch

    from selma.backbones.preference.clip import Forward

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward, over its authors' data (ImageReward/ImageReward.py)."""
TOKENS = 35
"""As its authors have it: about a sixth of DSG's prompts are longer and are cut."""
HEAD = "head.safetensors"
HEAD_WIDTHS = (1024, 128, 64, 16, 1)
# Places of the linear layers in the released Sequential; dropout stands between them.
_PLACES = (0, 2, 4, 6, 7)
_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# BLIP's contrastive projections are in the file, but no reward passes through them.
_UNUSED = ("blip.vision_proj.", "blip.text_proj.")


def shape() -> dict[str, dict[str, Any]]:
    """ViT-L/16 at 224 and BERT base, as settings of the two transformers classes."""
    return {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                   "num_attention_heads": 16, "image_size": 224, "patch_size": 16,
                   # 1e-6 is BLIP's own; transformers' default for this class is 1e-5.
                   "layer_norm_eps": 1e-6},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                 "num_attention_heads": 12, "vocab_size": 30524, "encoder_hidden_size": 1024,
                 "max_position_embeddings": 512, "layer_norm_eps": 1e-12},
    }  # fmt: skip


def parts(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The released names → those of the three parts: "vision", "text", "head".

    Raises ModelError for a name that has no place here.
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {"vision": {}, "text": {}, "head": {}}
    for name, tensor in state.items():
        if name.startswith(_UNUSED) or name.endswith("position_ids"):
            continue
        part, new = _renamed(name)
        tensors[part][new] = tensor
    return tensors


def convert_imagereward(checkpoint: Checkpoint, folder: Path) -> None:
    """The three parts; their shape is the released one unless a config is given. Raises
    ModelError."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipTextConfig,
        BlipTextModel,
        BlipVisionConfig,
        BlipVisionModel,
    )

    settings = read_shape(checkpoint.config) if checkpoint.config else shape()
    tensors = parts(checkpoint.tensors)
    vision = BlipVisionConfig(**settings["vision"])
    text = BlipTextConfig(**settings["text"])
    with torch.device("meta"):
        wanted = {
            "vision": BlipVisionModel(vision).state_dict(),
            "text": BlipTextModel(text, add_pooling_layer=False).state_dict(),
            "head": empty_head(text.hidden_size).state_dict(),
        }
    for part, config in (("vision", vision), ("text", text)):
        (folder / part).mkdir()
        save_exactly(tensors[part], wanted[part], folder / part / "model.safetensors", what=part)
        config.save_pretrained(folder / part)
    save_exactly(tensors["head"], wanted["head"], folder / HEAD, what="head")
    load_tokenizer(BertTokenizer, checkpoint.tokenizer).save_pretrained(folder)


def load_imagereward(weights: Weights, tokenizer: Weights, device: torch.device) -> Forward:
    """(r - mean) / deviation for the raw reward r."""
    from transformers import BertTokenizer, BlipTextModel, BlipVisionModel

    words = load_tokenizer(BertTokenizer, tokenizer)
    look = load_network(BlipVisionModel, weights, part="vision").to(device)
    read = load_network(BlipTextModel, weights, part="text", add_pooling_layer=False).to(device)
    if len(words) > read.config.vocab_size:
        raise ModelError(
            f"{weights.name} knows {read.config.vocab_size} tokens, but the tokenizer "
            f"{tokenizer.name} has {len(words)}. Name the right one as `tokenizer`."
        )
    reward = _head(weights, read.config.hidden_size).to(device)
    side = look.config.image_size

    def forward(images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        seen = normalised([shortest_side_and_crop(p, side, crop="round") for p in images])
        tokens = words(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(device)
        patches = look(pixel_values=seen.to(device)).last_hidden_state
        states = read(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=patches,
        ).last_hidden_state
        return (reward(states[:, 0])[:, 0] - MEAN) / STD

    return forward


def empty_head(width: int) -> torch.nn.Sequential:
    """Five linear layers without activations between them, as released."""
    from torch import nn

    widths = (width, *HEAD_WIDTHS)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))).eval()


def _head(weights: Weights, width: int) -> torch.nn.Sequential:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weights.file(HEAD)
    if path is None:
        raise ModelError(
            f"{weights.name} must hold {HEAD}, but does not. Make the folder of ImageReward.pt "
            "with `selma score convert`."
        )
    head = empty_head(width)
    try:
        head.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{path} must hold the reward's five layers: {error}") from error
    return head.requires_grad_(False)


def _renamed(name: str) -> tuple[str, str]:
    """The part that a released tensor belongs to, and its name there."""
    if name.startswith("blip.text_encoder."):
        return "text", name.removeprefix("blip.text_encoder.")
    if name.startswith("mlp.layers."):
        number, _, which = name.removeprefix("mlp.layers.").partition(".")
        if number.isdigit() and int(number) in _PLACES:
            return "head", f"{_PLACES.index(int(number))}.{which}"
    if name.startswith("blip.visual_encoder."):
        inner = name.removeprefix("blip.visual_encoder.")
        stem, _, which = inner.rpartition(".")
        if inner in _VISION:
            return "vision", _VISION[inner]
        if stem in _VISION:
            return "vision", f"{_VISION[stem]}.{which}"
        words = inner.split(".")
        if words[0] == "blocks" and len(words) > 3 and ".".join(words[2:-1]) in _BLOCK:
            layer = _BLOCK[".".join(words[2:-1])]
            return "vision", f"encoder.layers.{words[1]}.{layer}.{which}"
    raise ModelError(f"ImageReward has no tensor {name!r}; this is another network's file.")
