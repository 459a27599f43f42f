"""Stable Diffusion 3 and 3.5, whose original model is an MMDiT of joint blocks."""

from __future__ import annotations

from selma.adapters.layouts.layout import (
    CLIP_G,
    CLIP_L,
    T5_XXL,
    Layout,
    Original,
    Size,
    joined,
    renamed,
    same,
)

BLOCK = "transformer_blocks.#."
CONTEXT, IMAGE = "joint_blocks.#.context_block.", "joint_blocks.#.x_block."

LAYOUT = Layout(
    transformer="SD3Transformer2DModel",
    title="SD 3",
    originals=(
        joined(f"{IMAGE}attn.qkv", "to_q to_k to_v", to=f"{BLOCK}attn."),
        joined(f"{IMAGE}attn2.qkv", "to_q to_k to_v", to=f"{BLOCK}attn2."),
        joined(f"{CONTEXT}attn.qkv", "add_q_proj add_k_proj add_v_proj", to=f"{BLOCK}attn."),
        *renamed(
            {
                "attn.proj": "attn.to_out.0",
                "attn2.proj": "attn2.to_out.0",
                "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2",
                "adaLN_modulation.1": "norm1.linear",
            },
            at=IMAGE,
            to=BLOCK,
        ),
        *renamed(
            {
                "attn.proj": "attn.to_add_out",
                "mlp.fc1": "ff_context.net.0.proj",
                "mlp.fc2": "ff_context.net.2",
            },
            at=CONTEXT,
            to=BLOCK,
        ),
        # The last block's has shift and scale alone.
        Original(f"{CONTEXT}adaLN_modulation.1", (f"{BLOCK}norm1_context.linear",), swaps=True),
        Original("final_layer.adaLN_modulation.1", ("norm_out.linear",), swaps=True),
        *renamed(
            {
                "x_embedder.proj": "pos_embed.proj",
                "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
                "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
                "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
                "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
                "final_layer.linear": "proj_out",
            }
        ),
        *same("context_embedder"),
    ),
    sizes={
        "SD 3 or 3.5 medium": Size(1536, {"transformer_blocks": 24}),
        "SD 3.5 large": Size(2432, {"transformer_blocks": 38}),
    },
    texts={"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
    kohya_module="networks.lora_sd3",
)
