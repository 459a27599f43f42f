"""Tiny transformers with random weights, in the pipelines of their families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TOKENS = 48
WIDTH = 16
"""Of language models."""
CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def pipeline(shape: str) -> DiffusionPipeline:
    return PIPELINES[shape]()


def _sd3() -> DiffusionPipeline:
    import tiny

    first, second = tiny.tokenizer(), tiny.tokenizer(pad="!")
    return StableDiffusion3Pipeline(
        vae=_vae(8),
        text_encoder=tiny.text_encoder(first, width=32, kind=CLIPTextModelWithProjection),
        text_encoder_2=tiny.text_encoder(second, width=32, kind=CLIPTextModelWithProjection),
        text_encoder_3=_t5(64),
        tokenizer=first,
        tokenizer_2=second,
        tokenizer_3=_letters(),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux_2(*, distilled: bool) -> DiffusionPipeline:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    with torch.no_grad():
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        vae=vae,
        text_encoder=Qwen3ForCausalLM(_qwen3(layers=27)).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        scheduler=_shifted_by_size(),
        is_distilled=distilled,
    )


def _z_image() -> DiffusionPipeline:
    return ZImagePipeline(
        vae=_vae(4),
        text_encoder=Qwen3Model(_qwen3(layers=2)).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[640, 32, 32],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def _qwen_image() -> DiffusionPipeline:
    text = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }
    sight = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    return QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.7, 1.3, 0.9, 1.1],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=sight)
        ).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=_shifted_by_size(max_shift=0.9, shift_terminal=0.02),
    )


def _flux() -> DiffusionPipeline:
    import tiny

    words = tiny.tokenizer()
    return FluxPipeline(
        vae=_vae(4),
        text_encoder=tiny.text_encoder(words, width=32, kind=CLIPTextModel),
        tokenizer=words,
        text_encoder_2=_t5(32),
        tokenizer_2=_letters(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=_shifted_by_size(),
    )


def _chroma() -> DiffusionPipeline:
    return ChromaPipeline(
        vae=_vae(4),
        text_encoder=_t5(32),
        tokenizer=_letters(),
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=_shifted_by_size(),
    )


def _sana() -> DiffusionPipeline:
    return SanaPipeline(
        vae=AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(_gemma()).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            sample_size=16,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _lumina_2() -> DiffusionPipeline:
    return Lumina2Pipeline(
        vae=_vae(4),
        text_encoder=Gemma2Model(_gemma()).eval(),
        tokenizer=_qwen_tokenizer(200),  # its system prompt takes 170
        transformer=Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=48,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(8, 8, 8),
            axes_lens=(640, 32, 32),
            cap_feat_dim=WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def _vae(channels: int) -> Any:
    import tiny

    return tiny.autoencoder(
        latent_channels=channels,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _shifted_by_size(**different: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, **different)


def _t5(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(_letters()),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        dense_act_fn="gelu",
        is_gated_act=True,
    )
    return T5EncoderModel(config).eval()


def _letters() -> T5Tokenizer:
    """T5's kind of tokenizer, with one token for each letter."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)


def _language_model(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }


def _qwen3(*, layers: int) -> Qwen3Config:
    return Qwen3Config(**_language_model(layers))


def _gemma() -> Gemma2Config:
    return Gemma2Config(**_language_model(2))


def _qwen_tokenizer(tokens: int = TOKENS) -> Qwen2Tokenizer:
    """A token for each byte, and a way to tell who speaks."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {letter: n for n, letter in enumerate([*letters, "<|endoftext|>"])}
    words = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=tokens)
    words.chat_template = CHAT
    return words


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd3": _sd3,
    "flux.2-base": lambda: _flux_2(distilled=False),
    "flux.2": lambda: _flux_2(distilled=True),
    "z-image": _z_image,
    "qwen-image": _qwen_image,
    "flux.1": _flux,
    "sana": _sana,
    "lumina-2": _lumina_2,
    "chroma": _chroma,
}
