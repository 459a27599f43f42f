"""Lumina Image 2, whose k and v are narrower than q."""

from __future__ import annotations

from selma.adapters.layouts.layout import GEMMA, Layout, Size, grouped, joined, renamed

STACKS = ("layers", "noise_refiner", "context_refiner")

LAYOUT = Layout(
    transformer="Lumina2Transformer2DModel",
    title="Lumina 2",
    originals=tuple(
        original
        for stack in STACKS
        for original in (
            joined(
                f"{stack}.#.attention.qkv", "to_q to_k to_v", to=f"{stack}.#.attn.", rows=grouped
            ),
            *renamed(
                {
                    "attention.out": "attn.to_out.0",
                    "adaLN_modulation.1": "norm1.linear",
                    **{f"feed_forward.w{n}": f"feed_forward.linear_{n}" for n in (1, 2, 3)},
                },
                at=f"{stack}.#.",
                to=f"{stack}.#.",
            ),
        )
    )
    + renamed(
        {
            "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
            "cap_embedder.1": "time_caption_embed.caption_embedder.1",
            "final_layer.adaLN_modulation.1": "norm_out.linear_1",
            "final_layer.linear": "norm_out.linear_2",
            "x_embedder": "x_embedder",
        }
    ),
    sizes={
        "Lumina 2": Size(2304, {"layers": 26, "noise_refiner": 2, "context_refiner": 2}),
    },
    texts={"text_encoder": GEMMA},
    kohya_module="networks.lora_lumina",
)
