"""A run's scoring networks are loaded when asked for, once, by the settings."""

from __future__ import annotations

from typing import Any

import pytest
from scores.colours import ColourJudge

from selma.config.scores import ScoresConfig
from selma.errors import ConfigError
from selma.scores.networks import Loaders, ScoringNetworks


def watched() -> tuple[list[str], Loaders]:
    loaded: list[str] = []

    def load(setting: Any) -> ColourJudge:
        loaded.append(setting)
        return ColourJudge(setting, threshold=0.6 if setting == "toybox-b" else 0.2)

    return loaded, Loaders(judge=load, scorer=load, matcher=load)  # type: ignore[arg-type]


def test_each_is_loaded_once_and_only_when_asked_for() -> None:
    loaded, load = watched()
    networks = ScoringNetworks(ScoresConfig(clip="toybox"), load)
    assert loaded == []
    assert networks.judge is networks.judge and loaded == ["toybox-a"]
    assert networks.choosing_judge is networks.second_judge
    assert networks.clip is networks.clip and loaded == ["toybox-a", "toybox-b", "toybox"]
    assert networks.matcher is None and len(loaded) == 3


def test_what_is_off_is_not_loaded() -> None:
    loaded, load = watched()
    networks = ScoringNetworks(ScoresConfig(clip=None, matcher="wordllama"), load)
    assert networks.clip is None and networks.matcher is not None and loaded == ["wordllama"]


def test_a_judge_by_another_name_does_not_choose() -> None:
    networks = ScoringNetworks(ScoresConfig(), Loaders(judge=ColourJudge))
    with pytest.raises(ConfigError, match="must be another judge than"):
        _ = networks.choosing_judge
    assert networks.second_judge.name == "toybox-b"
