"""Tiny models that answer questions about pictures, random weights, the real architectures.

Pictures are made 32x32, words come from a vocabulary of some fifty. Built once per session.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATS = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3.5", "internvl", "gemma3")
SHAPES = ("blip", "blip2-t5", "blip2-opt", "instructblip", "paligemma", *CHATS)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "[DEC]",
           "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<start_of_image>",
           "<end_of_image>", "<image_soft_token>")  # fmt: skip
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


_ROPE: dict[str, Any] = {
    "rope_type": "default",
    "mrope_section": [4, 2, 2],
    "rope_theta": 10000.0,
}
_QWEN = {"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2, "patch_size": 8,
         "mlp_ratio": 1}  # fmt: skip
_LATER = {"hidden_size": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "intermediate_size": 32,
          "out_hidden_size": 32}  # fmt: skip
_QWEN_2_5 = _LATER | {"window_size": 32, "fullatt_block_indexes": [0]}
_QWEN_3_5 = _LATER | {"num_position_embeddings": 64}
_LINEAR = {"vocab_size": 512, "num_hidden_layers": 2, "linear_num_value_heads": 2,
           "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 1,
           "linear_key_head_dim": 16, "linear_value_head_dim": 16}  # fmt: skip
_QWEN_3 = _QWEN_3_5 | {"deepstack_visual_indexes": [0]}


def _pieces(chat_template: str) -> Any:
    """Qwen 3.5's own tokenizer, byte by byte, with yes and no whole, and where a space is before
    them."""
    forms = [space + word for word in WORDS[:6] for space in ("", "\u0120")]
    merges = [(w[:at], w[at]) for w in forms for at in range(1, len(w))]
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    return transformers.Qwen3_5Tokenizer(
        vocab={piece: n for n, piece in enumerate(dict.fromkeys(pieces))},
        merges=merges,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=list(SPECIAL[4:]),
        model_specific_special_tokens=names,
        chat_template=chat_template,
    )


def _qwen(kind: str, vision: dict[str, Any], tokens: Any = words, **more: Any) -> Any:
    def save(folder: Path) -> None:
        text = _LAYER | _vocabulary() | {"num_key_value_heads": 1, "head_dim": 16}
        config = getattr(transformers, f"{kind}Config")(
            text_config=text | {"rope_parameters": _ROPE} | more,
            vision_config=vision,
            image_token_id=_id("<|image_pad|>"),
            video_token_id=_id("<|video_pad|>"),
            vision_start_token_id=_id("<|vision_start|>"),
            vision_end_token_id=_id("<|vision_end|>"),
        )
        _save(getattr(transformers, f"{kind}ForConditionalGeneration")(config), folder)
        images = transformers.Qwen2VLImageProcessorPil(
            patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
        )
        images.save_pretrained(folder)
        tokens(chat_template=CHAT).save_pretrained(folder)

    return save


def _internvl(folder: Path) -> None:
    vision = _LAYER | {"image_size": [PX, PX], "patch_size": [8, 8]}
    text = _LAYER | _vocabulary() | {"model_type": "qwen2", "num_key_value_heads": 1}
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=_id("<IMG_CONTEXT>")
    )
    _save(transformers.InternVLForConditionalGeneration(config), folder)
    names = {"start_image_token": "<img>", "end_image_token": "</img>",
             "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}  # fmt: skip
    template = CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>")
    tokenizer = words(chat_template=template, model_specific_special_tokens=names)
    images = transformers.GotOcr2ImageProcessorPil(size=_SIZE)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    (folder / "processor_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)


def _gemma3(folder: Path) -> None:
    vision = _VISION | {"patch_size": 8}
    text = _LAYER | _vocabulary() | {"num_key_value_heads": 1, "head_dim": 16}
    config = transformers.Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=4,
        image_token_index=_id("<image_soft_token>"),
        boi_token_index=_id("<start_of_image>"),
        eoi_token_index=_id("<end_of_image>"),
    )
    _save(transformers.Gemma3ForConditionalGeneration(config), folder)
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
             "eoi_token": "<end_of_image>"}  # fmt: skip
    template = CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>")
    tokenizer = words(chat_template=template, model_specific_special_tokens=names)
    images = transformers.Gemma3ImageProcessorPil(size=_SIZE)
    transformers.Gemma3Processor(
        images, tokenizer, chat_template=template, image_seq_length=4
    ).save_pretrained(folder)


_BUILDERS: dict[str, Any] = {
    "blip": _blip,
    "blip2-t5": _blip2(_t5, after="</s>"),
    "blip2-opt": _blip2(_opt, before="</s>"),
    "instructblip": _instructblip,
    "paligemma": _paligemma,
    "qwen2-vl": _qwen("Qwen2VL", _QWEN),
    "qwen2.5-vl": _qwen("Qwen2_5_VL", _QWEN_2_5),
    "qwen3-vl": _qwen("Qwen3VL", _QWEN_3),
    "qwen3.5": _qwen("Qwen3_5", _QWEN_3_5, _pieces, **_LINEAR),
    "internvl": _internvl,
    "gemma3": _gemma3,
}
