"""One name for each layer, whatever a file calls it.

Our name is the layer's path in diffusers' model behind its component: "unet.mid_block.attentions.0
...to_q", "text_encoder.encoder.layers.0.self_attn.q_proj" (without the "text_model." that some
releases of transformers put before it). kohya's names join a path by "_"; for SDXL they are those
of the original UNet (input_blocks, middle_block, output_blocks), which count layers through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from selma.backbones.families import denoiser_components

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
TEXTS = (TEXT, TEXT_2)

PEFT_CLASSES = {
    UNET: ("UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    TEXT: ("CLIPTextModel", "transformers.models.clip.modeling_clip"),
    TEXT_2: ("CLIPTextModelWithProjection", "transformers.models.clip.modeling_clip"),
}
"""Component → class and module, as a PEFT folder names the model that it belongs to."""

LAYERS_PER_BLOCK = 2
"""Of every UNet that was released as SD 1, SD 2 or SDXL; the original names of SDXL need it."""

_PARTS = (
    "down_blocks", "mid_block", "up_blocks", "attentions", "resnets", "downsamplers", "upsamplers",
    "transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj",
    "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut",
    "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2",
)  # fmt: skip
# The longest first: "proj_in" is one part, not "proj" and an unknown "in".
_PART = re.compile("(?:" + "|".join([*sorted(_PARTS, key=len, reverse=True), r"\d+"]) + ")(?=_|$)")

_TEXT_LAYER = re.compile(
    r"(?:text_model_)?encoder_layers_(\d+)_(?:(self_attn)_([qkv]|out)_proj|(mlp)_fc([12]))"
)

_ORIGINAL_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_ORIGINAL_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.([a-z]+)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def components() -> tuple[str, ...]:
    """The parts of a pipeline that adapters change: denoisers of any family, and text encoders."""
    return (*denoiser_components(), *TEXTS)


def split(key: str) -> tuple[str, str]:
    """(component, module) of one of our names."""
    component, _, module = key.partition(".")
    return component, module


def plain(component: str, module: str) -> str:
    """Our name for a layer that a file names by its path in the model."""
    return f"{component}.{module.removeprefix('text_model.') if component in TEXTS else module}"


def with_text_model(component: str, module: str) -> str:
    """The path with the "text_model." that files have before a text encoder's layers."""
    inside = component in TEXTS and module.startswith("encoder.")
    return f"text_model.{module}" if inside else module


def kohya_name(key: str, *, sdxl: bool, layers_per_block: int = LAYERS_PER_BLOCK) -> str | None:
    """kohya's name of a layer ("lora_unet_..."), or None where it would not lead back."""
    component, module = split(key)
    if component == UNET:
        path = original_path(module, layers_per_block) if sdxl else module
        name = None if path is None else "lora_unet_" + path.replace(".", "_")
    elif component not in TEXTS:
        return None
    else:
        prefix = {TEXT: "lora_te1_" if sdxl else "lora_te_", TEXT_2: "lora_te2_"}[component]
        name = prefix + with_text_model(component, module).replace(".", "_")
    back = name and from_kohya(name, layers_per_block=layers_per_block)
    return name if back == key else None


def from_kohya(name: str, *, layers_per_block: int = LAYERS_PER_BLOCK) -> str | None:
    """Our name of kohya's "lora_unet_...", or None where it is not known."""
    for prefix, component in (
        ("lora_unet_", UNET),
        ("lora_te_", TEXT),
        ("lora_te1_", TEXT),
        ("lora_te2_", TEXT_2),
    ):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            module = _unet_module(rest, layers_per_block) if component == UNET else _text(rest)
            return None if module is None else f"{component}.{module}"
    return None


def original_path(module: str, layers_per_block: int) -> str | None:
    """The path of a layer in the original UNet of SDXL; None where there is none."""
    if module in _ORIGINAL_TOP:
        return _ORIGINAL_TOP[module]
    if match := _MIDDLE.fullmatch(module):
        kind, number, rest = match[1], int(match[2]), match[3]
        index = 1 if kind == "attentions" else 2 * number
        return _inside(f"middle_block.{index}", kind, rest)
    match = _BLOCK.fullmatch(module)
    if not match:
        return None
    side, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    # The first input block is conv_in, and each block's last layer resizes.
    first = block * (layers_per_block + 1) + (side == "down")
    if kind == "downsamplers" and rest == "conv":
        return f"input_blocks.{first + layers_per_block}.0.op"
    if kind == "upsamplers" and rest == "conv":
        return f"output_blocks.{first + layers_per_block}.2.conv"
    if kind not in ("resnets", "attentions"):
        return None
    blocks = "input_blocks" if side == "down" else "output_blocks"
    return _inside(f"{blocks}.{first + number}.{int(kind == 'attentions')}", kind, rest)


def _inside(block: str, kind: str, rest: str) -> str | None:
    inner = _ORIGINAL_RESNET.get(rest) if kind == "resnets" else rest
    return None if inner is None else f"{block}.{inner}"


def _unet_module(joined: str, layers_per_block: int) -> str | None:
    for module, original in _ORIGINAL_TOP.items():
        if joined == original.replace(".", "_"):
            return module
    match = re.fullmatch(r"(input_blocks|output_blocks)_(\d+)_(\d)_(.+)", joined)
    if match:
        return _from_block(match[1], int(match[2]), int(match[3]), match[4], layers_per_block)
    if match := re.fullmatch(r"middle_block_([012])_(.+)", joined):
        index = int(match[1])
        if index == 1:
            return _joined("mid_block.attentions.0", _module(match[2]))
        return _joined(f"mid_block.resnets.{index // 2}", _resnet(match[2]))
    return _module(joined)


def _from_block(blocks: str, index: int, inner: int, rest: str, per_block: int) -> str | None:
    down = blocks == "input_blocks"
    block, number = divmod(index - down, per_block + 1)
    side = f"{'down' if down else 'up'}_blocks.{block}"
    if block < 0:
        return None
    if down and rest == "op":
        return f"{side}.downsamplers.0.conv"
    if inner == 2:
        return f"{side}.upsamplers.0.conv" if rest == "conv" and not down else None
    if inner == 1:
        return _joined(f"{side}.attentions.{number}", _module(rest))
    return _joined(f"{side}.resnets.{number}", _resnet(rest))


def _joined(block: str, rest: str | None) -> str | None:
    return None if rest is None else f"{block}.{rest}"


def _resnet(joined: str) -> str | None:
    return next((m for m, o in _ORIGINAL_RESNET.items() if o.replace(".", "_") == joined), None)


def _module(joined: str) -> str | None:
    """The path that "_" joined, where each part is known; None else."""
    parts, start = [], 0
    while start < len(joined):
        match = _PART.match(joined, start)
        if not match:
            return None
        parts.append(match[0])
        start = match.end() + 1
    return ".".join(parts)


def _text(joined: str) -> str | None:
    if joined == "text_projection":
        return "text_projection"
    match = _TEXT_LAYER.fullmatch(joined)
    if not match:
        return None
    inner = f"self_attn.{match[3]}_proj" if match[2] else f"mlp.fc{match[5]}"
    return f"encoder.layers.{match[1]}.{inner}"


def sorted_layers(keys: Iterable[str]) -> tuple[str, ...]:
    """Names of layers in the order of their tensors' names."""
    return tuple(sorted(keys, key=lambda key: f"{key}."))
