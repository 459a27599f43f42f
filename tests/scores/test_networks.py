"""A run's scoring networks are loaded when asked for, once, by the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scores.colours import ColourJudge

from selma.backbones.judges.loading import same_weights
from selma.config import RunConfig
from selma.config.scores import LocalJudge, ScoresConfig
from selma.errors import ConfigError
from selma.preflight import check
from selma.scores.networks import Loaders, ScoringNetworks
from selma.workspace import SCORES


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


def test_weights_under_two_names_are_one_judge(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "other", "empty")]
    for folder, content in zip(folders, ("same", "same", "else", None), strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "blip", "of": folder.name}))
        if content is not None:
            (folder / f"{folder.name}.safetensors").write_text(content)
    a, b, other, empty = (LocalJudge(model=str(folder)) for folder in folders)
    assert same_weights(a, b.model_copy(update={"prompt": "Is it so? {question}"}))
    assert not same_weights(a, other) and not same_weights(empty, empty)
    assert not same_weights(a, LocalJudge(model="owner/name"))
    assert same_weights("toybox-a", "toybox-a") and not same_weights("toybox-a", "toybox-b")

    scores = ScoresConfig(judge=a, choosing_judge=b)
    judges = {
        str(folder): ColourJudge(folder.name, threshold=n) for n, folder in enumerate(folders)
    }
    networks = ScoringNetworks(scores, Loaders(judge=lambda judge: judges[judge.model]))
    assert networks.judge.fingerprint != networks.second_judge.fingerprint
    with pytest.raises(ConfigError, match=r"same weights.* Name a judge of other weights"):
        _ = networks.choosing_judge
    config = RunConfig(name="one", folder=str(tmp_path / "run"), scores=scores)
    with pytest.raises(ConfigError, match="both have the same weights"):
        check(config, [SCORES])


def test_a_judge_by_another_name_does_not_choose() -> None:
    networks = ScoringNetworks(ScoresConfig(), Loaders(judge=ColourJudge))
    with pytest.raises(ConfigError, match="must be another judge than"):
        _ = networks.choosing_judge
    assert networks.second_judge.name == "toybox-b"
