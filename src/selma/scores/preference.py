"""Preference scorers' numbers of every model, in one pass for each scorer.

5-scores/preferences/<label>/<model>/scores.jsonl    image against prompt, one line each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.backbones.preference.scorers import PreferenceScorer
from selma.config.scores import ScoresConfig
from selma.progress import console
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.scores import Interval, ScorerInfo
from selma.scores import statistics
from selma.scores.answering import clip_item, read_clip_file
from selma.workspace import Item, Workspace


@dataclass(frozen=True)
class Preferences:
    """What one scorer gave: what it is, and model → the finished item with its scores."""

    about: ScorerInfo
    items: Mapping[str, Item]

    @property
    def keys(self) -> dict[str, str]:
        return {model: item.key for model, item in self.items.items()}

    def scores(self, model: str) -> list[float]:
        return read_clip_file(self.items[model].path)


def score_preferences(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    config: ScoresConfig,
    folder: Workspace,
    *,
    load: Callable[[Any], PreferenceScorer],
) -> list[Preferences]:
    """Every scorer's finished items, in the order of the settings. Only one of the networks is in
    memory at a time. Raises DataError for an image that is missing or broken."""
    preferred = []
    for setting in config.preferences:
        scorer = load(setting)
        about = ScorerInfo(
            label=setting.key,
            name=scorer.name,
            scale=scorer.scale,
            preprocessing=scorer.preprocessing,
            weights=scorer.weights,
            fingerprint=scorer.fingerprint,
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
        preferred.append(Preferences(about, items))
    return preferred


def warn_of_choosers(config: ScoresConfig) -> None:
    """Says on the terminal which scorers may not count as evidence; the report marks them too."""
    for label in config.chosen_by:
        console.print(
            f"Warning: {label} is reported, but this run was chosen or tuned by it. Its gain is no "
            "independent evidence; judge the run by the others.",
            style="yellow",
            highlight=False,
        )


def intervals(
    preferred: Sequence[Preferences],
    model: str,
    *,
    base: str | None,
    seeds: int = 1,
    **bootstrap: int,
) -> dict[str, dict[str, Interval]]:
    """The fields of `ModelScore` that are about preference; base is None for the base itself."""
    fields: dict[str, Any] = {"preferences": {}, "preference_differences": {}, "win_rates": {}}
    for preference in preferred:
        label, scores = (
            preference.about.label,
            statistics.by_prompt(preference.scores(model), seeds),
        )
        fields["preferences"][label] = statistics.interval(scores, **bootstrap)
        if base is not None:
            before = statistics.by_prompt(preference.scores(base), seeds)
            fields["preference_differences"][label] = statistics.paired_difference(
                scores, before, **bootstrap
            )
            fields["win_rates"][label] = statistics.win_rate(scores, before, **bootstrap)
    return fields
