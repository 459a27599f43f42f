"""Drawing through a SUR-adapter: text features in, adapted ones out, each prompt by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from selma.adapters.sur.files import load
from selma.adapters.sur.network import Adapted, SurAdapter, require_fit
from selma.backbones.text_to_image import Rewriting, TextFeatures, TextToImage
from selma.config.adapters import SurGeneration


def rewriting_by(path: Path, model: TextToImage, config: SurGeneration) -> Rewriting:
    """What the adapter in this file or folder makes of the model's text features.

    Raises AdapterError if it was made for another base's features.
    """
    adapter = load(path).adapter
    require_fit(adapter, model)
    adapter.to(model.device).train(config.dropout)

    def rewrite(features: TextFeatures) -> TextFeatures:
        return rewritten(adapter, features, config)

    return rewrite


def rewritten(adapter: SurAdapter, features: TextFeatures, config: SurGeneration) -> TextFeatures:
    """The features of one pass of pictures.

    As released, the empty prompts come first and all are one batch, so that each can alter the
    others where the adapter's form lets it; else both sides pass by themselves.
    """
    negative, empty_pooled = features.negative, features.negative_pooled
    if negative is None or config.negative == "alone":
        made = _adapted(adapter, features.text, features.pooled, config)
        return TextFeatures(made.text, negative, made.pooled, empty_pooled)
    if config.negative == "adapted":
        made = _adapted(adapter, features.text, features.pooled, config)
        empty = _adapted(adapter, negative, empty_pooled, config)
        return TextFeatures(made.text, empty.text, made.pooled, empty.pooled)
    both = _adapted(
        adapter,
        torch.cat([negative, features.text]),
        None
        if features.pooled is None or empty_pooled is None
        else torch.cat([empty_pooled, features.pooled]),
        config,
    )
    empty_text, text = both.text.chunk(2)
    parts = (None, None) if both.pooled is None else both.pooled.chunk(2)
    return TextFeatures(text, empty_text, parts[1], parts[0])


def _adapted(
    adapter: SurAdapter, text: Tensor, pooled: Tensor | None, config: SurGeneration
) -> Adapted:
    return adapter(text, pooled, strength=config.strength)
