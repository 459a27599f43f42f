"""ImageReward's network in plain PyTorch and its released names, restated for a tiny one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

SHAPE: dict[str, dict[str, Any]] = {
    "vision": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
               "num_attention_heads": 4, "image_size": 32, "patch_size": 16,
               "layer_norm_eps": 1e-6},
    "text": {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
             "num_attention_heads": 3, "vocab_size": 80, "encoder_hidden_size": 32,
             "max_position_embeddings": 40, "layer_norm_eps": 1e-12},
}  # fmt: skip
HEAD = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}


def random_state(*, seed: int = 0) -> State:
    stream = torch.Generator().manual_seed(seed)
    look, read = SHAPE["vision"], SHAPE["text"]
    seen, said = look["hidden_size"], read["hidden_size"]
    state: State = {}

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        state[name] = scale * torch.randn(*shape, generator=stream)

    def linear(name: str, out: int, into: int, scale: float = 0.3) -> None:
        add(f"{name}.weight", out, into, scale=scale)
        add(f"{name}.bias", out)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=stream)
        add(f"{name}.bias", width)

    at = "blip.visual_encoder."
    add(f"{at}cls_token", 1, 1, seen)
    add(f"{at}pos_embed", 1, (look["image_size"] // 16) ** 2 + 1, seen)
    add(f"{at}patch_embed.proj.weight", seen, 3, 16, 16)
    add(f"{at}patch_embed.proj.bias", seen)
    norm(f"{at}norm", seen)
    for i in range(look["num_hidden_layers"]):
        norm(f"{at}blocks.{i}.norm1", seen)
        norm(f"{at}blocks.{i}.norm2", seen)
        linear(f"{at}blocks.{i}.attn.qkv", 3 * seen, seen)
        linear(f"{at}blocks.{i}.attn.proj", seen, seen)
        linear(f"{at}blocks.{i}.mlp.fc1", look["intermediate_size"], seen)
        linear(f"{at}blocks.{i}.mlp.fc2", seen, look["intermediate_size"])
    at = "blip.text_encoder."
    state[f"{at}embeddings.position_ids"] = torch.arange(read["max_position_embeddings"])[None]
    add(f"{at}embeddings.word_embeddings.weight", read["vocab_size"], said)
    add(f"{at}embeddings.position_embeddings.weight", read["max_position_embeddings"], said)
    norm(f"{at}embeddings.LayerNorm", said)
    for i in range(read["num_hidden_layers"]):
        for kind, into in (("attention", said), ("crossattention", seen)):
            inner = f"{at}encoder.layer.{i}.{kind}"
            linear(f"{inner}.self.query", said, said)
            linear(f"{inner}.self.key", said, into)
            linear(f"{inner}.self.value", said, into)
            linear(f"{inner}.output.dense", said, said)
            norm(f"{inner}.output.LayerNorm", said)
        linear(f"{at}encoder.layer.{i}.intermediate.dense", read["intermediate_size"], said)
        linear(f"{at}encoder.layer.{i}.output.dense", said, read["intermediate_size"])
        norm(f"{at}encoder.layer.{i}.output.LayerNorm", said)
    linear("blip.vision_proj", 8, seen)
    linear("blip.text_proj", 8, said)
    into = said
    for place, out in HEAD.items():
        linear(f"mlp.layers.{place}", out, into, scale=1.5 / math.sqrt(into))
        into = out
    return state


def reward(state: State, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The raw reward [b] of pixels [b, 3, 32, 32] and ids, mask [b, 35]."""
    patches = _look(state, pixels)
    x = _read(state, patches, ids, mask)[:, 0]
    for place in HEAD:
        x = _linear(state, f"mlp.layers.{place}", x)
    return x[:, 0]


def _look(state: State, pixels: Tensor) -> Tensor:
    look, at = SHAPE["vision"], "blip.visual_encoder."
    weight, bias = (state[f"{at}patch_embed.proj.{which}"] for which in ("weight", "bias"))
    tokens = F.conv2d(pixels, weight, bias, stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{at}cls_token"].expand(len(tokens), 1, -1), tokens], dim=1)
    x = x + state[f"{at}pos_embed"]
    for i in range(look["num_hidden_layers"]):
        y = _norm(state, f"{at}blocks.{i}.norm1", x, 1e-6)
        q, k, v = _linear(state, f"{at}blocks.{i}.attn.qkv", y).chunk(3, dim=-1)
        y = _attend(q, k, v, look["num_attention_heads"], None)
        x = x + _linear(state, f"{at}blocks.{i}.attn.proj", y)
        y = _norm(state, f"{at}blocks.{i}.norm2", x, 1e-6)
        y = F.gelu(_linear(state, f"{at}blocks.{i}.mlp.fc1", y))
        x = x + _linear(state, f"{at}blocks.{i}.mlp.fc2", y)
    return _norm(state, f"{at}norm", x, 1e-6)


def _read(state: State, patches: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    read, at = SHAPE["text"], "blip.text_encoder."
    x = state[f"{at}embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{at}embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(state, f"{at}embeddings.LayerNorm", x, 1e-12)
    hidden = torch.where(mask[:, None, None, :] == 1, 0.0, float("-inf"))
    for i in range(read["num_hidden_layers"]):
        for kind, other, masked in (("attention", None, hidden), ("crossattention", patches, None)):
            inner = f"{at}encoder.layer.{i}.{kind}"
            around = x if other is None else other
            q = _linear(state, f"{inner}.self.query", x)
            k, v = (_linear(state, f"{inner}.self.{w}", around) for w in ("key", "value"))
            y = _attend(q, k, v, read["num_attention_heads"], masked)
            y = _linear(state, f"{inner}.output.dense", y)
            x = _norm(state, f"{inner}.output.LayerNorm", x + y, 1e-12)
        y = F.gelu(_linear(state, f"{at}encoder.layer.{i}.intermediate.dense", x))
        y = _linear(state, f"{at}encoder.layer.{i}.output.dense", y)
        x = _norm(state, f"{at}encoder.layer.{i}.output.LayerNorm", x + y, 1e-12)
    return x


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        weights = weights + mask
    return (weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
