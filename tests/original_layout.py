"""The tiny pipelines as one file in the original layout, with published checkpoints' names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from selma.adapters.original import original_paths


def write_single_file(folder: Path, path: Path, *, without: str | None = None) -> Path:
    """`path`, with the weights of the pipeline in `folder`, but for those named `without`..."""
    tensors = {}
    unet, vae = _weights(folder, "unet"), _weights(folder, "vae")
    paths = original_paths({name.rpartition(".")[0] for name in unet})
    tensors |= dict(_unet(name, tensor, paths) for name, tensor in unet.items())
    tensors |= dict(_vae(name, tensor) for name, tensor in vae.items())
    tensors |= _text_encoders(folder)
    kept = {
        key: tensor.contiguous()
        for key, tensor in tensors.items()
        if without is None or not key.startswith(without)
    }
    safetensors.torch.save_file(kept, path)
    return path


def _weights(folder: Path, part: str) -> dict[str, Tensor]:
    (source,) = (folder / part).glob("*.safetensors")
    return safetensors.torch.load_file(source)


def _text_encoders(folder: Path) -> dict[str, Tensor]:
    """SD 1 has CLIP's own layout, SD 2 that of OpenCLIP, SDXL one of each."""
    first = _weights(folder, "text_encoder")
    if (folder / "text_encoder_2").is_dir():
        second = _weights(folder, "text_encoder_2")
        return _clip("conditioner.embedders.0.transformer.", first) | _open_clip(
            "conditioner.embedders.1.model.", second
        )
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if scheduler.get("prediction_type") == "v_prediction":
        # Published files have a projection, which no one uses.
        unused = {"text_projection.weight": torch.zeros(32, 32)}
        return _open_clip("cond_stage_model.model.", first | unused)
    return _clip("cond_stage_model.transformer.", first)


def _unet(name: str, tensor: Tensor, paths: Mapping[str, str]) -> tuple[str, Tensor]:
    module, _, last = name.rpartition(".")
    if module == "conv_norm_out":
        return f"model.diffusion_model.out.0.{last}", tensor
    norm = re.fullmatch(r"(.*resnets\.\d+)\.norm([12])", module)
    if norm:
        beside = paths[f"{norm[1]}.conv{norm[2]}"]
        path = beside.rpartition(".")[0] + ".0"  # in_layers.2 -> in_layers.0
    else:
        path = paths[module]
    return f"model.diffusion_model.{path}.{last}", tensor


def _vae(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    side = name.partition(".")[0]
    blocks = 2
    name = re.sub(
        r"up_blocks\.(\d)", lambda found: f"up.{blocks - 1 - int(found[1])}", name
    ).replace("down_blocks", "down")
    for ours, theirs in (
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"\.resnets\.", ".block."),
        (r"downsamplers\.0", "downsample"),
        (r"upsamplers\.0", "upsample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ):
        name = re.sub(ours, theirs, name)
    if ".attn_1." in name and side in ("encoder", "decoder"):
        for ours, theirs in (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", "")):
            name = name.replace(ours, theirs)
        if tensor.dim() == 2:  # the original's projections are convolutions of 1 x 1
            tensor = tensor[:, :, None, None]
    return f"first_stage_model.{name}", tensor


def _clip(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in weights.items()
    }


_OPEN_CLIP = (
    (r"encoder\.layers\.", "transformer.resblocks."),
    (r"layer_norm([12])", r"ln_\1"),
    (r"self_attn", "attn"),
    (r"fc1", "c_fc"),
    (r"fc2", "c_proj"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.token_embedding", "token_embedding"),
    (r"final_layer_norm", "ln_final"),
    (r"text_projection\.weight", "text_projection"),
)


def _open_clip(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one matrix; the projection stands on its side."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        path = name.removeprefix("text_model.")
        for ours, theirs in _OPEN_CLIP:
            path = re.sub(ours, theirs, path)
        if path.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            continue
        if match := re.fullmatch(r"(.*\.attn)\.q_proj\.(weight|bias)", path):
            three = [weights[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            path, tensor = f"{match[1]}.in_proj_{match[2]}", torch.cat(three)
        found[prefix + path] = tensor.T if path == "text_projection" else tensor
    return found
