"""open_clip's names of tensors → those of transformers' `CLIPModel`; open_clip itself needs
torchvision. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selma.errors import ModelError

if TYPE_CHECKING:
    import torch

_OUTER = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # The misspelt name is transformers'.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
# Kept there as [in, out], here as a linear layer's [out, in].
_TRANSPOSED = {"visual.proj", "text_projection"}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}


def vit_h_14() -> dict[str, Any]:
    """ViT-H-14 with its text tower, as settings of transformers' `CLIPConfig`."""
    return {
        "projection_dim": 1024,
        "vision_config": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                          "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
                          "hidden_act": "gelu", "projection_dim": 1024},
        "text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                        "num_attention_heads": 16, "vocab_size": 49408,
                        "max_position_embeddings": 77, "hidden_act": "gelu",
                        "projection_dim": 1024, "bos_token_id": 49406, "eos_token_id": 49407,
                        "pad_token_id": 49407},
    }  # fmt: skip


def to_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under transformers' names. Raises ModelError for a name without a place."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in _OUTER:
            renamed[_OUTER[name]] = (tensor.T if name in _TRANSPOSED else tensor).contiguous()
        else:
            renamed |= _of_block(name, tensor)
    return renamed


def _of_block(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    for prefix, tower in _TOWERS.items():
        number, _, inner = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix) or not number.isdigit():
            continue
        if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
            # Queries, keys and values lie one below the other.
            which = inner.rpartition("_")[2]
            return {
                f"{tower}{number}.self_attn.{part}_proj.{which}": rows.contiguous()
                for part, rows in zip("qkv", tensor.chunk(3), strict=True)
            }
        layer, _, which = inner.rpartition(".")
        if layer in _BLOCK:
            return {f"{tower}{number}.{_BLOCK[layer]}.{which}": tensor}
    raise ModelError(
        f"open_clip's ViT-H-14 has no tensor {name!r}; this is another network's file."
    )
