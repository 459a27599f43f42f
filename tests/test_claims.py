"""`bench/claims.py` on made-up numbers: the choice of guidance, the algebra, tables and words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selma.config import RunConfig
from selma.finished import NotFinished
from selma.pipeline import Stages
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import Interval
from selma.scores.measures import DSG
from selma.scores.model_score import ModelIntervals
from selma.workspace import Workspace

BENCH = Path(__file__).parents[1] / "bench"
STYLES = ("tags", "count")
PROMPTS = [
    BenchmarkPrompt(
        id=f"{style}-{number}",
        text="a red dog",
        group=style,
        questions=(
            Question(id="1", text="is there a dog?", category="entity"),
            Question(id="2", text="is the dog red?", category="colour", parents=("1",)),
        ),
    )
    for style in STYLES
    for number in range(20)
]
MODELS = ("base", "toybox_tags", "toybox_count", "merged")


@pytest.fixture(scope="module")
def claimed() -> Iterator[Any]:
    """The module beside `claims.py`, which imports it as a script does."""
    sys.path.insert(0, str(BENCH))
    yield import_module("claimed")
    sys.path.remove(str(BENCH))


def curve(claimed: Any, **scores: float) -> dict[Any, float]:
    """g3=70 is plain guidance 3, r3=70 rescaled."""
    return {
        claimed.Setting.of(float(name[1:]), rescaled=name[0] == "r"): score
        for name, score in scores.items()
    }


def points(share: float, colours: float | None = None) -> dict[str, dict[str, float]]:
    """That share of each style's dogs is there, and of the colours right, or as many."""
    right = share if colours is None else colours
    return {
        prompt.id: {"1": float(number % 20 < 20 * share), "2": float(number % 20 < 20 * right)}
        for number, prompt in enumerate(PROMPTS)
    }


def made_up(claimed: Any, merged: dict[str, dict[str, float]]) -> Any:
    curves = dict.fromkeys(MODELS, curve(claimed, g1=50, g3=60, g7=55, r3=58, r7=62))
    intervals = ModelIntervals(PROMPTS, DSG, seeds=1, seed=0, resamples=200, detailed=False)
    base = points(0.5)
    of_model = {"base": base, "toybox_tags": points(0.6), "toybox_count": base, "merged": merged}
    scores = {
        model: intervals.model_score(
            model,
            claimed.ROLES.get(model, "expert"),
            of,
            None,
            base=None if model == "base" else (base, None),
        )
        for model, of in of_model.items()
    }
    settings = claimed.settings_on_test(curves, 3.0)
    gain = Interval(mean=2, low=1, high=3, n=40)
    return claimed.Claims(
        about="made up",
        training_guidance=3.0,
        curves=curves,
        ideal={1.0: 70.0, 3.0: 90.0, 7.0: 95.0},
        settings=settings,
        test=dict.fromkeys(settings, scores),
        gains={1.0: gain, 3.0: gain},
        own_experts=None,
    )


def test_without_guidance_nothing_is_rescaled(claimed: Any) -> None:
    assert claimed.Setting.of(1.0, rescaled=True) == claimed.Setting.of(0.0) == claimed.Setting(1.0)


def test_the_best_guidance_is_the_lowest_plain_one_of_equals(claimed: Any) -> None:
    scores = curve(claimed, g1=60, g3=70, g5=70, r2=70, r3=69)
    assert str(claimed.best(scores)) == "3"
    assert str(claimed.best(claimed.offered(scores, "rescaled"))) == "2 rescaled"


def test_no_guidance_is_offered_with_rescaled_ones(claimed: Any) -> None:
    scores = curve(claimed, g1=70, g3=75, r3=65)
    assert str(claimed.best(claimed.offered(scores, "rescaled"))) == "1"


def test_each_model_is_compared_at_its_own_best(claimed: Any) -> None:
    curves = {
        "base": curve(claimed, g1=60, g3=70, r3=71),
        "merged": curve(claimed, g1=69, g3=68, r3=60),
    }
    settings = claimed.settings_on_test(curves, 3.0)
    shown = {name: [str(of[m]) for m in ("base", "merged")] for name, of in settings.items()}
    assert shown == {
        "no guidance": ["1", "1"],
        "training guidance, 3": ["3", "3"],
        "own best": ["3", "1"],
        "own best, rescaled": ["3 rescaled", "1"],
        "own best of both": ["3 rescaled", "1"],
    }


@pytest.mark.parametrize(
    ("guidance", "training", "gain"),
    [
        (1, 3, 10),  # 70 - 60
        (1, 1, 0),  # images without guidance teach nothing
        (1, 0, 0),
        (1, 2, 5),  # half of the way from 1 to 3
        (3, 2, -1),  # 69 at 6, between 70 and 68, minus 70
        (3, 3, None),  # 9 is not measured
        (2, 3.5, 3),  # 68 - 65
    ],
)
def test_the_student_is_the_base_at_the_product(
    claimed: Any, guidance: float, training: float, gain: float | None
) -> None:
    base = curve(claimed, g1=60, g3=70, g5=70, g7=68, r3=0, r7=0)
    assert claimed.predicted_gain(base, guidance, training) == gain


def test_own_expert_is_held_against_the_others_on_its_prompts(claimed: Any) -> None:
    experts = {"tags": {p.id: 0.75 for p in PROMPTS}, "count": {p.id: 0.5 for p in PROMPTS}}
    change = claimed.own_minus_others(PROMPTS, experts)
    assert change == {p.id: 0.25 if p.group == "tags" else -0.25 for p in PROMPTS}
    assert claimed.own_minus_others(PROMPTS, {"tags": experts["tags"]}) == {}


@pytest.mark.parametrize(
    ("merged", "verdict", "where"),
    [
        (points(0.9), "Gained (own best): the merged model at guidance 3 scores 90.0", "+40.0"),
        (points(0.1), "Lost (own best)", "−40.0"),
        (points(0.5), "Nothing was gained (own best)", "zero: none."),
        (
            points(0.5, 0.1),
            "Lost (own best)",
            "zero: colour −40.0, tags prompts −20.0, count prompts −20.0.",
        ),
    ],
)
def test_the_headline_says_what_was_gained_and_where(
    claimed: Any, merged: dict[str, dict[str, float]], verdict: str, where: str
) -> None:
    text = claimed.sentences(made_up(claimed, merged))[0]
    assert text.startswith(verdict) and where in text


def test_tables_fit_and_hold_every_model_and_number(claimed: Any) -> None:
    claims = made_up(claimed, points(0.9))
    tables = {sheet.title.split(":")[1]: sheet for sheet in claimed.sheets(claims)}
    assert [len(sheet.rows) for sheet in tables.values()] == [9, 4, 3, 2, 2]
    dev, test, experts, _, algebra = tables.values()
    assert list(dev.rows[1]) == ["base, rescaled", "50.0", "58.0", "62.0", "7"]
    assert list(dev.rows[2]) == ["ideal sampler", "70.0", "90.0", "95.0", ""]
    assert test.rows[0][3:] == ["50.0 at 3", "50.0 at 7 rescaled"]
    assert test.rows[3][1].startswith("90.0,\n+40.0 (")
    assert [row[-1] for row in experts.rows] == ["yes", "no", ""]
    assert [row[:3] for row in algebra.rows] == [["1", "3", "+10.0"], ["3", "9", "-"]]
    console = Console(width=120, record=True, file=StringIO())
    for sheet in tables.values():
        console.print(sheet.rich())
    assert "…" not in console.export_text()


def test_markdown_and_json_hold_the_same(claimed: Any) -> None:
    claims = made_up(claimed, points(0.9))
    text, numbers = claimed.as_markdown(claims), claimed.as_json(claims)
    assert numbers["sentences"][0] in text
    assert numbers["test"]["own best"]["merged"]["guidance"] == "3"
    assert numbers["algebra"]["1"]["predicted"] == 10
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 9 + 4 + 3 + 2 + 2 + 2 * 5


def test_a_benchmark_is_generated_at_another_guidance(tmp_path: Path) -> None:
    config = RunConfig(name="run", folder=tmp_path)
    with pytest.raises(NotFinished) as missing:
        Stages(config, Workspace(tmp_path), make=[]).generate("base", guidance=2.5)
    assert missing.value.item.recipe["guidance"] == 2.5
