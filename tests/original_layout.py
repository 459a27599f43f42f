"""The tiny SD 1 as one file in the original layout, with published checkpoints' names."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
from torch import Tensor

from selma.adapters.names import original_path


def write_single_file(folder: Path, path: Path, *, without: str | None = None) -> Path:
    """`path`, with the weights of the pipeline in `folder`, but for those named `without`..."""
    tensors: dict[str, Tensor] = {}
    for part, renamed in (("unet", _unet), ("vae", _vae), ("text_encoder", _text)):
        (source,) = (folder / part).glob("*.safetensors")
        for name, tensor in safetensors.torch.load_file(source).items():
            key, fitted = renamed(name, tensor)
            if without is None or not key.startswith(without):
                tensors[key] = fitted.contiguous()
    safetensors.torch.save_file(tensors, path)
    return path


def _unet(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    module, _, last = name.rpartition(".")
    if module == "conv_norm_out":
        return f"model.diffusion_model.out.0.{last}", tensor
    norm = re.fullmatch(r"(.*resnets\.\d+)\.norm([12])", module)
    if norm:
        beside = original_path(f"{norm[1]}.conv{norm[2]}", 1)
        assert beside is not None
        path = beside.rpartition(".")[0] + ".0"  # in_layers.2 -> in_layers.0
    else:
        found = original_path(module, 1)
        assert found is not None, name
        path = found
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


def _text(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}", tensor
