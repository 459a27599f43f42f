"""Runs inside ComfyUI's environment: its own loader patches a small model of the released blocks,
and its own node saves LoRAs."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before model_management looks for a GPU

import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

KINDS = {
    "sd1": comfy.supported_models.SD15,
    "sd2": comfy.supported_models.SD20,
    "sdxl": comfy.supported_models.SDXL,
}
CLIPS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


class Names(logging.Handler):
    """The keys that the loader says it has not loaded."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.keys: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not loaded" in record.getMessage().lower():
            self.keys.append(record.getMessage())


class TextEncoders(torch.nn.Module):
    """Text encoders under the names that ComfyUI's own have; only names and shapes are asked for.

    Its own are as large as the released ones.
    """

    def __init__(self, folder: Path, shape: str) -> None:
        super().__init__()
        self.tensors = {}
        for component, name in CLIPS.items():
            clip = "clip_h" if shape == "sd2" else name
            file = folder / component / "model.safetensors"
            for key, tensor in (load_file(file) if file.exists() else {}).items():
                path = key if key.startswith(("text_model.", "text_proj")) else f"text_model.{key}"
                self.tensors[f"{clip}.transformer.{path}"] = tensor

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return self.tensors


def config(folder: Path, shape: str) -> dict[str, Any]:
    """ComfyUI's settings of the UNet that diffusers' settings describe."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    widths, per_block = unet["block_out_channels"], unet["layers_per_block"]
    depths = unet["transformer_layers_per_block"]
    depths = depths if isinstance(depths, list) else [depths] * len(widths)
    kinds = unet["down_block_types"]
    depths = [d if "Attn" in kind else 0 for d, kind in zip(depths, kinds, strict=True)]
    settings = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": widths[0],
        "num_res_blocks": [per_block] * len(widths),
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": [d for d in depths for _ in range(per_block)],
        "transformer_depth_output": [d for d in depths for _ in range(per_block + 1)],
        "transformer_depth_middle": depths[-1] or 1,
        "context_dim": unet["cross_attention_dim"], "use_spatial_transformer": True,
        "use_linear_in_transformer": unet["use_linear_projection"], "legacy": False,
        "use_temporal_attention": False, "adm_in_channels": None, "dtype": torch.float32,
    }  # fmt: skip
    heads = {"num_heads": 8} if shape == "sd1" else {"num_heads": -1, "num_head_channels": 16}
    if shape == "sdxl":
        width = unet["projection_class_embeddings_input_dim"]
        settings |= {"num_classes": "sequential", "adm_in_channels": width}
    return settings | heads


def patcher(folder: Path, shape: str) -> Any:
    """ComfyUI's model of those settings; all weights are zeros."""
    kind = KINDS[shape]({})
    kind.unet_config = config(folder, shape)
    model = comfy.model_base.BaseModel(kind)
    for weight in model.parameters():
        weight.data.zero_()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def layers(folder: Path, shape: str) -> dict[str, str]:
    """ComfyUI's name of a weight → component and path of diffusers, by ComfyUI's own map."""
    unet = comfy.utils.unet_to_diffusers(config(folder, shape))
    named = {f"diffusion_model.{ours}": f"unet.{theirs}" for theirs, ours in unet.items()}
    for key in TextEncoders(folder, shape).tensors:
        clip, _, path = key.partition(".transformer.")
        component = "text_encoder_2" if clip == "clip_g" else "text_encoder"
        named[key] = f"{component}.{path}"
    return named


def apply(about: dict[str, Any]) -> dict[str, Any]:
    """The weights, of zeros before, that ComfyUI's loader makes of a file; and what it passed
    over."""
    folder, shape = Path(about["base"]), about["shape"]
    unheard = Names()
    logging.getLogger().addHandler(unheard)
    model, texts = patcher(folder, shape), TextEncoders(folder, shape)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(texts, keys)
    tensors = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(about["file"]))
    patches = comfy.lora.load_lora(tensors, keys)
    weights = {**model.model.state_dict(), **texts.tensors}
    named, changed = layers(folder, shape), {}
    for key, patch in patches.items():
        zeros = torch.zeros_like(weights[key], dtype=torch.float32)
        entry = [(1.0, patch, 1.0, None, None)]
        changed[named[key].removesuffix(".weight")] = comfy.lora.calculate_weight(entry, zeros, key)
    save_file({key: weight.contiguous() for key, weight in changed.items()}, about["deltas"])
    return {"layers": len(patches), "passed over": len(unheard.keys)}


def save(about: dict[str, Any]) -> dict[str, Any]:
    """A file of the saver's own functions, and the changes that it was made of."""
    from comfy_extras.nodes_lora_extract import LORAType, calc_lora_model

    folder, shape = Path(about["base"]), about["shape"]
    model, named = patcher(folder, shape), layers(folder, shape)
    generator = torch.Generator().manual_seed(5)
    for key, weight in model.model.named_parameters():
        if weight.dim() >= 2 and named.get(key, "").endswith(tuple(about["endings"])):
            out, inside = weight.shape[0], weight[0].numel()
            factors = [torch.randn(out, 2, generator=generator),
                       torch.randn(2, inside, generator=generator)]  # fmt: skip
            weight.data.copy_((factors[0] @ factors[1]).reshape(weight.shape))
    tensors = calc_lora_model(
        model, about["rank"], "diffusion_model.", "diffusion_model.", {}, LORAType.STANDARD
    )
    comfy.utils.save_torch_file(tensors, about["file"], metadata=None)
    return apply({**about, "base": folder})


if __name__ == "__main__":
    tasks = json.loads(sys.argv[1])
    print(json.dumps([globals()[task["task"]](task) for task in tasks]))
