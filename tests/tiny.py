"""Tiny pipelines with random weights and tokenizers of their own: the shapes of SD 1, SD 2, SDXL.

Pictures are 16x16 pixels, latents 8x8; a picture of four steps takes a fraction of a second.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import BaseConfig

SHAPES = ("sd1", "sd2", "sdxl")
FLOW_SHAPES = (
    "sd3", "flux.2-base", "flux.2", "z-image", "qwen-image", "flux.1", "sana", "lumina-2", "chroma",
)  # fmt: skip
SMALL = dict.fromkeys(
    ("flux.2-base", "flux.2", "z-image", "qwen-image", "flux.1", "chroma"), 16
) | {"sana": 32}
"""Side of the images of those whose pipelines make 1024 px unless told otherwise."""
TOKENS = 24


@cache
def folder(shape: str) -> Path:
    """The saved pipeline of this shape; built once per session."""
    root = Path(tempfile.mkdtemp(prefix="tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return build(shape, root / shape)


def base(shape: str) -> BaseConfig:
    px = SMALL.get(shape)
    return BaseConfig(model=str(folder(shape)), device="cpu", image_px=px)


def load(shape: str) -> TextToImage:
    return load_text_to_image(base(shape))


def lora(folder: Path) -> Path:
    """Saves a LoRA for the tiny SD 1 that changes something, in this folder."""
    from selma.adapters import lora
    from selma.adapters.files import Lineage
    from selma.backbones.text_to_image import ADAPTER_FILE
    from selma.config.adapters import LoraConfig

    folder.mkdir(exist_ok=True)
    config, noise = LoraConfig(rank=2), torch.Generator().manual_seed(0)
    tensors = lora.attach(load("sd1").denoiser, config, generator=noise)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=noise))
    lora.save(folder / ADAPTER_FILE, tensors, config, lineage=Lineage())
    return folder


def tokenizer(*, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without a single merge: one token for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [256 + n for n in range(256 - len(printable))]
    letters = [chr(code) for code in printable + rest]
    pieces = letters + [f"{letter}</w>" for letter in letters]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    # Real CLIP folders keep words together; three merges are enough to exercise that path.
    merges = [("a", "t</w>"), ("c", "at</w>"), ("r", "e")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=TOKENS)


def text_encoder(words: CLIPTokenizer, *, width: int, kind: type) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return kind(config).eval()


def autoencoder(**different: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 16,
    }
    return AutoencoderKL(**settings | different)


def _unet(**different: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**settings | different)


def build(shape: str, folder: Path, *, seed: int = 0, second_width: int = 32) -> Path:
    """Saves the pipeline of this shape as a diffusers folder; equal seeds give equal weights.

    second_width: of SDXL's second text encoder, as wide as the first one unless it must be told
    from it.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        _pipeline(shape, second_width).save_pretrained(folder, safe_serialization=True)
    finally:
        torch.random.set_rng_state(state)
    return folder


def _pipeline(shape: str, second_width: int) -> DiffusionPipeline:
    schedule: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    first = tokenizer()
    if shape in FLOW_SHAPES:
        import tiny_flow

        return tiny_flow.pipeline(shape)
    if shape == "sdxl":
        second = tokenizer(pad="!")
        return StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(first, width=32, kind=CLIPTextModel),
            text_encoder_2=text_encoder(
                second, width=second_width, kind=CLIPTextModelWithProjection
            ),
            tokenizer=first,
            tokenizer_2=second,
            unet=_unet(
                cross_attention_dim=32 + second_width,
                attention_head_dim=(2, 4),
                use_linear_projection=True,
                transformer_layers_per_block=(1, 2),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 32,
            ),
            scheduler=EulerDiscreteScheduler(**schedule),
            add_watermarker=False,
        )
    unet, scheduler = {
        "sd1": (
            lambda: _unet(),
            PNDMScheduler(**schedule, skip_prk_steps=True, set_alpha_to_one=False),
        ),
        "sd2": (
            lambda: _unet(attention_head_dim=(2, 4), use_linear_projection=True),
            DDIMScheduler(
                **schedule,
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=False,
            ),
        ),
    }[shape]
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(first, width=32, kind=CLIPTextModel),
        tokenizer=first,
        unet=unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
