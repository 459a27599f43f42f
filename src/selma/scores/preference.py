"""Preference scores of every model, in one pass for each scorer.

5-scores/preferences/<label>/<model>/scores.jsonl    one line for each image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.backbones.preference.scorers import PreferenceScorer
from selma.config.scores import ScoresConfig
from selma.progress import warn
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.scores import Interval, ScorerInfo
from selma.scores import statistics
from selma.scores.answering import clip_item, read_clip_file
from selma.workspace import Item, Workspace


@dataclass(frozen=True)
class Preferences:
    """One scorer's results: its description, and model → the finished item with its scores."""

    about: ScorerInfo
    items: Mapping[str, Item]

    @property
    def keys(self) -> dict[str, str]:
        """Model → key of its item."""
        return {model: item.key for model, item in self.items.items()}

    def scores(self, model: str) -> list[float]:
        """The model's scores, in the benchmark's order."""
        return read_clip_file(self.items[model].path)


def score_preferences(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    config: ScoresConfig,
    folder: Workspace,
    *,
    load: Callable[[Any], PreferenceScorer],
) -> list[Preferences]:
    """Score every model by every scorer, in the order of the settings.

    One network is in memory at a time. Raises DataError for an image that is missing or broken.
    """
    preferences = []
    for setting in config.preferences:
        scorer = load(setting)
        about = ScorerInfo(
            label=setting.key,
            name=scorer.name,
            scale=scorer.scale,
            preprocessing=scorer.preprocessing,
            weights=scorer.weights,
            fingerprint=scorer.fingerprint,
            known=getattr(scorer, "known", ""),
            chose=setting.key in config.chosen_by,
        )
        items = {
            model: clip_item(
                benchmark_prompts,
                model,
                generated,
                scorer,
                folder,
                what=("preferences", setting.key),
            )
            for model, generated in images.items()
        }
        preferences.append(Preferences(about, items))
    return preferences


def warn_of_choosers(config: ScoresConfig) -> None:
    """Warn of scorers that chose or tuned something; the report marks them, too."""
    for label in config.chosen_by:
        warn(
            f"Warning: {label} is reported, but this run was chosen or tuned by it. Its gain is no "
            "independent evidence; judge the run by the others."
        )


def intervals(
    preferences: Sequence[Preferences],
    model: str,
    *,
    base: str | None,
    seeds: int = 1,
    **bootstrap: int,
) -> dict[str, dict[str, Interval]]:
    """The preference fields of a `ModelScore`. base: name of the base; None for the base itself."""
    fields: dict[str, Any] = {"preferences": {}, "preference_differences": {}, "win_rates": {}}
    for preference in preferences:
        label = preference.about.label
        scores = statistics.by_prompt(preference.scores(model), seeds)
        fields["preferences"][label] = statistics.interval(scores, **bootstrap)
        if base is not None:
            before = statistics.by_prompt(preference.scores(base), seeds)
            fields["preference_differences"][label] = statistics.paired_difference(
                scores, before, **bootstrap
            )
            fields["win_rates"][label] = statistics.win_rate(scores, before, **bootstrap)
    return fields
