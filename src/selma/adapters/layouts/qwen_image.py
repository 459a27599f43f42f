"""Qwen-Image, whose original model is diffusers' own."""

from __future__ import annotations

from selma.adapters.layouts.layout import Layout, Size, same

BLOCK = "transformer_blocks.#."

LAYOUT = Layout(
    transformer="QwenImageTransformer2DModel",
    title="Qwen-Image",
    originals=same(
        *(f"{BLOCK}attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")),
        *(f"{BLOCK}attn.add_{name}_proj" for name in "qkv"),
        *(f"{BLOCK}{part}_mod.1" for part in ("img", "txt")),
        *(f"{BLOCK}{part}_mlp.net.{end}" for part in ("img", "txt") for end in ("0.proj", "2")),
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.timestep_embedder.linear_2",
        "img_in",
        "txt_in",
        "norm_out.linear",
        "proj_out",
    ),
    sizes={"Qwen-Image": Size(3072, {"transformer_blocks": 60})},
    kohya_splits=True,
    kohya_module="networks.lora_qwen_image",
)
