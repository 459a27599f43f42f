"""Tiny models that answer questions about pictures, random weights, the real architectures.

Pictures are made 32x32, words come from a vocabulary of some fifty. Built once per session.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SHAPES = ("blip", "blip2-t5", "blip2-opt", "instructblip", "paligemma", "qwen2-vl")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "[DEC]",
           "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
WORDS = (  # noqa: SIM905
    "yes no Yes No YES NO is there a an the one two three red green blue dog cat tree car left of "
    "right above below Is Are there Question Answer Short answer Options Choices Please or user "
    "assistant en Does this figure show ? . , : it It What colour"
).split()
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %} {{ c.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
PX = 32


@cache
def folder(shape: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix="tiny-judge-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return build(shape, root / shape)


def build(shape: str, folder: Path, *, seed: int = 0) -> Path:
    """Saves the model with what reads for it; equal seeds give equal weights."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        _BUILDERS[shape](folder)
    finally:
        torch.random.set_rng_state(state)
    return folder


def words(before: str = "", after: str = "", **more: Any) -> PreTrainedTokenizerFast:
    """One token for each word; `before` and `after` are added around each text."""
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys((*SPECIAL, *WORDS)))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    parts = [part for part in (before, "$A", after) if part]
    if len(parts) > 1:
        made.post_processor = processors.TemplateProcessing(
            single=" ".join(parts),
            special_tokens=[(t, vocabulary[t]) for t in (before, after) if t],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=list(SPECIAL[4:]),
        **more,
    )


def _id(word: str) -> int:
    return [*dict.fromkeys((*SPECIAL, *WORDS))].index(word)


def _save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # as initialised, all pictures look alike to so small a model
                weight.normal_(std=0.35)
    model.generation_config.do_sample = False
    model.save_pretrained(folder, safe_serialization=True)


_LAYER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_VISION = _LAYER | {"image_size": PX, "patch_size": 16}
_SIZE = {"height": PX, "width": PX}


def _vocabulary() -> dict[str, int]:
    return {
        "vocab_size": len(dict.fromkeys((*SPECIAL, *WORDS))),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _blip(folder: Path) -> None:
    text = _LAYER | _vocabulary() | {
        "encoder_hidden_size": 32, "bos_token_id": _id("[DEC]"), "sep_token_id": 2,
        "max_position_embeddings": 48,
    }  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=_VISION)
    _save(transformers.BlipForQuestionAnswering(config), folder)
    _processor("Blip", folder, words("<s>", "</s>"))


def _processor(kind: str, folder: Path, tokenizer: Any, **more: Any) -> None:
    images = transformers.BlipImageProcessorPil(size=_SIZE)
    getattr(transformers, f"{kind}Processor")(images, tokenizer, **more).save_pretrained(folder)


def _t5() -> Any:
    return transformers.T5Config(
        d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        **_vocabulary(),
    )  # fmt: skip


def _opt() -> Any:
    return transformers.OPTConfig(
        **_vocabulary() | {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 32,
                           "num_hidden_layers": 1, "num_attention_heads": 2}
    )  # fmt: skip


def _llama() -> Any:
    return transformers.LlamaConfig(**_LAYER | _vocabulary())


def _blip2(text: Any, *, before: str = "", after: str = "") -> Any:
    def save(folder: Path) -> None:
        config = transformers.Blip2Config(
            vision_config=_VISION,
            qformer_config=_LAYER | {"encoder_hidden_size": 32},
            text_config=text().to_dict(),
            num_query_tokens=3,
            image_token_index=_id("<image>"),
        )
        _save(transformers.Blip2ForConditionalGeneration(config), folder)
        _processor("Blip2", folder, words(before, after), num_query_tokens=3)

    return save


def _instructblip(folder: Path) -> None:
    config = transformers.InstructBlipConfig(
        vision_config=_VISION,
        qformer_config=_LAYER | _vocabulary() | {"encoder_hidden_size": 32},
        text_config=_llama().to_dict(),
        num_query_tokens=3,
        image_token_index=_id("<image>"),
    )
    _save(transformers.InstructBlipForConditionalGeneration(config), folder)
    more = {"qformer_tokenizer": words("<s>", "</s>"), "num_query_tokens": 3}
    _processor("InstructBlip", folder, words("<s>"), **more)


def _paligemma(folder: Path) -> None:
    tokenizer = words()
    images = transformers.SiglipImageProcessorPil(size=_SIZE)
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    text = _LAYER | _vocabulary() | {"head_dim": 16, "num_key_value_heads": 1}
    config = transformers.PaliGemmaConfig(
        text_config=text | {"model_type": "gemma", "vocab_size": len(tokenizer)},
        vision_config=_VISION | {"model_type": "siglip_vision_model"},
        image_token_index=_id("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    _save(transformers.PaliGemmaForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)


def _qwen(folder: Path) -> None:
    tokenizer = words(chat_template=CHAT)
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        text_config=_LAYER | _vocabulary() | {"num_key_value_heads": 1, "rope_parameters": rope},
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2,
                       "patch_size": 8, "mlp_ratio": 1},
        image_token_id=_id("<|image_pad|>"),
        video_token_id=_id("<|video_pad|>"),
        vision_start_token_id=_id("<|vision_start|>"),
        vision_end_token_id=_id("<|vision_end|>"),
    )  # fmt: skip
    _save(transformers.Qwen2VLForConditionalGeneration(config), folder)
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    )
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_BUILDERS: dict[str, Any] = {
    "blip": _blip,
    "blip2-t5": _blip2(_t5, after="</s>"),
    "blip2-opt": _blip2(_opt, before="</s>"),
    "instructblip": _instructblip,
    "paligemma": _paligemma,
    "qwen2-vl": _qwen,
}
