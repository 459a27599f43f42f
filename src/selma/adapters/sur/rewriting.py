"""Applying a SUR-adapter: text features in, adapted ones out, each prompt by itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from selma.adapters.kind import AdapterKind
from selma.adapters.layers import Layers
from selma.adapters.sur.files import FILE, SurFile, is_sur, load
from selma.adapters.sur.network import SurAdapter, require_fit
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.text_to_image import Rewriting, TextToImage
from selma.config.adapters import SurConfig, SurGeneration


def apply(
    model: TextToImage,
    adapter: SurFile,
    *,
    strength: float = 1.0,
    options: SurGeneration | None = None,
) -> AbstractContextManager[None]:
    """While the block runs, images are generated from what the adapter makes of text features.

    The strength multiplies the one of the options. Raises AdapterError if the adapter was made for
    another base's features.
    """
    config = options or SurGeneration()
    config = config.model_copy(update={"strength": strength * config.strength})
    return model.rewritten(rewriting_by(adapter, model, config))


def rewriting_by(file: SurFile, model: TextToImage, config: SurGeneration) -> Rewriting:
    """The function by which the adapter rewrites the model's text features.

    Raises AdapterError if it was made for another base's features.
    """
    adapter = file.adapter
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


def read(path: Path, *, base: Layers | None = None) -> SurFile:
    """The adapter in a file or folder. Raises AdapterError."""
    return load(path)


def describe(file: SurFile) -> list[str]:
    """The features that it is for, and its settings."""
    widths = file.adapter.widths
    lines = [f"text features: {', '.join(map(str, widths.text))}"]
    lines += [] if widths.pooled is None else [f"pooled features: {widths.pooled}"]
    lines += [f"numbers: {sum(weight.numel() for weight in file.adapter.parameters())}"]
    settings = file.adapter.config.model_dump(mode="json")
    return lines + [f"{key}: {value}" for key, value in sorted(settings.items())]


SUR = AdapterKind(
    name="sur",
    settings=SurConfig,
    file=FILE,
    read=read,
    recognizes=is_sur,
    apply=apply,
    options=SurGeneration,
    describe=describe,
)
