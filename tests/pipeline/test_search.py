"""A run whose merge weights are searched: by the judge that never reports, and told on test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from pipeline.killing import settings, tree
from pipeline.server import serving
from selma import pipeline
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.status import statuses


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    tiny.build("sd1", folder / "base")
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


def config(place: Path, address: str, **different: object) -> RunConfig:
    raw = settings(place, address, run="searched")
    raw["merged"] = {"search": {"trials": 4, "spread": 2.0}}
    raw["experts"] |= {"learning_rate": 0.1}  # type: ignore[operator]
    raw["scores"] |= {"dev_prompts": 3, "experts": False}  # type: ignore[operator]
    return RunConfig.model_validate(raw | different)


def test_a_run_searches_its_weights_and_holds_them_against_uniform_ones(
    place: Path, address: str
) -> None:
    one = config(place, address)
    pipeline.run(one)
    merged = one.run_folder / "4-merged"
    summary = json.loads((merged / "manifest.json").read_text())["summary"]
    assert len(summary["trials"]) == 4
    card = pipeline.scorecard(one)
    names = [model.model for model in card.models]
    page = (one.run_folder / "6-report" / "index.html").read_text()
    assert "Weights by score" in page
    if summary["chosen"]["trial"]:
        assert names == ["base", "uniform", "merged"]
        (pair,) = card.comparisons
        assert (pair.model, pair.against, pair.difference.n) == ("merged", "uniform", 6)
        points = {model.model: model.score.mean for model in card.models}
        gap = points["merged"] - points["uniform"]
        assert pair.difference.mean == pytest.approx(gap, abs=1e-5)
        assert "merged minus uniform" in page
    else:
        assert names == ["base", "merged"] and card.comparisons == ()
    assert {found.state for found in statuses(one)} == {"done"}
    generated = {path.name for path in (one.run_folder / "5-scores" / "images").iterdir()}
    assert generated == set(names), "the pictures of merges that were only tried are gone"
    before = tree(one.run_folder)
    pipeline.run(one)
    assert tree(one.run_folder) == before


def test_the_reporting_judge_chooses_no_weights(place: Path, address: str) -> None:
    raw = config(place, address).model_dump(mode="json")
    raw["scores"]["choosing_judge"] = raw["scores"]["judge"]
    with pytest.raises(ValueError, match="judge and choosing_judge must differ"):
        RunConfig.model_validate(raw)
    # Two names for the same weights are found where the judges are opened.
    one = config(place, address)
    same = one.scores.model_copy(update={"choosing_judge": "toybox-a"})
    with pytest.raises(ConfigError, match="another judge than"):
        pipeline.merge(one.model_copy(update={"scores": same}))


def test_a_benchmark_without_dev_prompts_searches_nothing(place: Path, address: str) -> None:
    benchmark_prompts = place / "mine.csv"
    benchmark_prompts.write_text("item_id,text\n1,a cat\n")
    one = config(place, address)
    scores = one.scores.model_copy(update={"benchmark": str(benchmark_prompts)})
    with pytest.raises(ConfigError, match=r"merged\.search: a file has no dev prompts"):
        pipeline.merge(one.model_copy(update={"scores": scores}))
