"""Transformers of each family: their layers in released widths with few blocks, and tiny ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor

from selma.adapters.files import Lineage
from selma.adapters.formats import Adapter
from selma.adapters.layers import Layers, network_shapes
from selma.adapters.layouts import layout_of
from selma.adapters.reading import LayerFile
from selma.merged.lowrank import Factors, norm, stacked

RELEASED: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {
        "num_layers": 2, "num_attention_heads": 24, "attention_head_dim": 64,
        "caption_projection_dim": 1536, "dual_attention_layers": (0,), "qk_norm": "rms_norm",
    },
    "FluxTransformer2DModel": {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True},
    "Flux2Transformer2DModel": {
        "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 24,
        "joint_attention_dim": 7680,
    },
    "ZImageTransformer2DModel": {"n_layers": 1, "n_refiner_layers": 1},
    "QwenImageTransformer2DModel": {"num_layers": 1},
    "SanaTransformer2DModel": {"num_layers": 1},
    "Lumina2Transformer2DModel": {"num_layers": 1, "num_refiner_layers": 1},
    "ChromaTransformer2DModel": {"num_layers": 1, "num_single_layers": 1},
}  # fmt: skip
"""diffusers' class → what of its config is not as released models have it by default."""

_HEADS = {"num_attention_heads": 4, "attention_head_dim": 8, "joint_attention_dim": 24}
TINY: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {
        **_HEADS, "num_layers": 2, "caption_projection_dim": 32, "pooled_projection_dim": 20,
        "dual_attention_layers": (0,),
    },
    "FluxTransformer2DModel": {
        **_HEADS, "num_layers": 1, "num_single_layers": 1, "pooled_projection_dim": 20,
    },
    "Flux2Transformer2DModel": {**_HEADS, "num_layers": 1, "num_single_layers": 1},
    "ZImageTransformer2DModel": {
        "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
        "cap_feat_dim": 24, "axes_dims": (2, 2, 4),
    },
    "QwenImageTransformer2DModel": {**_HEADS, "num_layers": 1},
    "SanaTransformer2DModel": {
        "num_layers": 1, "num_attention_heads": 4, "attention_head_dim": 8,
        "num_cross_attention_heads": 4, "cross_attention_head_dim": 8, "cross_attention_dim": 32,
        "caption_channels": 24, "sample_size": 8,
    },
    "Lumina2Transformer2DModel": {
        "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 4,
        "num_kv_heads": 2, "cap_feat_dim": 24, "axes_dim_rope": (2, 2, 4), "multiple_of": 8,
    },
    "ChromaTransformer2DModel": {
        **_HEADS, "num_layers": 1, "num_single_layers": 1, "approximator_hidden_dim": 16,
        "approximator_layers": 1, "approximator_num_channels": 8,
    },
}  # fmt: skip


def network(family: str, *, tiny: bool = False, meta: bool = True) -> Any:
    """The transformer itself; of `meta` without memory for weights."""
    with torch.device("meta" if meta else "cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers' own, of Chroma's embedding
        return getattr(diffusers, family)(**(TINY if tiny else RELEASED)[family])


@cache
def layers(family: str, *, tiny: bool = False) -> Layers:
    """Its layers, as those of a base at hand."""
    shapes = network_shapes("transformer", network(family, tiny=tiny))
    return Layers(f"a {family}", shapes, layout=layout_of(family))


def adapter(
    shapes: Mapping[str, Sequence[int]],
    *,
    ranks: Sequence[int] = (2,),
    scales: Sequence[float] = (1.0,),
    shared: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Adapter:
    """Random factors; ranks and scales take turns. shared: layers of one input width have one A,
    as files have it that joined them."""
    generator = torch.Generator().manual_seed(seed)
    files: dict[str, LayerFile] = {}
    tensors: dict[str, tuple[Tensor, Tensor]] = {}
    inputs: dict[tuple[int, ...], Tensor] = {}
    for number, (key, (out, *inside)) in enumerate(sorted(shapes.items())):
        rank, scale = ranks[number % len(ranks)], scales[number % len(scales)]
        flat = int(torch.tensor(inside).prod())
        a = torch.randn(rank, flat, generator=generator).to(dtype)
        if shared:
            a = inputs.setdefault((rank, flat), a)
        tensors[key] = a, torch.randn(out, rank, generator=generator).to(dtype)
        files[key] = LayerFile(
            path=None,  # type: ignore[arg-type]  # nothing is read
            a="",
            b="",
            shape=(out, flat),
            kernel=(inside[1], inside[2]) if len(inside) == 3 else None,
            rank=rank,
            alpha=scale * rank,
            dtypes=(dtype, dtype),
        )
    return Adapter(files, tensors.__getitem__, Lineage(), {})


def factors(adapter: Any) -> dict[str, Factors]:
    """Layer → its A and scale x B, float64; of an adapter in memory or on disk."""
    give = adapter.give if isinstance(adapter, Adapter) else adapter.tensors
    return {
        key: (a.double().flatten(1), layer.scale * b.double().flatten(1))
        for key, layer in adapter.layers.items()
        for a, b in [give(key)]
    }


def apart(one: Factors, other: Factors) -> float:
    """‖one - other‖ / ‖one‖ of two changes."""
    return norm(stacked([one, other], [1.0, -1.0])) / norm(one)
