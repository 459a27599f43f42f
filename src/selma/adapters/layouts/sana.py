"""Sana, of linear attention; k and v of the attention to the text are one layer in the original."""

from __future__ import annotations

from selma.adapters.layouts.layout import GEMMA, Layout, Size, joined, renamed

BLOCK, OF = "transformer_blocks.#.", "blocks.#."

LAYOUT = Layout(
    transformer="SanaTransformer2DModel",
    title="Sana",
    originals=(
        joined(f"{OF}attn.qkv", "to_q to_k to_v", to=f"{BLOCK}attn1."),
        joined(f"{OF}cross_attn.kv_linear", "to_k to_v", to=f"{BLOCK}attn2."),
        *renamed(
            {
                "attn.proj": "attn1.to_out.0",
                "cross_attn.q_linear": "attn2.to_q",
                "cross_attn.proj": "attn2.to_out.0",
                "mlp.inverted_conv.conv": "ff.conv_inverted",
                "mlp.depth_conv.conv": "ff.conv_depth",
                "mlp.point_conv.conv": "ff.conv_point",
            },
            at=OF,
            to=BLOCK,
        ),
        *renamed(
            {
                "x_embedder.proj": "patch_embed.proj",
                "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
                "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
                "t_block.1": "time_embed.linear",
                "y_embedder.y_proj.fc1": "caption_projection.linear_1",
                "y_embedder.y_proj.fc2": "caption_projection.linear_2",
                "final_layer.linear": "proj_out",
            }
        ),
    ),
    sizes={
        "Sana 0.6B": Size(1152, {"transformer_blocks": 28}),
        "Sana 1.6B": Size(2240, {"transformer_blocks": 20}),
        "Sana 1.5 4.8B": Size(2240, {"transformer_blocks": 60}),
    },
    texts={"text_encoder": GEMMA},
)
