"""Bases with random weights: of the real sizes of Stable Diffusion 1 and SDXL, and narrow ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from oft_step import MODELS
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from turns import cpu_seconds

from selma.backbones.families import family_of
from selma.backbones.shape_modes import Live
from selma.backbones.text_to_image import TextToImage

FLOOR = 790e12
"""FLOP/s in bfloat16 that one H100 was measured to reach on large products."""
MIB = 2**20
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_UNETS: dict[str, dict[str, Any]] = {
    # Its latents are 16 wide, for images of 512 pixels: with the usual 64 and so few channels,
    # attention would be most of a step, and in Stable Diffusion it is a sixth.
    "narrow": {
        "sample_size": 16,
        "block_out_channels": (96, 192, 384, 384),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
    },
    "sd1": MODELS["sd15"],
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VAES: dict[str, tuple[int, ...]] = {
    "narrow": (8, 16, 32, 32, 32, 32),
    "sd1": (128, 256, 512, 512),
    "sdxl": (128, 256, 512, 512),
}
_TEXTS: dict[str, tuple[tuple[int, int, int], ...]] = {  # width, layers, heads
    "narrow": ((32, 4, 4),),
    "sd1": ((768, 12, 12),),
    "sdxl": ((768, 12, 12), (1280, 32, 20)),
}
SIZES = tuple(_UNETS)


def built(size: str, *, device: str = "cpu", precision: str = "fp32") -> TextToImage:
    """A frozen base of that size; equal sizes have equal weights on one device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[precision])
    try:
        with torch.device(device):
            networks = _networks(size)
    finally:
        torch.set_default_dtype(before)
    pipe = _pipeline(networks)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    family = family_of(type(pipe).__name__, model=size)
    return TextToImage(pipe, torch.device(device), DTYPES[precision], f"random {size}", family)


def _networks(size: str) -> dict[str, Any]:
    channels = _VAES[size]
    narrow = {"norm_num_groups": 8} if size == "narrow" else {}
    names = ("text_encoder", "text_encoder_2")
    texts = {
        n: _text(*shape, second=n == names[1])
        for n, shape in zip(names, _TEXTS[size], strict=False)
    }
    return {
        **texts,
        "vae": AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=2,
            **narrow,
        ),
        "unet": UNet2DConditionModel(**_UNETS[size], **narrow),
    }


def _pipeline(networks: dict[str, Any]) -> Any:
    parts = networks | {
        "tokenizer": tokenizer(),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
    }
    if "text_encoder_2" in networks:
        return StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer(), add_watermarker=False)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _text(width: int, layers: int, heads: int, *, second: bool) -> Any:
    words, kind = tokenizer(), CLIPTextModelWithProjection if second else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def tokenizer() -> CLIPTokenizer:
    """One token for each letter."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )


def clock(device: str) -> Callable[[], float]:
    """CPU seconds; on a GPU wall seconds, once everything started there is done."""
    if device != "cuda":
        return cpu_seconds

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


class Peaks:
    """Bytes of the GPU that each side held at its worst; nothing without a GPU."""

    def __init__(self, device: str) -> None:
        self.on, self.bytes = device == "cuda", dict[str, int]()

    def of(self, name: str, side: Callable[[], object]) -> Callable[[], object]:
        """The side, measured each time it runs."""

        def run() -> object:
            if not self.on:
                return side()
            torch.cuda.reset_peak_memory_stats()
            result = side()
            self.bytes[name] = max(self.bytes.get(name, 0), torch.cuda.max_memory_allocated())
            return result

        return run

    def told(self) -> str:
        return "".join(f" {name}: {n / 2**30:.1f} GiB at most." for name, n in self.bytes.items())


def bytes_held(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by the run held at once."""
    with Live() as live:
        run()
    return live.peak
