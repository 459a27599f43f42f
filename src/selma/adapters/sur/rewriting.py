"""Drawing through a SUR-adapter: text features in, adapted ones out, each prompt by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selma.adapters.sur.files import load
from selma.adapters.sur.network import SurAdapter, require_fit
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.text_to_image import Rewriting, TextToImage
from selma.config.adapters import SurGeneration


def rewriting_by(path: Path, model: TextToImage, config: SurGeneration) -> Rewriting:
    """What the adapter in this file or folder makes of the model's text features.

    Raises AdapterError if it was made for another base's features.
    """
    adapter = load(path).adapter
    require_fit(adapter, model)
    adapter.to(model.device).train(config.dropout)

    def rewrite(features: PromptFeatures) -> PromptFeatures:
        return rewritten(adapter, features, config)

    return rewrite


def rewritten(
    adapter: SurAdapter, features: PromptFeatures, config: SurGeneration
) -> PromptFeatures:
    """The features of one pass of images.

    As released, the empty prompts come first and all are one batch, so that each can alter the
    others where the adapter's form lets it; else both sides pass by themselves.
    """
    positive, negative = features.positive, features.negative
    if negative is None or config.negative == "alone":
        return PromptFeatures(positive=_adapted(adapter, positive, config), negative=negative)
    if config.negative == "adapted":
        return PromptFeatures(
            positive=_adapted(adapter, positive, config),
            negative=_adapted(adapter, negative, config),
        )
    both = _adapted(adapter, negative.followed_by(positive), config)
    rows = len(negative.text)
    return PromptFeatures(
        positive=both.map(lambda part: part[rows:]), negative=both.map(lambda part: part[:rows])
    )


def _adapted(
    adapter: SurAdapter, conditioning: Conditioning, config: SurGeneration
) -> Conditioning:
    adapted = adapter(conditioning.text, conditioning.pooled, strength=config.strength)
    return replace(conditioning, text=adapted.text, pooled=adapted.pooled)
