"""Preference scorers in the stage: one item for each model, differences, win rates, the mark."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from backbones.preference_files import clip_folder
from PIL import Image
from scores.colours import ColourJudge, benchmark_prompts

from selma.backbones.preference.scorers import load_preference
from selma.config.scores import PreferenceConfig, ScoresConfig
from selma.errors import DataError
from selma.records.scores import Scorecard
from selma.scores.answering import read_clip_file
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import score_models
from selma.workspace import Workspace, file_sha256

BENCHMARK = benchmark_prompts(10)
MODELS = ("base", "merged")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture
def folder(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def images(folder: Workspace) -> dict[str, Path]:
    """Noise, another for each model; the first three prompts' images are the same for both."""
    generated = {}
    for number, model in enumerate(MODELS):
        item = folder.item("5-scores", "images", model, recipe={"model": model})
        item.begin()
        for i, prompt in enumerate(BENCHMARK):
            noise = np.random.default_rng([i, number if i > 2 else 0])
            pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(item.path / f"{prompt.id}.png")
        item.finish(item.path.glob("*.png"), {})
        generated[model] = item.path
    return generated


def settings(clip: Path, **changed: object) -> ScoresConfig:
    scorers = (
        PreferenceConfig(kind="pickscore", model=str(clip), device="cpu"),
        PreferenceConfig(kind="clip", model=str(clip), device="cpu", label="clip-large"),
    )
    return ScoresConfig(resamples=300, clip=None, preferences=scorers).model_copy(update=changed)


def score(folder: Workspace, images: dict[str, Path], config: ScoresConfig) -> Scorecard:
    return score_models(
        BENCHMARK, images, config, folder, roles={m: m for m in MODELS}, seed=1,
        networks=ScoringNetworks(config, Loaders(judge=ColourJudge)),
    )  # fmt: skip


def test_each_model_is_compared_with_the_base_prompt_by_prompt(
    folder: Workspace, images: dict[str, Path], clip: Path
) -> None:
    card = score(folder, images, settings(clip))
    base, merged = card.models
    for label in ("pickscore", "clip-large"):
        rows = {
            model: read_clip_file(folder.root / "5-scores" / "preferences" / label / model)
            for model in MODELS
        }
        after, before = np.array(rows["merged"]), np.array(rows["base"])
        assert (after[:3] == before[:3]).all() and (after[3:] != before[3:]).all()
        assert merged.preferences[label].mean == pytest.approx(after.mean())
        assert base.preferences[label].mean == pytest.approx(before.mean())
        change = merged.preference_differences[label]
        assert change.mean == pytest.approx((after - before).mean(), abs=1e-6)
        wins = merged.win_rates[label]
        assert wins.mean == pytest.approx(10 * ((after > before).sum() + 1.5)) and wins.n == 10
        assert wins.low <= wins.mean <= wins.high
    assert base.win_rates == base.preference_differences == {}
    # Both are the same network on another scale, so that both agree on who wins.
    assert merged.win_rates["pickscore"] == merged.win_rates["clip-large"]


def test_a_number_comes_with_version_scale_and_preprocessing(
    folder: Workspace, images: dict[str, Path], clip: Path
) -> None:
    card = score(folder, images, settings(clip))
    assert [about.name for about in card.preferences] == ["PickScore v1", "CLIP score"]
    for about in card.preferences:
        assert about.scale and about.preprocessing and about.weights == "clip"
        assert not about.chose
    text = (folder.root / "5-scores" / "scorecard" / "scorecard.json").read_text("utf-8")
    assert str(clip.parent) not in text


def test_a_scorer_that_chose_is_marked_and_the_run_warns(
    folder: Workspace, images: dict[str, Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(folder, images, settings(clip))
    assert "Warning" not in capsys.readouterr().err
    card = score(folder, images, settings(clip, chosen_by=("pickscore",)))
    assert [about.chose for about in card.preferences] == [True, False]
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning: pickscore" in said and "no independent evidence" in said


def files(folder: Workspace) -> dict[str, str]:
    root = folder.root / "5-scores" / "preferences"
    return {str(p.relative_to(root)): file_sha256(p) for p in root.rglob("*") if p.is_file()}


def test_what_is_scored_is_not_scored_again(
    folder: Workspace, images: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    first = score(folder, images, settings(clip))
    before = files(folder)
    loaded = []

    class Watched(type(load_preference(settings(clip).preferences[0]))):  # type: ignore[misc]
        def score(self, *arguments: object) -> list[float]:
            loaded.append(self.name)
            return super().score(*arguments)

    def load(setting: PreferenceConfig) -> object:
        scorer = load_preference(setting)
        scorer.__class__ = Watched
        return scorer

    def again(config: ScoresConfig) -> Scorecard:
        return score_models(
            BENCHMARK, images, config, folder, roles={m: m for m in MODELS}, seed=1,
            networks=ScoringNetworks(config, Loaders(judge=ColourJudge, preference=load)),
        )  # fmt: skip

    assert again(settings(clip)) == first and not loaded and files(folder) == before
    # The same weights elsewhere, on another device: nothing that matters has changed.
    moved = Path(shutil.copytree(clip, tmp_path / "moved" / "clip"))
    assert again(settings(moved)) == first and not loaded
    # One scorer's weights are others: that one alone is asked.
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    mixed = (settings(clip).preferences[0], settings(moved).preferences[1])
    again(settings(clip, preferences=mixed))
    assert loaded == ["CLIP score"] * 2


def test_a_broken_image_is_named(folder: Workspace, images: dict[str, Path], clip: Path) -> None:
    score(folder, images, settings(clip, preferences=()))
    (images["merged"] / "p004.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"p004\.png"):
        score(folder, images, settings(clip))
