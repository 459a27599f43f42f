"""FLUX.1, of double blocks (image and text apart) and single ones."""

from __future__ import annotations

from selma.adapters.layouts.layout import (
    CLIP_L,
    T5_XXL,
    Layout,
    Original,
    Size,
    joined,
    renamed,
    times,
)

BLOCK, SINGLE = "transformer_blocks.#.", "single_transformer_blocks.#."
DOUBLE_OF, SINGLE_OF = "double_blocks.#.", "single_blocks.#."

ATTENTION = (
    joined(f"{DOUBLE_OF}img_attn.qkv", "to_q to_k to_v", to=f"{BLOCK}attn."),
    joined(f"{DOUBLE_OF}txt_attn.qkv", "add_q_proj add_k_proj add_v_proj", to=f"{BLOCK}attn."),
    *renamed(
        {"img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out"},
        at=DOUBLE_OF,
        to=BLOCK,
    ),
)
FORWARD = (
    joined(f"{DOUBLE_OF}img_mlp.0", "ff.net.0.proj", to=BLOCK, rows=times(4)),
    joined(f"{DOUBLE_OF}txt_mlp.0", "ff_context.net.0.proj", to=BLOCK, rows=times(4)),
    *renamed({"img_mlp.2": "ff.net.2", "txt_mlp.2": "ff_context.net.2"}, at=DOUBLE_OF, to=BLOCK),
)
SINGLE_QKV = "attn.to_q attn.to_k attn.to_v proj_mlp"
SINGLES = (
    joined(f"{SINGLE_OF}linear1", SINGLE_QKV, to=SINGLE, rows=times(1, 1, 1, 4)),
    *renamed({"linear2": "proj_out"}, at=SINGLE_OF, to=SINGLE),
)
ENDS = renamed(
    {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
)

LAYOUT = Layout(
    transformer="FluxTransformer2DModel",
    title="FLUX.1",
    originals=(
        *ATTENTION,
        *FORWARD,
        *SINGLES,
        *ENDS,
        *renamed(
            {"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear"},
            at=DOUBLE_OF,
            to=BLOCK,
        ),
        *renamed({"modulation.lin": "norm.linear"}, at=SINGLE_OF, to=SINGLE),
        *renamed(
            {
                f"{part}.{layer}": f"time_text_embed.{name}.{number}"
                for part, name in (
                    ("time_in", "timestep_embedder"),
                    ("guidance_in", "guidance_embedder"),
                    ("vector_in", "text_embedder"),
                )
                for layer, number in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
            }
        ),
        Original("final_layer.adaLN_modulation.1", ("norm_out.linear",), swaps=True),
    ),
    sizes={
        "FLUX.1": Size(3072, {"transformer_blocks": 19, "single_transformer_blocks": 38}),
    },
    texts={"text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    kohya_module="networks.lora_flux",
)
