"""FLUX.2, dev and klein: single blocks have one layer for q, k, v and the MLP in diffusers, too."""

from __future__ import annotations

from selma.adapters.layouts.flux import ATTENTION, BLOCK, DOUBLE_OF, ENDS, SINGLE, SINGLE_OF
from selma.adapters.layouts.layout import Layout, Original, Size, joined, renamed, times

LAYOUT = Layout(
    transformer="Flux2Transformer2DModel",
    title="FLUX.2",
    originals=(
        *ATTENTION,
        *ENDS,
        joined(f"{DOUBLE_OF}img_mlp.0", "ff.linear_in", to=BLOCK, rows=times(6)),
        joined(f"{DOUBLE_OF}txt_mlp.0", "ff_context.linear_in", to=BLOCK, rows=times(6)),
        *renamed(
            {"img_mlp.2": "ff.linear_out", "txt_mlp.2": "ff_context.linear_out"},
            at=DOUBLE_OF,
            to=BLOCK,
        ),
        joined(f"{SINGLE_OF}linear1", "attn.to_qkv_mlp_proj", to=SINGLE, rows=times(9)),
        *renamed({"linear2": "attn.to_out"}, at=SINGLE_OF, to=SINGLE),
        *renamed(
            {
                f"{part}.{layer}": f"time_guidance_embed.{name}.{number}"
                for part, name in (
                    ("time_in", "timestep_embedder"),
                    ("guidance_in", "guidance_embedder"),
                )
                for layer, number in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
            }
        ),
        *renamed(
            {
                f"{part}_stream_modulation{of}.lin": f"{part}_stream_modulation{of}.linear"
                for part, of in (("single", ""), ("double", "_img"), ("double", "_txt"))
            }
        ),
        Original("final_layer.adaLN_modulation.1", ("norm_out.linear",), swaps=True),
    ),
    sizes={
        "FLUX.2 klein 4B": Size(3072, {"transformer_blocks": 5, "single_transformer_blocks": 20}),
        "FLUX.2 klein 9B": Size(4096, {"transformer_blocks": 8, "single_transformer_blocks": 24}),
        "FLUX.2 dev": Size(6144, {"transformer_blocks": 8, "single_transformer_blocks": 48}),
    },
    kohya_module="networks.lora_flux_2",
)
