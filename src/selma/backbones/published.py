"""The networks of the known bases as their published configs have them: shapes without the Hub.

What a run does never rests on these; they only let memory be estimated where a base's own configs
cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.backbones.bases import BASES, Base, located
from selma.backbones.families import FAMILIES
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
    "sample_size": 128,
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
_T5_XXL = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_SD35 = {
    "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "sample_size": 128,
}  # fmt: skip
_VAE_16 = _VAE | {
    "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
    "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
}  # fmt: skip
_QWEN3_4B = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
_QWEN_VL_7B = {
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584,
    },
}  # fmt: skip
_GEMMA2_2B = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 256000,
}  # fmt: skip
_FLUX = {"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "joint_attention_dim": 4096}
_FLUX_VAE = _VAE_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
_DC_AE_F32 = {
    "latent_channels": 32, "scaling_factor": 0.41407, "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
}  # fmt: skip
_NETWORKS: dict[tuple[str, int], dict[str, Config]] = {
    ("stable-diffusion", 768): {"unet": _SD1, "text_encoder": _VIT_L, "vae": _VAE},
    ("stable-diffusion", 1024): {"unet": _SD2, "text_encoder": _VIT_H, "vae": _VAE},
    # SDXL's own autoencoder is widened from float16.
    ("stable-diffusion-xl", 2048): {
        "unet": _SDXL, "text_encoder": _VIT_L, "text_encoder_2": _VIT_BIG_G,
        "vae": _VAE | {"force_upcast": True},
    },
    ("stable-diffusion-3", 4096): {
        "transformer": _SD35, "text_encoder": _VIT_L, "text_encoder_2": _VIT_BIG_G,
        "text_encoder_3": _T5_XXL, "vae": _VAE_16,
    },
    ("flux-2-klein", 7680): {
        "transformer": {
            "in_channels": 128, "num_layers": 5, "num_single_layers": 20,
            "num_attention_heads": 24, "attention_head_dim": 128, "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "text_encoder": _QWEN3_4B, "vae": {"latent_channels": 32},
    },
    ("z-image", 2560): {
        "transformer": {"dim": 3840, "n_layers": 30, "n_heads": 30, "cap_feat_dim": 2560},
        "text_encoder": _QWEN3_4B, "vae": _FLUX_VAE,
    },
    ("qwen-image", 3584): {
        "transformer": {
            "in_channels": 64, "out_channels": 16, "num_layers": 60, "num_attention_heads": 24,
            "attention_head_dim": 128, "joint_attention_dim": 3584,
        },
        "text_encoder": _QWEN_VL_7B, "vae": {"z_dim": 16},
    },
    ("flux", 4096): {
        "transformer": _FLUX | {"pooled_projection_dim": 768, "guidance_embeds": True},
        "text_encoder": _VIT_L, "text_encoder_2": _T5_XXL, "vae": _FLUX_VAE,
    },
    ("sana", 2304): {
        "transformer": {"sample_size": 32, "num_layers": 20, "caption_channels": 2304},
        "text_encoder": _GEMMA2_2B, "vae": _DC_AE_F32,
    },
    ("lumina-2", 2304): {
        "transformer": {"hidden_size": 2304, "num_layers": 26, "cap_feat_dim": 2304},
        "text_encoder": _GEMMA2_2B, "vae": _FLUX_VAE,
    },
    ("chroma", 4096): {"transformer": _FLUX, "text_encoder": _T5_XXL, "vae": _FLUX_VAE},
}  # fmt: skip
"""Family and width of its text features -> networks."""


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
    parts = _NETWORKS[wanted.family, wanted.cross_width]
    component = FAMILIES[wanted.family].component
    size = {}
    if wanted.image_px in (512, 768):  # what else is 1024 px, as the networks above
        size["sample_size"] = wanted.image_px // 8
    if component == "unet":
        size["cross_attention_dim"] = wanted.cross_width
    return {**parts, component: {**parts[component], **size}}
