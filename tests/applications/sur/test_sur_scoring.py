"""A SUR-adapter's scores: kinds of questions, keyword prompts, and everything paired by prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from scores.colours import ColourJudge, benchmark_prompts, image, write_benchmark

from selma.applications.sur.page import headline, print_ablation, print_result
from selma.applications.sur.preflight import mistakes as sur_mistakes
from selma.applications.sur.records import SurResult
from selma.applications.sur.scoring import (
    by_kind,
    keyword_benchmark,
    kind_of,
    score_sur,
)
from selma.applications.sur.settings import SurRun, SurScores
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError, DataError
from selma.preflight import check
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.report.tables import between, signed
from selma.scores.benchmarks import load_benchmark, read_benchmark
from selma.scores.networks import Loaders, ScoringNetworks
from selma.workspace import STAGES, Workspace

BENCHMARK = benchmark_prompts(24)
SCORES = ScoresConfig(resamples=300)
PLAIN = SurScores(quality=None)


def question(category: str, detail: str = "") -> Question:
    return Question(id="1", text="?", category=category, detail=detail)


@pytest.mark.parametrize(
    ("category", "detail", "kind"),
    [
        ("other", "count", "counting"),  # DSG-1k
        ("attribute", "color", "colour"),
        ("relation", "action", "action"),
        ("relation", "spatial", "relation"),
        ("counting", "", "counting"),  # TIFA
        ("activity", "", "action"),
        ("count", "cat | two", "counting"),  # toybox
        ("colour", "cat | red", "colour"),
        ("spatial", "cat | left of | dog", "spatial"),
    ],
)
def test_questions_are_sorted_into_the_papers_kinds(category: str, detail: str, kind: str) -> None:
    assert kind_of(question(category, detail)) == kind


def test_sorting_changes_nothing_else() -> None:
    for before, after in zip(BENCHMARK, by_kind(BENCHMARK), strict=True):
        assert before.model_dump(exclude={"questions"}) == after.model_dump(exclude={"questions"})
        for one, other in zip(before.questions, after.questions, strict=True):
            assert one.model_dump(exclude={"category"}) == other.model_dump(exclude={"category"})


def write_keywords(path: Path, rows: list[tuple[str, str]]) -> SurScores:
    lines = ["item_id,prompt", *(f'{id},"{text}"' for id, text in rows)]
    path.write_text("\n".join(lines) + "\n")
    return SurScores(keywords=str(path), quality=None)


def test_keyword_prompts_come_from_a_file_or_from_toybox(tmp_path: Path) -> None:
    sur = write_keywords(tmp_path / "k.csv", [(p.id, f"{p.text}, 4k") for p in BENCHMARK])
    own = ScoresConfig(benchmark="mine.csv")
    made = keyword_benchmark(BENCHMARK, own, sur, split="test")
    assert [p.text for p in made or ()] == [f"{p.text}, 4k" for p in BENCHMARK]
    assert [p.questions for p in made or ()] == [p.questions for p in BENCHMARK]
    assert keyword_benchmark(BENCHMARK, own, PLAIN, split="test") is None
    lacking = write_keywords(tmp_path / "k.csv", [(p.id, "x") for p in BENCHMARK[1:]])
    with pytest.raises(DataError, match=rf"1 has none, {BENCHMARK[0].id} first"):
        keyword_benchmark(BENCHMARK, own, lacking, split="test")
    for split in ("dev", "test"):
        toybox = load_benchmark(SCORES, split=split, prompts=20)
        keywords = keyword_benchmark(toybox, SCORES, PLAIN, split=split)
        assert keywords is not None and [p.id for p in keywords] == [p.id for p in toybox]
        assert all(", " in p.text for p in keywords)


def generate(folder: Workspace, model: str, right: int) -> Path:
    item = folder.item("5-scores", "images", model, recipe={"model": model})
    item.begin()
    for i, prompt in enumerate(BENCHMARK):
        words = prompt.text.replace(",", "").split()
        # Every fifth prompt is drawn wrong by all.
        image(*[words[0], words[2]][: right if i % 5 else 0]).save(item.path / f"{prompt.id}.png")
    item.finish(item.path.glob("*.png"), {})
    return item.path


@pytest.fixture
def world(tmp_path: Path):
    folder = Workspace(tmp_path)
    return folder, {
        m: generate(folder, m, n) for m, n in (("base", 1), ("keywords", 2), ("sur", 2))
    }


def understand(folder, images, **given) -> SurResult:
    judges = {"toybox-a": ColourJudge("toybox-a"),
              "toybox-b": ColourJudge("toybox-b", threshold=0.6)}  # fmt: skip
    scorer = ColourJudge("clip")
    load = Loaders(judge=judges.__getitem__, scorer=lambda name: scorer)
    settings = {"keywords": None, "good": [], "seed": 0} | given
    return score_sur(
        BENCHMARK, images, SCORES, settings.pop("sur", PLAIN), folder, **settings,
        networks=ScoringNetworks(SCORES, load),
    )  # fmt: skip


def test_everything_is_beside_the_base_and_paired(world, tmp_path: Path) -> None:
    folder, images = world
    # The second keyword prompt names what nobody drew.
    keywords = [p.model_copy(update={"text": p.text if i != 1 else "nothing"}) for i, p in
                enumerate(BENCHMARK)]  # fmt: skip
    found = understand(folder, images, keywords=keywords, compare=[("sur", "keywords")])
    base, keywords, sur = found.card.models
    assert (base.model, keywords.model, sur.model) == ("base", "keywords", "sur")
    assert base.difference is None and sur.difference is not None
    assert sur.difference.mean == pytest.approx(100 * (19 / 24) / 2)
    assert sur.category_differences["second"].mean == pytest.approx(100 * 19 / 24)
    assert sur.category_differences["colour"].mean == 0
    (pair,) = found.card.comparisons
    assert pair.difference.mean == 0
    assert found.keyword_clip["base"].n == 24
    assert sur.clip is not None and found.keyword_clip["sur"].mean < sur.clip.mean
    change = found.keyword_clip_differences["sur"]
    assert change.low <= change.mean <= change.high and "base" not in (
        found.keyword_clip_differences
    )
    assert found.keywords[BENCHMARK[1].id] == "nothing" and found.distances is None
    assert headline(found) == "Through the SUR-adapter plain prompts are followed better"
    console = Console(record=True, width=160)
    print_result(found, console)
    print_ablation(found, console)
    shown = console.export_text()
    for words in ("second", "CLIP, keywords", "sur minus keywords", "through the adapter"):
        assert words in shown, words
    narrow = Console(record=True, width=80)
    print_result(found, narrow)
    print_ablation(found, narrow)
    shown = narrow.export_text()
    assert "…" not in shown and all(len(line) <= 80 for line in shown.splitlines())
    change = found.keyword_clip_differences["sur"]
    assert between(change, sign=True, digits=2) in shown and signed(change.mean, 2) in shown


def test_a_second_look_asks_nothing_and_another_name_keeps_the_first(world) -> None:
    folder, images = world
    first = understand(folder, images)
    place = folder.root / "5-scores" / "sur-result" / "result.json"
    stamp = place.stat().st_mtime_ns
    assert understand(folder, images) == first and place.stat().st_mtime_ns == stamp
    other = understand(folder, {"base": images["base"]}, name="other")
    assert len(other.card.models) == 1
    assert place.stat().st_mtime_ns == stamp
    changed = understand(folder, images, seed=1)  # other resamples
    assert changed.card.models[2].difference.mean == first.card.models[2].difference.mean
    assert place.stat().st_mtime_ns != stamp


def test_no_clear_difference_is_said_so(world) -> None:
    folder, images = world
    same = understand(folder, {"base": images["base"], "sur": images["base"]}, name="same")
    assert headline(same).startswith("No clear difference")


def test_groups_of_a_benchmark_can_be_chosen(tmp_path: Path) -> None:
    plain = ScoresConfig(groups=("coco", "count"), prompts=10)
    assert {p.group for p in load_benchmark(plain)} == {"coco", "count"}
    assert len(load_benchmark(plain)) == 10
    assert len(load_benchmark(ScoresConfig(groups=("coco",)))) == 64
    with pytest.raises(ConfigError, match=r"narratives.*'photos'"):
        load_benchmark(ScoresConfig(groups=("photos",)))
    path = write_benchmark(tmp_path / "exam.csv", BENCHMARK)
    named = {p.group for p in read_benchmark(path)}
    chosen = ScoresConfig(benchmark=str(path), groups=tuple(named))
    assert len(load_benchmark(chosen)) == len(BENCHMARK)


def test_mistakes_are_found_before_anything_is_loaded(tmp_path: Path) -> None:
    features = {"kind": "clip", "model": "nowhere/at/all"}
    config = SurRun.model_validate(
        {
            "name": "x",
            "folder": str(tmp_path),
            "scores": {"groups": ["photos"]},
            "sur": {
                "scores": {"keywords": str(tmp_path / "k.csv"), "quality": {"features": features}}
            },
        }
    )
    with pytest.raises(ConfigError) as caught:
        check(config, mistakes=sur_mistakes(config, STAGES))
    for words in ("sur.scores.keywords", "sur.scores.quality.features", "scores.groups"):
        assert words in str(caught.value), words
    with pytest.raises(ValueError, match="kind clip"):
        SurScores.model_validate({"quality": {"features": {"kind": "pickscore", "model": "a/b"}}})


def test_a_benchmark_prompt_without_questions_is_refused(world) -> None:
    folder, images = world
    silent = [BenchmarkPrompt(id=p.id, text=p.text, group=p.group, questions=()) for p in BENCHMARK]
    with pytest.raises(DataError, match="needs questions"):
        score_sur(
            silent, images, SCORES, PLAIN, folder, keywords=None, good=[], seed=0,
            networks=ScoringNetworks(SCORES, Loaders(judge=ColourJudge)),
        )  # fmt: skip
