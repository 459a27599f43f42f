"""Mistakes in the settings of `selma sur` that show before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from selma.applications.sur.settings import LlmCaptioner, SurRun, SurSettings
from selma.backbones.language.vectors import block_count
from selma.config.scores import PreferenceConfig
from selma.errors import SelmaError
from selma.preflight import absent, language_mistakes, scorer_mistakes, taken_names, weightless
from selma.prompts.skills import skill_names
from selma.workspace import IMAGES, SCORES


def mistakes(config: SurRun, make: Sequence[str]) -> Iterator[str]:
    """What keeps the stages in `make` from starting."""
    sur = config.sur
    yield from weightless(config)
    captioner, quality = sur.data.captioner, sur.scores.quality
    unasked = ["llm.backend"] if sur.llm.file is not None else []
    unasked += [] if IMAGES in make else ["data.captioner", "data.cleaning"]
    unasked += [] if SCORES in make else ["scores"]
    with suppress(SelmaError):  # which is told by the look at the run's own settings
        names = skill_names(config.prompts.skills, given=config.prompts.given)
        yield from taken_names({"keywords", "sur", "merged-sur"}, names)
    yield from absent(sur, "sur", without=unasked)
    if isinstance(captioner, LlmCaptioner) and IMAGES in make:
        yield from language_mistakes(captioner.backend, "sur.data.captioner.backend")
    if sur.llm.file is None:
        yield from language_mistakes(sur.llm.backend, "sur.llm.backend")
        yield from _layers(sur)
    for number, backend in enumerate(sur.ablation.language_models):
        yield from language_mistakes(backend, f"sur.ablation.language_models.{number}")
    if SCORES in make and quality is not None and isinstance(quality.features, PreferenceConfig):
        yield from scorer_mistakes(quality.features, "sur.scores.quality.features")


def _layers(sur: SurSettings) -> Iterator[str]:
    """Blocks that the language model does not have, where its folder tells how many it has."""
    count = block_count(sur.llm.backend)
    if count is None:
        return
    layers = [("llm.layer", sur.llm.layer), *(("ablation.layers", n) for n in sur.ablation.layers)]
    for key, layer in layers:
        if layer is not None and layer >= count:
            yield f"sur.{key}: must be 0 to {count - 1} for this language model, but is {layer}."
