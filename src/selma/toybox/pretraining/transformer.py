"""A second base: a transformer like Stable Diffusion 3's, on straight lines to noise.

World, captions, autoencoder and CLIP encoder are those of toybox's first base. It is trained in the
same lessons, so that the two differ in what denoises, and in how.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from selma.toybox import weights_of
from selma.toybox.pretraining.autoencoder import LATENT_CHANNELS, LATENT_PX
from selma.toybox.pretraining.denoiser import TIMESTEPS, Sample, lessons, sample_shares, teach
from selma.toybox.pretraining.language import new_tokenizer, tokenize
from selma.toybox.pretraining.reading import TEXT_WIDTH

NAME = "dit"
PATCH = 2
"""Latents along a patch's side: a patch is one cell of the world."""
TOKENS = 32
"""Of a caption, of which the longest has 31."""


def new_transformer() -> SD3Transformer2DModel:
    """An untrained transformer of toybox's size."""
    return SD3Transformer2DModel(
        sample_size=LATENT_PX,
        patch_size=PATCH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=5 * 32,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=LATENT_PX // PATCH,
        qk_norm="rms_norm",
    )


def new_schedule() -> FlowMatchEulerDiscreteScheduler:
    """Straight lines, their times evenly spaced."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=1.0)


def short_tokenizer(tokens: int = TOKENS) -> CLIPTokenizer:
    """Toybox's tokenizer, cutting texts at fewer tokens."""
    tokenizer = new_tokenizer()
    tokenizer.model_max_length = tokens
    return tokenizer


def with_projection(reader: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The same encoder with a vector for the whole caption, its last token's features, and with a
    layer that changes nothing: Stable Diffusion 3 reads what goes into the last one."""
    config = reader.config.to_dict()
    layers = config["num_hidden_layers"]
    config = CLIPTextConfig.from_dict(config | {"num_hidden_layers": layers + 1})
    encoder = CLIPTextModelWithProjection(config)
    encoder.text_model.load_state_dict(reader.state_dict(), strict=False)
    last = encoder.text_model.encoder.layers[layers]
    for layer in (last.self_attn.out_proj, last.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def new_pipeline(
    transformer: SD3Transformer2DModel,
    reader: CLIPTextModel,
    vae: AutoencoderKL,
) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3's pipeline of these: toybox's reader in both places of a CLIP, and no T5,
    for which one token stands that says nothing."""
    for network in (transformer, vae):
        network.register_to_config(_name_or_path="")  # no path of the machine that trained it
    vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=new_schedule(),
        vae=vae,
        text_encoder=with_projection(reader).eval(),
        tokenizer=short_tokenizer(),
        text_encoder_2=with_projection(reader).eval(),
        tokenizer_2=short_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=short_tokenizer(1),
    )


@torch.no_grad()
def features(reader: CLIPTextModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What `new_pipeline`'s `encode_prompt` makes of tokens [b, n]: features [b, n + 1, 2 c] and
    [b, 2 c]. Its readers are one, which is asked once."""
    read = reader(tokens, output_hidden_states=True)
    text = torch.cat([read.hidden_states[-1]] * 2, dim=-1)
    return F.pad(text, (0, 0, 0, 1)), torch.cat([read.pooler_output] * 2, dim=-1)


def train_transformer(
    folder: Path,
    *,
    steps: int,
    batch: int,
    scenes: int,
    seed: int,
    device: torch.device,
    compiled: bool = False,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains on the autoencoder and text encoder of `folder/base`, or of the installed base where
    that is missing; saves a StableDiffusion3Pipeline as `folder/dit`. `compiled` as `train_base`
    has it."""
    torch.manual_seed(seed)
    base = folder / "base" if (folder / "base").exists() else weights_of("base")
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
    reader = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    transformer = new_transformer().to(device)
    for network in (vae, reader):
        network.eval().requires_grad_(False).to(device)
    if compiled:
        for network in (transformer, reader):
            network.compile()

    def loss(known: Sample) -> Tensor:
        # More of those at which it is decided what lies where (arXiv:2403.03206).
        sigma = sample_shares(len(known.x), known.generator, mean=1.0).view(-1, 1, 1, 1)
        noised = ((1 - sigma) * known.x + sigma * known.noise).to(device)
        text, pooled = features(reader, known.tokens.to(device))
        # In bfloat16 the fused kernel's backward pass takes most of a step on a CPU.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type != "cpu"):
            predicted = transformer(
                hidden_states=noised,
                timestep=TIMESTEPS * sigma.flatten().to(device),
                encoder_hidden_states=text,
                pooled_projections=pooled,
                return_dict=False,
            )[0]
        return F.mse_loss(predicted.float(), (known.noise - known.x).to(device))

    report = teach(
        transformer,
        loss,
        lessons=lessons(
            NAME,
            f"{NAME}-settling",
            steps=steps,
            scenes=scenes,
            batch=batch,
            seed=seed,
            read=partial(tokenize, short_tokenizer()),
        ),
        vae=vae,
        folder=folder,
        limit_s=limit_s,
    )
    pipe = new_pipeline(transformer, reader, vae)
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            network.to("cpu", torch.float16)
    pipe.save_pretrained(folder / NAME)
    return report
