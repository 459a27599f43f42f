"""Several benchmarks and judges in one run: one scorecard, one page, nothing made twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_judges
from rich.console import Console
from scores.colours import benchmark_prompts, write_benchmark

from pipeline.killing import finished, settings
from pipeline.server import serving
from selma import pipeline
from selma.config import RunConfig
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError
from selma.preflight import check
from selma.records.scores import Scorecard
from selma.report.tables import print_scorecard
from selma.runfile import read_settings
from selma.scores.benchmarks import all_texts, load_benchmark
from selma.scores.scoring import score_models
from selma.status import statuses
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """Settings of a run with three benchmarks and two judges."""
    folder = tmp_path_factory.mktemp("several")
    tiny.build("sd1", folder / "base")
    write_benchmark(folder / "own.csv", benchmark_prompts(5))
    other = {"kind": "transformers", "model": str(tiny_judges.folder("blip"))}
    with serving() as address:
        raw: dict[str, Any] = settings(folder, address, run="run")
        raw["scores"] |= {
            "experts": False,
            "further": {
                "own": {"benchmark": str(folder / "own.csv"), "prompts": 3, "seeds": 2,
                        "judge": other, "zeroing": "none"},
                "again": {"benchmark": "toybox", "prompts": 6, "judge": other},
                "own-again": {"benchmark": str(folder / "own.csv"), "prompts": 3, "seeds": 2},
            },
        }  # fmt: skip
        yield RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def outcome(run: RunConfig) -> pipeline.Outcome:
    before = [(each.name, each.state) for each in statuses(run) if each.stage == "5-scores"]
    assert [name for name, state in before if state == "missing"] == [
        "images/base", "benchmarks/own/images/base"
    ]  # fmt: skip
    assert ("benchmarks/again/scorecard", "waits") in before
    return pipeline.run_stages(run)


def test_each_is_scored_as_its_settings_say(outcome: pipeline.Outcome, run: RunConfig) -> None:
    card = outcome.scorecard
    own, again = card.further["own"], card.further["again"]
    assert (card.benchmark, card.judge, card.prompts) == ("toybox", "toybox-a", 6)
    blip = tiny_judges.folder("blip").name
    assert (own.benchmark, own.judge, own.prompts, own.seeds) == ("own.csv", blip, 3, 2)
    assert (own.zeroing, again.zeroing, again.judge) == ("none", "cascading", blip)
    for part in (card, own, again):
        assert [model.model for model in part.models] == ["base", "merged"]
        assert part.second_judge == "toybox-b"
    # The same prompts by another judge: the same images, and another's answers.
    scores = Path(run.run_folder) / "5-scores"
    assert len(list((scores / "benchmarks/own/images/base").glob("*.png"))) == 6
    assert not (scores / "benchmarks/again/images").exists()
    assert not (scores / "benchmarks/own-again/images").exists()
    first, second = (
        [json.loads(line) for line in (at / "answers/base/answers.jsonl").read_text().splitlines()]
        for at in (scores, scores / "benchmarks/again")
    )
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    assert [row["answers"] for row in first] != [row["answers"] for row in second]


def test_a_further_benchmark_scores_as_it_does_alone(
    outcome: pipeline.Outcome, run: RunConfig, tmp_path: Path
) -> None:
    alone, images = run.scores.of("own"), Path(run.run_folder) / "5-scores/benchmarks/own/images"
    card = score_models(
        load_benchmark(alone),
        {model: images / model for model in ("base", "merged")},
        alone,
        Workspace(tmp_path),
        roles={"base": "base", "merged": "merged"},
        seed=run.seed,
        guidance=run.benchmark_guidance,
    )
    assert card == outcome.scorecard.further["own"]


def test_a_second_run_makes_nothing_and_status_says_so(
    outcome: pipeline.Outcome, run: RunConfig
) -> None:
    there = finished(Path(run.run_folder))
    assert pipeline.score(run) == outcome.scorecard
    assert pipeline.scorecard(run) == outcome.scorecard
    assert pipeline.report(run) == outcome.page
    assert finished(Path(run.run_folder)) == there
    assert {each.state for each in statuses(run)} == {"done"}
    raw = read_settings(Path(run.run_folder))  # paths in it are the run's own
    assert raw["scores"]["further"]["own"]["benchmark"] == "../own.csv"


def test_a_changed_further_benchmark_leaves_the_others(
    outcome: pipeline.Outcome, run: RunConfig
) -> None:
    further = run.scores.further
    fewer = {**further, "own": further["own"].model_copy(update={"prompts": 2})}
    scores = run.scores.model_copy(update={"further": fewer})
    changed = run.model_copy(update={"scores": scores})
    states = {each.name: each.state for each in statuses(changed) if each.stage == "5-scores"}
    assert states.pop("benchmarks/own/images/base") == "other settings"
    assert states.pop("benchmarks/own/images/merged") == "other settings"
    assert states.pop("benchmarks/own/scorecard") == states.pop("scorecard") == "waits"
    # It has images of its own now, which were the other's.
    assert states.pop("benchmarks/own-again/images/base") == "missing"
    assert states.pop("benchmarks/own-again/images/merged") == "missing"
    assert states.pop("benchmarks/own-again/scorecard") == "waits"
    assert set(states.values()) == {"done"}


def test_a_benchmark_added_to_a_finished_run_makes_no_prompt_again(
    outcome: pipeline.Outcome, run: RunConfig, tmp_path: Path
) -> None:
    trained_on = next(iter(pipeline.prompts(run).values()))[0].text
    asked = [benchmark_prompts(5)[0].model_copy(update={"text": trained_on})]
    write_benchmark(tmp_path / "late.csv", [*asked, *benchmark_prompts(3)[1:]])
    there = finished(Path(run.run_folder))

    def with_late(**more: Any) -> RunConfig:
        raw = run.scores.model_dump(mode="json")
        raw["further"]["late"] = {"benchmark": str(tmp_path / "late.csv"), **more}
        return run.model_copy(update={"scores": ScoresConfig.model_validate(raw)})

    late = with_late(kept_from_training=False)
    states = {(each.stage, each.name): each.state for each in statuses(late)}
    added = {name: state for name, state in states.items() if state != "done"}
    assert {state for (stage, _), state in added.items()} == {"missing", "waits"}
    assert {stage for stage, _ in added} == {"5-scores", "6-report"}
    card = pipeline.score(late)
    assert card.further["late"].near_training == 1
    kept = {path: is_at for path, is_at in there.items() if "5-scores/scorecard" not in str(path)}
    assert kept.items() <= finished(Path(run.run_folder)).items()
    # One that is to be kept from training would have others written.
    assert any(each.state == "other settings" for each in statuses(with_late())
               if each.stage == "1-prompts")  # fmt: skip
    assert pipeline.score(run) == outcome.scorecard


def test_a_further_image_that_is_damaged_is_made_again(
    outcome: pipeline.Outcome, run: RunConfig
) -> None:
    image = next((Path(run.run_folder) / "5-scores/benchmarks/own/images/merged").glob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(whole[:-20])
    assert pipeline.score(run) == outcome.scorecard
    assert image.read_bytes() == whole


def test_the_page_and_the_terminal_show_all(outcome: pipeline.Outcome, run: RunConfig) -> None:
    page = outcome.page.read_text()
    for name in ("own", "again", "own-again"):
        assert f'id="benchmark-{name}"' in page
    head = page[page.index('id="benchmarks"') : page.index("<details id=")]
    assert head.count("<tr>") == 5 and head.count("toybox-a") == 2  # a row each, below the headers
    console = Console(width=100, record=True)
    print_scorecard(outcome.scorecard, console)
    text = console.export_text()
    assert text.index("toybox (test)") < text.index("again:") < text.index("own.csv")
    assert Scorecard.model_validate_json(outcome.scorecard.model_dump_json()) == outcome.scorecard


def test_no_prompt_of_any_benchmark_is_trained_on(run: RunConfig, tmp_path: Path) -> None:
    assert {prompt.text for prompt in benchmark_prompts(5)} <= set(all_texts(run.scores))
    own = str(tmp_path / "own.csv")
    write_benchmark(tmp_path / "own.csv", benchmark_prompts(3))
    shared = run.scores.model_copy(update={"dev_benchmark": own})
    with pytest.raises(ConfigError, match="other prompts than those that are scored"):
        load_benchmark(shared, split="dev")


@pytest.mark.parametrize(
    ("further", "says"),
    [
        ({"benchmark": "gone.csv"}, "scores.further.x.benchmark: must be toybox or a file"),
        ({"prompts": 9999}, "scores.further.x.prompts must be at most"),
        ({"groups": ["none"]}, "scores.further.x.groups must name groups"),
        ({"rules": "released"}, "scores.further.x"),
        ({"judge": {"kind": "transformers", "model": "/nowhere/judge"}}, "scores.further.x.judge"),
        ({"vqascore": "no place for it"}, "scores.further.x.vqascore"),
    ],
)
def test_each_mistake_names_its_setting(run: RunConfig, further: Any, says: str) -> None:
    scores = ScoresConfig.model_validate({"prompts": 6, "further": {"x": further}})
    with pytest.raises(ConfigError) as caught:
        check(run.model_copy(update={"scores": scores}))
    assert says in str(caught.value)


def test_who_chooses_reports_nowhere_and_names_stay_inside() -> None:
    with pytest.raises(ValueError, match=r"further\.x\.judge and choosing_judge must differ"):
        ScoresConfig.model_validate({"further": {"x": {"judge": "toybox-b"}}})
    for name in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="further"):
            ScoresConfig.model_validate({"further": {name: {}}})


def test_a_folder_within_a_stage_is_of_the_same_run(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    inner = folder.within("5-scores", "benchmarks", "x")
    assert inner.item("5-scores", "scorecard", recipe={}).name == "5-scores/benchmarks/x/scorecard"
    assert inner.item("4-merged", recipe={}).name == "4-merged"
    assert folder.folder_of("5-scores", "y") == folder.root / "5-scores/y"
