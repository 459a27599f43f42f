"""What would end a run after all images were made and judged is found before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selma.config import RunConfig
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError
from selma.preflight import check
from selma.records.scores import Interval, ModelScore, Scorecard
from selma.report.tables import conclusion

HEAD = (
    "item_id,text,proposition_id,dependency,category_broad,category_detailed,"
    "question_natural_language\n"
)


def mistakes(further: dict[str, Any], **experts: Any) -> str:
    raw = {"name": "x", "scores": {"prompts": 4, "further": {"f": further}}, "experts": experts}
    with pytest.raises(ConfigError) as caught:
        check(RunConfig.model_validate(raw))
    return str(caught.value)


def test_released_rules_that_count_nothing(tmp_path: Path) -> None:
    (tmp_path / "dpg_one.csv").write_text(HEAD + "0,a mill,1,0,entity,whole,Is there a mill?\n")
    says = mistakes({"benchmark": str(tmp_path / "dpg_one.csv"), "rules": "released"})
    assert "scores.further.f.rules: released rules count none of the 1 prompt" in says


def test_prompts_without_a_skill_by_genai_benchs_rules(tmp_path: Path) -> None:
    row = {"id": "00000", "prompt": "a jar", "models": {}}
    (tmp_path / "genai_image.json").write_text(json.dumps({"00000": row}))
    says = mistakes({"benchmark": str(tmp_path), "rules": "released"})
    assert "count none" in says or "no skill" in says


def test_dependencies_that_a_program_does_not_read(tmp_path: Path) -> None:
    rows = (
        "0,a mill,1,0,entity,whole,Is there a mill?\n"
        '0,a mill,2,"1, right",attribute,color,Is it green?\n'
    )
    (tmp_path / "dpg_words.csv").write_text(HEAD + rows)
    says = mistakes({"benchmark": str(tmp_path / "dpg_words.csv"), "rules": "released"})
    assert "scores.further.f" in says and "numbers" in says


def test_ids_that_are_anothers_second_image(tmp_path: Path) -> None:
    rows = (
        "a,a mill,1,0,entity,whole,Is there a mill?\na-1,a jar,1,0,entity,whole,Is there a jar?\n"
    )
    (tmp_path / "own.csv").write_text(HEAD + rows)
    says = mistakes({"benchmark": str(tmp_path / "own.csv"), "seeds": 2})
    assert "scores.further.f.benchmark: Prompt 'a-1' has the name of another prompt's" in says


def test_no_benchmark_reports_on_what_is_chosen_on() -> None:
    says = mistakes({"benchmark": "toybox", "split": "dev"}, select="dev")
    assert "scores.further.f: 64 prompts are among those that experts.select chooses on" in says
    raw = {"name": "x", "scores": {"split": "dev"}, "experts": {"select": "dev"}}
    with pytest.raises(ConfigError, match="scores: 64 prompts are among"):
        check(RunConfig.model_validate(raw))
    del raw["experts"]
    check(RunConfig.model_validate(raw))  # nothing is chosen


def test_names_that_one_file_system_takes_for_one() -> None:
    with pytest.raises(ValueError, match="named 'a' but for their case"):
        ScoresConfig.model_validate({"further": {"a": {}, "A": {}}})


def card(unread: int) -> Scorecard:
    same = Interval(mean=0, low=0, high=0, n=4, standard_error=0)
    models = [
        ModelScore(model=name, role=name, score=same, score_by_question=0, categories={},
                   groups={}, per_prompt={}, unreadable=unread,
                   difference=same if name == "merged" else None)
        for name in ("base", "merged")
    ]  # fmt: skip
    return Scorecard(benchmark="b", split="all", judge="j", prompts=4, questions=10,
                     models=tuple(models))  # fmt: skip


def test_answers_that_nobody_could_read_are_no_finding() -> None:
    headline, meaning = conclusion(card(10))
    assert headline.startswith("No answer about base and merged model could be read")
    assert meaning.startswith("20 of 20 answers about both could not be read")
    headline, meaning = conclusion(card(2))
    assert headline.startswith("The merged model scores as the base")
    assert meaning.startswith("4 of 20 answers")
    assert "could not be read" not in conclusion(card(0))[1]
