"""Mistakes in the settings of `selma sur` that show before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from selma.applications.sur.settings import Narrator, SurRun, SurSettings
from selma.config.scores import PreferenceConfig
from selma.preflight import backend_mistakes, scorer_mistakes
from selma.workspace import IMAGES, SCORES


def mistakes(config: SurRun, make: Sequence[str]) -> Iterator[str]:
    """What keeps the stages in `make` from starting."""
    sur = config.sur
    data, llm = sur.data, sur.llm
    places = {name: getattr(data.source, name, None) for name in ("dump", "images", "folder")}
    for name, path in places.items():
        if path is not None and not Path(path).exists():
            yield f"sur.data.source.{name}: {path} must be there, but is missing."
    if isinstance(data.narrator, Narrator) and IMAGES in make:
        yield from backend_mistakes(data.narrator.backend, "sur.data.narrator.backend")
    if llm.file is None:
        yield from backend_mistakes(llm.backend, "sur.llm.backend")
    elif not Path(llm.file).is_file():
        yield f"sur.llm.file: {llm.file} must be a file of vectors, but is missing."
    for backend in sur.ablation.language_models:
        yield from backend_mistakes(backend, "sur.ablation.language_models")
    if SCORES in make:
        yield from _scores(sur)


def _scores(sur: SurSettings) -> Iterator[str]:
    keywords, quality = sur.scores.keywords, sur.scores.quality
    if keywords is not None and not Path(keywords).is_file():
        yield f"sur.scores.keywords: {keywords} must be a CSV, but is missing."
    if quality is not None and isinstance(quality.features, PreferenceConfig):
        yield from scorer_mistakes(quality.features, "sur.scores.quality.features")
