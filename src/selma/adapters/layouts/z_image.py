"""Z-Image. ComfyUI's model joins q, k and v; kohya's trainer keeps diffusers' layers."""

from __future__ import annotations

from selma.adapters.layouts.layout import Layout, Size, joined, renamed, same

STACKS = ("layers", "noise_refiner", "context_refiner")

LAYOUT = Layout(
    transformer="ZImageTransformer2DModel",
    title="Z-Image",
    originals=tuple(
        original
        for stack in STACKS
        for original in (
            joined(f"{stack}.#.attention.qkv", "to_q to_k to_v", to=f"{stack}.#.attention."),
            *renamed({f"{stack}.#.attention.out": f"{stack}.#.attention.to_out.0"}),
            *same(
                *(f"{stack}.#.feed_forward.w{n}" for n in (1, 2, 3)),
                f"{stack}.#.adaLN_modulation.0",
            ),
        )
    )
    + same("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1")
    + renamed(
        {
            "x_embedder": "all_x_embedder.2-1",
            "final_layer.linear": "all_final_layer.2-1.linear",
            "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
        }
    ),
    sizes={
        "Z-Image": Size(3840, {"layers": 30, "noise_refiner": 2, "context_refiner": 2}),
    },
    kohya_splits=True,
    kohya_module="networks.lora_zimage",
)
