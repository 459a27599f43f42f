"""Chroma: FLUX.1 without modulation of its own, which a distilled network gives."""

from __future__ import annotations

from selma.adapters.layouts.flux import ATTENTION, ENDS, FORWARD, SINGLES
from selma.adapters.layouts.layout import T5_XXL, Layout, Size, renamed, same

LAYOUT = Layout(
    transformer="ChromaTransformer2DModel",
    title="Chroma",
    originals=(
        *ATTENTION,
        *FORWARD,
        *SINGLES,
        *ENDS,
        *same("distilled_guidance_layer.in_proj", "distilled_guidance_layer.out_proj"),
        *renamed(
            {"in_layer": "linear_1", "out_layer": "linear_2"},
            at="distilled_guidance_layer.layers.#.",
            to="distilled_guidance_layer.layers.#.",
        ),
    ),
    sizes={
        "Chroma": Size(3072, {"transformer_blocks": 19, "single_transformer_blocks": 38}),
    },
    texts={"text_encoder": T5_XXL},
    kohya_module="networks.lora_flux",
)
