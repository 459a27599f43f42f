"""Scorers that are a CLIP model: PickScore (arXiv:2305.01569), HPS v2 (arXiv:2306.09341) and CLIP
score (arXiv:2104.08718). They differ in preprocessing and in what the cosine is multiplied by."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from selma.backbones.preference import open_clip
from selma.backbones.preference.checkpoints import Checkpoint, read_shape, save_exactly
from selma.backbones.preference.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    longest_side_and_pad,
    normalised,
    shortest_side_and_crop,
)
from selma.backbones.weights import Weights, load_network, load_tokenizer
from selma.errors import ModelError

if TYPE_CHECKING:
    import torch

Forward = Callable[[Sequence[Image.Image], Sequence[str]], "torch.Tensor"]
"""Images and their texts → [b] scores."""


def load_pickscore(weights: Weights, tokenizer: Weights, device: torch.device) -> Forward:
    """exp(logit scale) x cosine, as the PickScore repository's example has it."""
    model, words = clip_and_words(weights, tokenizer, device)
    side = model.config.vision_config.image_size

    def forward(images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        seen = normalised([shortest_side_and_crop(p, side, crop="floor") for p in images])
        return model.logit_scale.exp() * _cosines(model, words, seen, texts)

    return forward


def load_hps(
    weights: Weights, tokenizer: Weights, device: torch.device, *, antialias: bool
) -> Forward:
    """100 x cosine, as hpsv2's `evaluate` prints it (its `score` returns the cosine)."""
    clean = text_cleaner()
    model, words = clip_and_words(weights, tokenizer, device)
    side = model.config.vision_config.image_size

    def forward(images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        seen = normalised([longest_side_and_pad(p, side, antialias=antialias) for p in images])
        return 100 * _cosines(model, words, seen, [clean(text) for text in texts])

    return forward


def load_clip_score(weights: Weights, tokenizer: Weights, device: torch.device) -> Forward:
    """100 x cosine by any CLIP model, with the mean and deviation that its folder states."""
    from torch.nn.functional import cosine_similarity

    model, words = clip_and_words(weights, tokenizer, device)
    see = image_features(model, weights)

    def forward(images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        return 100 * cosine_similarity(see(images), read_texts(model, words, texts))

    return forward


def image_features(model: Any, weights: Weights) -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """Images → [b, width], the image encoder's projected vectors: shortest side and middle crop,
    with the mean and deviation that the weights' folder states."""
    side = model.config.vision_config.image_size
    mean, std = statistics_of(weights)

    def see(images: Sequence[Image.Image]) -> torch.Tensor:
        fitted = [shortest_side_and_crop(p, side, crop="floor") for p in images]
        seen = normalised(fitted, mean, std).to(model.device)
        vectors: torch.Tensor = model.get_image_features(pixel_values=seen).pooler_output
        return vectors

    return see


def convert_clip(checkpoint: Checkpoint, folder: Path) -> None:
    """transformers' own names, and a config beside the file or given. Raises ModelError."""
    config = _config(checkpoint)
    if not config.is_file():
        raise ModelError(
            f"A checkpoint of kind {checkpoint.kind} needs its {config}, which is not there."
        )
    _write(checkpoint, checkpoint.tensors, read_shape(config), folder)


def convert_hps(checkpoint: Checkpoint, folder: Path) -> None:
    """open_clip's names; the shape is ViT-H-14's unless a config is there. Raises ModelError."""
    config = _config(checkpoint)
    shape = read_shape(config) if config.is_file() else open_clip.vit_h_14()
    _write(checkpoint, open_clip.to_transformers(checkpoint.tensors), shape, folder)


def _config(checkpoint: Checkpoint) -> Path:
    return checkpoint.config or checkpoint.source.with_name("config.json")


def _write(
    checkpoint: Checkpoint,
    tensors: Mapping[str, torch.Tensor],
    shape: dict[str, Any],
    folder: Path,
) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    config = CLIPConfig(**shape)
    with torch.device("meta"):
        wanted = CLIPModel(config).state_dict()
    save_exactly(tensors, wanted, folder / "model.safetensors", what=checkpoint.kind)
    config.save_pretrained(folder)
    load_tokenizer(CLIPTokenizer, checkpoint.tokenizer).save_pretrained(folder)


def text_cleaner() -> Callable[[str], str]:
    """What open_clip does to a text before its words are looked up: broken encodings and curly
    quotes are mended by ftfy, entities such as &amp; replaced twice. Raises ModelError."""
    try:
        from ftfy import fix_text
    except ImportError as error:
        raise ModelError(
            "HPS cleans its texts with the package ftfy: pip install 'selma[scores]'."
        ) from error

    def clean(text: str) -> str:
        return " ".join(html.unescape(html.unescape(fix_text(text))).split()).lower()

    return clean


def clip_and_words(weights: Weights, tokenizer: Weights, device: torch.device) -> tuple[Any, Any]:
    """CLIP on its device and its tokenizer, which is checked to be made for it. Raises
    ModelError."""
    from transformers import CLIPModel, CLIPTokenizer

    words = load_tokenizer(CLIPTokenizer, tokenizer)
    model = load_network(CLIPModel, weights)
    text = model.config.text_config
    # A text's feature is read where its end token stands; 2 is an old mistake in configs, with
    # which transformers takes the highest id instead.
    if text.eos_token_id not in (words.eos_token_id, 2) or len(words) > text.vocab_size:
        raise ModelError(
            f"{weights.name} needs a tokenizer of {text.vocab_size} tokens that ends texts with "
            f"{text.eos_token_id}, but {tokenizer.name} has {len(words)} and "
            f"{words.eos_token_id}. Name the right one as `tokenizer`."
        )
    return model.to(device), words


def _cosines(model: Any, words: Any, seen: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
    """[b] cosines of images and their texts."""
    from torch.nn.functional import cosine_similarity

    looked = model.get_image_features(pixel_values=seen.to(model.device)).pooler_output
    return cosine_similarity(looked, read_texts(model, words, texts))


def read_texts(model: Any, words: Any, texts: Sequence[str]) -> torch.Tensor:
    """[b, d] features of texts. One length for all, so that none changes another's; what is longer
    is cut, its end token kept."""
    tokens = words(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    ).to(model.device)
    read: torch.Tensor = model.get_text_features(**tokens).pooler_output
    return read


def statistics_of(weights: Weights) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of preprocessor_config.json; CLIP's own where there is no such file."""
    path = weights.file("preprocessor_config.json")
    if path is None:
        return CLIP_MEAN, CLIP_STD
    try:
        settings = json.loads(path.read_text("utf-8"))
        mean, std = ([float(v) for v in settings[name]] for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("three numbers each, and deviations above 0, are needed")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} must state image_mean and image_std: {error!r}.") from error
    return mean, std
