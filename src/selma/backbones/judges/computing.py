"""What a judge computes for an image and for a question, told from shapes.

Two operations for each weight and each position that it is applied to; of attention's own products
and of what a server does nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from selma.backbones.judges.judge import Judge
from selma.config.scores import LocalJudge
from selma.errors import ModelError

QUESTION_TOKENS = 24
"""Of a question in its wording."""
ANSWER_TOKENS = 2
"""Yes or no, and the end."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Salesforce/blip-vqa-capfilt-large": {
        "model_type": "blip",
        "vision_config": {"image_size": 384, "patch_size": 16},
        "text_config": {"encoder_hidden_size": 768},
    },
    "Salesforce/blip2-flan-t5-xl": {
        "model_type": "blip-2",
        "text_config": {
            "model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24,
            "num_heads": 32, "feed_forward_proj": "gated-gelu",
        },
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "patch_size": 14, "spatial_merge_size": 2, "out_hidden_size": 3584,
        },
    },
    "Qwen/Qwen3-VL-8B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        },
        "vision_config": {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
            "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 4096,
        },
    },
}  # fmt: skip
"""Model → its config as far as it is no default of transformers, so that the Hub is not asked."""


@dataclass(frozen=True)
class Answering:
    """What a judge computes, in floating-point operations."""

    image: int
    """Once for each image."""
    question: int
    """For each question about it."""


def of_local(judge: LocalJudge, image_px: int) -> Answering | None:
    """Of a judge in a folder, or of a published one; None where its architecture is not known."""
    folder = Path(judge.model)
    try:
        config = _config(str(folder) if folder.is_dir() else None, judge.model)
        return None if config is None else _answering(config, image_px, judge.beams)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{judge.model} must have a config by which its network can be made, but: {error}."
        ) from error


def of_small(judge: Judge) -> Answering:
    """Of a judge that is so small that it is asked, and its operations are counted."""
    blank, question = [Image.new("RGB", (64, 64))], ["is there a red circle?"]
    image = counted(lambda: judge.answer(blank, [[]]))
    return Answering(image, counted(lambda: judge.answer(blank, [question])) - image)


def counted(work: Callable[[], Any]) -> int:
    """Floating-point operations of work that is really done."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    return int(counter.get_total_flops())


def _config(folder: str | None, model: str) -> Any:
    from transformers import AutoConfig

    if folder is not None:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    published = PUBLISHED.get(model)
    return None if published is None else AutoConfig.for_model(**published)


def _answering(config: Any, image_px: int, beams: int) -> Answering:
    sizes = _sizes(config)
    vision = config.vision_config
    # Models of any size of image have none in their config.
    side = getattr(vision, "image_size", None) or image_px
    patches = (side // vision.patch_size) ** 2
    merged = getattr(vision, "spatial_merge_size", 1) ** 2
    queries = getattr(config, "num_query_tokens", 0)
    image = sizes["vision"] * patches + sizes["queries"] * queries
    crossing = sizes["crossing"] * patches
    text = sizes["text"] * QUESTION_TOKENS
    text += (sizes["text"] + sizes["head"]) * ANSWER_TOKENS * beams
    if config.model_type == "blip":  # its text looks at the image itself, with each question anew
        return Answering(2 * image, 2 * (crossing + text))
    seen = sizes["text"] * (queries or patches // merged)
    return Answering(2 * (image + crossing), 2 * (seen + text))


@cache
def _network(described: str) -> Any:
    import json

    import torch
    import transformers

    from selma.backbones.judges.vqa import class_of

    config = transformers.AutoConfig.for_model(**json.loads(described))
    kind = getattr(transformers, class_of(config.model_type))
    with torch.device("meta"):  # classes chosen by config are made by from_config alone
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


def _sizes(config: Any) -> dict[str, int]:
    """Part → weights of its products."""
    import torch

    sizes = dict.fromkeys(("vision", "queries", "crossing", "text", "head"), 0)
    network = _network(config.to_json_string(use_diff=False))
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() < 2 or isinstance(module, torch.nn.Embedding):
            continue
        sizes[_part(name)] += weight.numel()
    return sizes


def _part(name: str) -> str:
    if "crossattention" in name and name.rsplit(".", 1)[-1] in ("key", "value"):
        return "crossing"
    if "lm_head" in name or ".cls." in name:
        return "head"
    if "qformer" in name:
        return "queries"
    return "vision" if "vision" in name or "visual" in name else "text"
