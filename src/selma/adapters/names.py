"""One name for each layer, whatever a file calls it.

Our name is the layer's path in diffusers' model behind its component: "unet.mid_block.attentions.0
...to_q", "text_encoder.encoder.layers.0.self_attn.q_proj" (without the "text_model." that some
releases of transformers put before it). What files call layers is in `spellings`, and which layers
there are in `layers`.
"""

from __future__ import annotations

from collections.abc import Iterable

from selma.backbones.families import denoiser_components

UNET, TEXT, TEXT_2, TEXT_3 = "unet", "text_encoder", "text_encoder_2", "text_encoder_3"
TEXTS = (TEXT, TEXT_2, TEXT_3)
T5 = "t5"
"""The T5 of any base, whichever of its text encoders it is: some files name it so."""

PEFT_CLASSES = {
    UNET: ("UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    TEXT: ("CLIPTextModel", "transformers.models.clip.modeling_clip"),
    TEXT_2: ("CLIPTextModelWithProjection", "transformers.models.clip.modeling_clip"),
    T5: ("T5EncoderModel", "transformers.models.t5.modeling_t5"),
}
"""Component → class and module, as a PEFT folder names the model that it belongs to."""


def components() -> tuple[str, ...]:
    """The parts of a pipeline that adapters change: denoisers of any family, and text encoders."""
    return (*denoiser_components(), *TEXTS)


def split(key: str) -> tuple[str, str]:
    """(component, module) of one of our names."""
    component, _, module = key.partition(".")
    return component, module


def of_t5(module: str) -> bool:
    """Whether this is the path of a T5's layer, rather than a CLIP's."""
    return module.startswith("encoder.block.")


def of_gemma(module: str) -> bool:
    """Whether this is the path of a language model's layer that reads texts for a denoiser."""
    return module.startswith("layers.")


def plain(component: str, module: str) -> str:
    """Our name for a layer that a file names by its path in the model."""
    return f"{component}.{module.removeprefix('text_model.') if component in TEXTS else module}"


def with_text_model(component: str, module: str) -> str:
    """The path with the "text_model." that files have before a text encoder's layers."""
    inside = component in TEXTS and module.startswith("encoder.layers.")
    return f"text_model.{module}" if inside else module


def kohya_prefix(component: str, *, sdxl: bool) -> str | None:
    """What kohya puts before a layer's name, or None where it has no name for the component."""
    text = "lora_te1_" if sdxl else "lora_te_"
    return {UNET: "lora_unet_", TEXT: text, TEXT_2: "lora_te2_"}.get(component)


def sorted_layers(keys: Iterable[str]) -> tuple[str, ...]:
    """Names of layers in the order of their tensors' names."""
    return tuple(sorted(keys, key=lambda key: f"{key}."))
