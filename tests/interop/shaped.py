"""Small models with the blocks of the released ones: every layer of SD 1, SD 2 and SDXL, narrow.

Other programs take the released blocks for granted (three of SDXL, 32 groups of a norm), so that
`tiny`'s shapes are too small for them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

ATTENDING, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
FOUR = {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": (*[ATTENDING] * 3, PLAIN),
    "up_block_types": (PLAIN_UP, *[UP] * 3),
}
BLOCKS: dict[str, dict[str, Any]] = {
    "sd1": {**FOUR, "attention_head_dim": 8},
    "sd2": {**FOUR, "attention_head_dim": (2, 4, 4, 4)},
    "sdxl": {
        "block_out_channels": (32, 64, 64),
        "down_block_types": (PLAIN, ATTENDING, ATTENDING),
        "up_block_types": (UP, UP, PLAIN_UP),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 2, 10),
    },
}


@cache
def folder(shape: str) -> Path:
    """The saved pipeline of this shape; built once per session."""
    root = Path(tempfile.mkdtemp(prefix="shaped-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    state = torch.random.get_rng_state()
    pipeline = tiny.build(shape, root / shape)
    settings = UNet2DConditionModel.load_config(pipeline / "unet")
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(
        {**settings, **BLOCKS[shape], "layers_per_block": 2, "norm_num_groups": 32}
    )
    torch.random.set_rng_state(state)
    shutil.rmtree(pipeline / "unet")
    unet.save_pretrained(pipeline / "unet")
    return pipeline


def empty(shape: str) -> Path:
    """The pipeline of this shape, emptied."""
    return emptied(folder(shape))


@cache
def emptied(pipeline: Path) -> Path:
    """A copy of the pipeline with zeros as weights of all layers of the UNet and text encoders.

    What a program merges into it is what stands there afterwards, without rounding.
    """
    copy = pipeline.parent / f"{pipeline.name}-empty"
    shutil.copytree(pipeline, copy)
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for path in (copy / component).glob("*.safetensors"):
            tensors = load_file(path)
            zeros = {name: t * 0 if t.dim() in (2, 4) else t for name, t in tensors.items()}
            save_file(zeros, path, metadata={"format": "pt"})
    return copy
