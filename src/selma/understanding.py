"""The SUR-adapter's flow (arXiv:2305.05189): triples → adapter → pictures, in a run's folder.

It stands beside the six stages: with the run's own base, exam and, if they are there, experts.
"""

from __future__ import annotations

from pathlib import Path

from selma import processes
from selma.config import RunConfig
from selma.config.sur import SurSettings
from selma.finished import Finished
from selma.images.drawing import Reader
from selma.pipeline import Stages, opened
from selma.records import Triple, Understanding
from selma.workspace import EXPERTS, IMAGES, SCORES, Workspace


def collect(config: RunConfig) -> tuple[list[Triple], dict[str, int]]:
    """The triples, and reason → how many rows were rejected for it."""
    from selma.images.triples.collecting import rejected

    with opened(config, make=[IMAGES]) as this, processes.main_first():
        triples = _triples(this, this.folder)
        return triples, rejected(this.folder, _settings(config).data, seed=config.seed)


def train(config: RunConfig) -> Understanding:
    """The adapter, trained on the triples that `collect` left."""
    with opened(config, make=[EXPERTS]) as this:
        return _trained(this, this.folder)


def draw(config: RunConfig, *, experts: bool = False) -> dict[str, Path]:
    """Model → folder with its picture of each exam prompt: "base" and "sur"; with `experts` also
    "merged" and "merged-sur", by the run's own merged adapter."""
    # Nothing is judged yet, so that no judge need be there.
    with opened(config, make=[SCORES], checked=[]) as this:
        trained = _trained(this, Finished(this.folder.root))
        reader = Reader(trained.folder, trained.key, _settings(config).drawing)
        pictures = {
            "base": this.draw_base(),
            "sur": this.draw_understood("sur", reader, None),
        }
        if experts:
            merged = this.merge_experts(this.all_experts())
            pictures["merged"] = this.draw_adapted("merged", merged)
            pictures["merged-sur"] = this.draw_understood("merged-sur", reader, merged)
        return pictures


def _settings(config: RunConfig) -> SurSettings:
    return config.sur or SurSettings()


def _triples(this: Stages, folder: Workspace) -> list[Triple]:
    from selma.images.triples.collecting import collect_triples

    return collect_triples(_settings(this.config).data, folder, seed=this.config.seed)


def _trained(this: Stages, folder: Workspace) -> Understanding:
    from selma.experts.sur import train_sur

    return train_sur(
        _triples(this, Finished(this.folder.root)),
        _settings(this.config),
        folder,
        base=this.config.base,
        seed=this.config.seed,
        model=this.model,
    )
