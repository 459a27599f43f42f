"""The paper's tables: its figures as printed, ours beside them, nothing where nothing is ours."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from report.test_page import Parsed
from report.world import findings

from selma.config import ReportConfig
from selma.config.scores import ScoresConfig
from selma.records.report import Findings
from selma.records.scores import Interval, ScorerInfo
from selma.report import page, paper
from selma.report.beside import Beside, Row, beside
from selma.scores.benchmarks import load_benchmark
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import read_answers, score_models
from selma.workspace import Workspace

SHARED = Path(__file__).parents[3] / "shared"
FACTS, DSG = SHARED / "facts" / "method-selma.md", SHARED / "data" / "dsg"
CONFIG = ReportConfig(grid_prompts=2, training_pairs=1)
PRINTED = (paper.TABLE_1, paper.TABLE_5, paper.TABLE_6, paper.TABLE_7)
BASES = {"sd14": "SD v1.4", "sd2": "SD v2", "sdxl": "SDXL"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(tmp_path_factory.mktemp("world"), prompts=6, merged=0.3)


def at(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 1, high=mean + 1, n=20)


def changed(found: Findings, update: Callable[[str], dict[str, Any]], **card: Any) -> Findings:
    """With other scores of the base and the merged model, and on other words of the card."""
    models = tuple(m.model_copy(update=update(m.role)) for m in found.scorecard.models)
    new = found.scorecard.model_copy(update={"models": models, **card})
    return dataclasses.replace(found, scorecard=new)


def on_base(found: Findings, model: str) -> Findings:
    return dataclasses.replace(found, settings={**found.settings, "base": {"model": model}})


def on_dsg(found: Findings, **card: Any) -> Findings:
    def update(role: str) -> dict[str, Any]:
        if role == "base":
            return {"by_question": at(61.5), "details": {"color": at(44.4)},
                    "preferences": {"p": at(20.123)}}  # fmt: skip
        return {"by_question": at(67.5), "details": {"color": at(55.5)},
                "by_question_difference": at(6.0), "detail_differences": {"color": at(11.1)},
                "preferences": {"p": at(20.456)}, "preference_differences": {"p": at(0.333)},
                "win_rates": {"p": at(55)}}  # fmt: skip

    scorer = ScorerInfo(
        label="p", name="PickScore v1", scale="s", preprocessing="x", weights="some/weights",
        fingerprint="0" * 16, chose=True,
    )  # fmt: skip
    told = {"published": "dsg-1k", "preferences": (scorer,)} | card
    return changed(found, update, **told)


def rows(table: Beside, base: str) -> list[Row]:
    return list(next(block.rows for block in table.blocks if block.base == base))


def texts(row: Row) -> list[str]:
    return [cell.text if cell else "–" for cell in row.cells]


@pytest.mark.skipif(not FACTS.exists(), reason=f"the paper's figures: not in {FACTS.parent}")
def test_the_figures_are_the_papers() -> None:
    block = re.search(r"```yaml\n(table1:.*?)```", FACTS.read_text("utf-8"), re.DOTALL)
    assert block
    facts = yaml.safe_load(block[1])
    for key, name in BASES.items():
        one = {method or "base": list(c) for method, c in paper.TABLE_1.rows[name].items()}
        assert one == facts["table1"][key]
        for table in (paper.TABLE_5, paper.TABLE_6, paper.TABLE_7):
            whole = facts[f"table{table.number}"]
            assert list(table.rows[name][""]) == whole[key]
            assert list(table.rows[name]["SELMA"]) == whole[f"{key}+SELMA"]
    assert {name: list(votes) for name, votes in paper.VOTES.items()} == facts["table8"]


def test_the_notes_about_the_figures_hold() -> None:
    for table in PRINTED:
        for of_base in table.rows.values():
            assert {len(c) for c in of_base.values()} == {len(table.columns)}
            assert len(table.decimals) == len(table.columns)
    impossible = {
        (base, method): [
            name
            for (name, n), value in zip(paper.DSG_QUESTIONS.items(), cells, strict=False)
            if not any(abs(100 * k / n - value) <= 0.0501 for k in range(n + 1))
        ]
        for base, of_base in paper.TABLE_7.rows.items()
        for method, cells in of_base.items()
    }
    assert len(impossible.pop(("SD v2", "SELMA"))) == 8
    assert impossible.pop(("SD v1.4", "SELMA")) == ["material"]
    assert not any(impossible.values())
    win, lose, _ = paper.VOTES["All"]
    splits = [votes for name, votes in paper.VOTES.items() if name != "All"]
    assert round(100 * win / (win + lose), 1) == 67.9
    assert (sum(v[0] for v in splits), sum(v[0] + v[1] for v in splits)) == (107, 140)


def test_nothing_is_shown_of_toyboxs_own_benchmark(found: Findings) -> None:
    assert beside(found) == []
    html = page.render(found, CONFIG)
    assert 'id="paper"' not in html and 'href="#paper"' not in html and "SynGen" not in html


def test_a_run_on_dsg_1k_stands_in_tables_1_and_7(found: Findings) -> None:
    one, seven = beside(on_base(on_dsg(found), "sdxl"))
    assert (one.printed.number, seven.printed.number) == (1, 7)
    assert [block.base for block in one.blocks] == ["SDXL", "SD v1.4", "SD v2"]
    mine = rows(one, "SDXL")
    assert [(row.name, row.ours) for row in mine] == [
        ("base", True), ("base", False), ("+ DreamSync", False),
        ("merged (mean of deltas)", True), ("+ SELMA", False),
        ("merged minus base", True), ("SELMA minus base", False),
    ]  # fmt: skip
    assert texts(mine[0]) == ["61.5", "–", "20.12", "–", "–"]
    assert texts(mine[1]) == ["73.3", "83.5", "21.6", "0.70", "26.2"]
    assert texts(mine[2]) == ["–", "85.2", "–", "0.84", "–"]
    assert texts(mine[5]) == ["+6.0", "–", "+0.33", "–", "–"]
    assert texts(mine[6]) == ["+6.9", "+2.1", "+0.4", "+0.39", "+3.7"]
    assert mine[0].cells[0] and mine[0].cells[0].ends == "60.5 to 62.5"
    assert not any(cell.ends for row in mine if not row.ours for cell in row.cells if cell)
    assert not any(row.ours for block in one.blocks[1:] for row in block.rows)
    color = seven.printed.columns.index("color")
    assert [texts(row)[color] for row in rows(seven, "SDXL")] == [
        "44.4", "74.7", "55.5", "81.3", "+11.1", "+6.6",
    ]  # fmt: skip
    assert texts(rows(seven, "SDXL")[0])[-1] == "61.5"


def test_the_page_says_who_judged_and_whose_each_row_is(found: Findings) -> None:
    html = page.render(on_base(on_dsg(found), "stabilityai/stable-diffusion-xl-base-1.0"), CONFIG)
    text = Parsed(html).text
    for words in (
        "Table 1.", "Table 7.", "judged by toybox-a", "judged by mPLUG-large", "zeroing cascading",
        "only 6 of the 1060 prompts", "PickScore of ours: PickScore v1, some/weights.",
        "no independent evidence", "SynGen", "material: 59.7 of 97", "is not stated",
    ):  # fmt: skip
        assert words in text
    assert html.count('<tr class="ours') == 6 and "<td>paper</td>" in html
    whole = on_dsg(found, prompts=1060)
    assert "all 1060 prompts of DSG-1k" in Parsed(page.render(whole, CONFIG)).text


@pytest.mark.parametrize(
    ("model", "name"),
    [("toybox", "toybox"), ("sd-1.5", "sd-1.5"), ("a/b", "a/b"), ("../../models/mine", "mine")],
)
def test_another_base_has_a_block_of_its_own(found: Findings, model: str, name: str) -> None:
    table = beside(on_base(on_dsg(found), model))[0]
    assert [block.base for block in table.blocks] == [name, "SD v1.4", "SD v2", "SDXL"]
    assert [row.ours for row in table.blocks[0].rows] == [True] * 3
    assert not any(row.ours for block in table.blocks[1:] for row in block.rows)
    assert f"The run's base, {name}, is not known to be one of the paper's." in table.caption


def test_a_run_on_tifa_stands_in_table_6(found: Findings) -> None:
    def update(role: str) -> dict[str, Any]:
        fields = {"categories": {"food": at(81.0), "shape": at(60.0)}, "score": at(75.5)}
        if role != "base":
            fields |= {"category_differences": {"food": at(2.0)}, "difference": at(3.5)}
        return fields

    tifa = changed(found, update, published="tifa-v1.0", measure="TIFA", matcher="wordllama")
    (six,) = beside(on_base(tifa, "sd-1.4"))
    assert six.printed.number == 6
    base, gain = rows(six, "SD v1.4")[0], rows(six, "SD v1.4")[-2]
    places = [six.printed.columns.index(name) for name in ("food", "shape", "color", "average")]
    assert [texts(base)[place] for place in places] == ["81.0", "60.0", "–", "75.5"]
    assert [texts(gain)[place] for place in places] == ["+2.0", "–", "–", "+3.5"]
    assert "matched by wordllama" in six.caption and "BLIP-2 FlanT5-XL" in six.caption


def hps(score: float, *, name: str = "HPS v2.1", **more: Any) -> dict[str, Any]:
    part = {"score": score, "interval": [score - 1, score + 1], "images": 3, "missing": 0}
    about = {"name": name, "weights": "hps", "preprocessing": "some bicubic"}
    nothing = part | {"score": None, "interval": None}
    styles = {"anime": part, "concept-art": part, "paintings": part, "photo": nothing}
    return {
        **part,
        "styles": styles,
        "scorer": about,
        "complete": False,
        "generated": "run",
        **more,
    }


def test_hps_stands_in_table_5_whatever_the_benchmark(found: Findings) -> None:
    minus = {name: at(1.5).model_dump() for name in ("anime", "all")} | {"photo": None}
    scored = dataclasses.replace(
        on_base(found, "sd-2"), hps={"base": hps(26.0), "merged": hps(27.5, minus_base=minus)}
    )
    (five,) = beside(scored)
    mine = rows(five, "SD v2")
    assert texts(mine[0]) == ["26.00", "26.00", "26.00", "–", "26.00"]
    assert texts(mine[4]) == ["+1.50", "–", "–", "–", "+1.50"]
    text = Parsed(page.render(scored, CONFIG)).text
    assert "3 images, generated by this run, not the benchmark's 800 of each style" in text
    assert "some bicubic" in text
    old = hps(20.5, name="HPS v2.0")
    assert beside(dataclasses.replace(found, hps={"merged": old})) == []
    (five,) = beside(dataclasses.replace(found, hps={"base": hps(26.0), "merged": old}))
    assert "HPS v2.0" not in five.caption and texts(five.blocks[0].rows[1]) == ["–"] * 5


class Given:
    """Answers from DSG's released file about the base, yes to everything about the merged."""

    name, fingerprint = "mplug", "given"

    def __init__(self, said: dict[str, dict[str, str]], order: Sequence[str]) -> None:
        self.said, self.order = said, order

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        replies = []
        for image, some in zip(images, questions, strict=True):
            number, merged, _ = image.getpixel((0, 0))  # type: ignore[misc]
            of_prompt = self.said[self.order[number]]
            replies.append([("yes" if merged else of_prompt[text], None) for text in some])
        return replies


@pytest.mark.skipif(not DSG.is_dir(), reason=f"DSG's released files: not in {DSG}")
def test_real_rows_of_dsg_1k_give_the_shares_of_table_7(found: Findings, tmp_path: Path) -> None:
    config = ScoresConfig(
        benchmark=str(DSG / "dsg-1k-anns.csv"), prompts=40, clip=None, resamples=200
    )
    benchmark_prompts = load_benchmark(config)
    answers: dict[tuple[str, str], str] = {}
    with (DSG / "mplug_dsg.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["t2i_model"] == "sd2dot1":
                answers[row["item_id"], row["question_id"]] = row["answer"]
    benchmark_prompts = [
        p for p in benchmark_prompts if all((p.id, q.id) in answers for q in p.questions)
    ]
    said = {p.id: {q.text: answers[p.id, q.id] for q in p.questions} for p in benchmark_prompts}
    judge, folder = Given(said, [p.id for p in benchmark_prompts]), Workspace(tmp_path)
    images = {}
    for merged, model in enumerate(("base", "merged")):
        item = folder.item("5-scores", "images", model, recipe={"model": model})
        item.begin()
        for number, prompt in enumerate(benchmark_prompts):
            Image.new("RGB", (8, 8), (number, merged, 0)).save(item.path / f"{prompt.id}.png")
        item.finish(item.path.glob("*.png"), {})
        images[model] = item.path
    card = score_models(
        benchmark_prompts, images, config, folder,
        roles={"base": "base", "merged": "merged"}, seed=0,
        networks=ScoringNetworks(config, Loaders(judge=lambda name: judge)),
    )  # fmt: skip
    assert card.published == "dsg-1k"
    right: dict[str, list[bool]] = {}
    for prompt in benchmark_prompts:
        denied = {q.id for q in prompt.questions if said[prompt.id][q.text].lower() != "yes"}
        for _ in prompt.questions:  # as often as a no can have to travel
            denied |= {q.id for q in prompt.questions if (set(q.parents) - {q.id}) & denied}
        for q in prompt.questions:
            name = "global" if q.detail == "" else q.detail
            for key in (name, "average"):
                right.setdefault(key, []).append(q.id not in denied)
    whole = dataclasses.replace(
        on_base(found, "sd-2"), scorecard=card, benchmark_prompts=benchmark_prompts, images=images,
        answers={model: read_answers(folder, model) for model in images},
    )  # fmt: skip
    seven = beside(whole)[1]
    base, merged = (rows(seven, "SD v2")[place] for place in (0, 2))
    for name, cell in zip(seven.printed.columns, base.cells, strict=True):
        shares = right.get(name)
        expected = f"{100 * sum(shares) / len(shares):.1f}" if shares else "–"
        assert (cell.text if cell else "–") == expected, name
    assert {cell.text for cell in merged.cells if cell} == {"100.0"}
    assert texts(rows(seven, "SD v2")[1])[-1] == "70.3"  # the paper's
    text = Parsed(page.render(whole, CONFIG)).text
    assert (
        f"only {len(benchmark_prompts)} of the 1060 prompts of DSG-1k" in text
        and "Table 7." in text
    )
