"""open_clip's CLIP in plain PyTorch and its own names, restated from its description, for a tiny
network: what the key map is checked against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]

SHAPE: dict[str, Any] = {
    "projection_dim": 24,
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                      "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
                      "hidden_act": "gelu"},
    "text_config": {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "max_position_embeddings": 24,
                    "hidden_act": "gelu"},
}  # fmt: skip


def random_state(vocabulary: int, *, seed: int = 0) -> State:
    stream = torch.Generator().manual_seed(seed)

    def some(*shape: int, scale: float = 0.3) -> Tensor:
        return scale * torch.randn(*shape, generator=stream)

    def norm(name: str, width: int) -> State:
        return {f"{name}.weight": 1 + some(width), f"{name}.bias": some(width)}

    def blocks(prefix: str, tower: dict[str, Any]) -> State:
        w, inner, found = tower["hidden_size"], tower["intermediate_size"], {}
        for i in range(tower["num_hidden_layers"]):
            at = f"{prefix}transformer.resblocks.{i}."
            found |= norm(f"{at}ln_1", w) | norm(f"{at}ln_2", w)
            found |= {
                f"{at}attn.in_proj_weight": some(3 * w, w),
                f"{at}attn.in_proj_bias": some(3 * w),
                f"{at}attn.out_proj.weight": some(w, w),
                f"{at}attn.out_proj.bias": some(w),
                f"{at}mlp.c_fc.weight": some(inner, w),
                f"{at}mlp.c_fc.bias": some(inner),
                f"{at}mlp.c_proj.weight": some(w, inner),
                f"{at}mlp.c_proj.bias": some(w),
            }
        return found

    look, read, joint = SHAPE["vision_config"], SHAPE["text_config"], SHAPE["projection_dim"]
    seen, said = look["hidden_size"], read["hidden_size"]
    patches = (look["image_size"] // look["patch_size"]) ** 2
    return {
        "logit_scale": torch.tensor(4.6052),
        "visual.class_embedding": some(seen),
        "visual.positional_embedding": some(patches + 1, seen),
        "visual.conv1.weight": some(seen, 3, look["patch_size"], look["patch_size"]),
        "visual.proj": some(seen, joint),
        "positional_embedding": some(read["max_position_embeddings"], said),
        "token_embedding.weight": some(vocabulary, said),
        "text_projection": some(said, joint),
        **norm("visual.ln_pre", seen),
        **norm("visual.ln_post", seen),
        **norm("ln_final", said),
        **blocks("visual.", look),
        **blocks("", read),
    }


def image_features(state: State, pixels: Tensor) -> Tensor:
    """pixels: [b, 3, 28, 28] → [b, 24]."""
    look = SHAPE["vision_config"]
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=look["patch_size"])
    tokens = patches.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(tokens), 1, -1)
    x = torch.cat([first, tokens], dim=1) + state["visual.positional_embedding"]
    x = _norm(state, "visual.ln_pre", x)
    x = _blocks(state, "visual.", x, look, mask=None)
    return _norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]


def text_features(state: State, ids: Tensor) -> Tensor:
    """ids: [b, 24], zeros after the end token, which has the highest id → [b, 24]."""
    read = SHAPE["text_config"]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    length = ids.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = _norm(state, "ln_final", _blocks(state, "", x, read, mask=mask))
    return x[torch.arange(len(ids)), ids.argmax(dim=1)] @ state["text_projection"]


def _blocks(
    state: State, prefix: str, x: Tensor, tower: dict[str, Any], *, mask: Tensor | None
) -> Tensor:
    for i in range(tower["num_hidden_layers"]):
        at = f"{prefix}transformer.resblocks.{i}."
        attention = nn.MultiheadAttention(
            tower["hidden_size"], tower["num_attention_heads"], batch_first=True
        )
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        attention.load_state_dict({name: state[f"{at}attn.{name}"] for name in names})
        y = _norm(state, f"{at}ln_1", x)
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = _linear(state, f"{at}mlp.c_fc", _norm(state, f"{at}ln_2", x))
        x = x + _linear(state, f"{at}mlp.c_proj", F.gelu(y))
    return x


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
