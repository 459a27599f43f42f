"""The networks of the paper's bases as their published configs have them: shapes without the Hub.

What a run does never rests on these; they only let memory be estimated where a base's own configs
cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.backbones.bases import BASES, Base, located
from selma.config.networks import BaseConfig

Config = Mapping[str, Any]

_UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_SD = _UNET | {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SD1 = _SD | {"attention_head_dim": 8}
_SD2 = _SD | {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
_SDXL = _UNET | {
    "block_out_channels": [320, 640, 1280],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def _clip(width: int, layers: int, heads: int) -> Config:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
    }


_VIT_L, _VIT_H, _VIT_BIG_G = _clip(768, 12, 12), _clip(1024, 23, 16), _clip(1280, 32, 20)
_BY_TEXT_WIDTH: dict[int, dict[str, Config]] = {
    768: {"unet": _SD1, "text_encoder": _VIT_L},
    1024: {"unet": _SD2, "text_encoder": _VIT_H},
    2048: {"unet": _SDXL, "text_encoder": _VIT_L, "text_encoder_2": _VIT_BIG_G},
}


def published(base: BaseConfig) -> Base | None:
    """The row of the Hub's bases whose repository this is; None for any other model."""
    repository = located(base).model
    rows = (row for row in BASES.values() if row.repository == repository)
    return next(rows, None) if base.config is None else None


def in_cache(row: Base) -> bool:
    """Whether its own configs are on this machine."""
    import huggingface_hub

    place = str(row.repository), "model_index.json"
    return isinstance(huggingface_hub.try_to_load_from_cache(*place, revision=row.revision), str)


def published_configs(row: Base) -> dict[str, Config]:
    """Part of the pipeline → its network's config, as far as it decides shapes."""
    wanted = row.architecture
    parts = _BY_TEXT_WIDTH[wanted.cross_width]
    size = {"sample_size": wanted.image_px // 8, "cross_attention_dim": wanted.cross_width}
    # SDXL's own autoencoder is widened from float16.
    vae = _VAE | {"force_upcast": wanted.text_encoders == 2}
    return {**parts, "unet": {**parts["unet"], **size}, "vae": vae}
