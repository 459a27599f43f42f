"""The stage as a whole, with a judge that really looks at pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image
from scores.colours import ColourJudge, benchmark_prompts, image

from selma.config.scores import ScoresConfig
from selma.errors import DataError
from selma.manifests import signed
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import Scorecard
from selma.row_files import CHUNK
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import benchmark_score, read_answers, score_models
from selma.workspace import Workspace, manifest

BENCHMARK = benchmark_prompts(2 * CHUNK + 6)
ROLES = {"merged": "merged", "early": "expert", "base": "base"}
CONFIG = ScoresConfig(resamples=500)


def generate(folder: Workspace, model: str, right: Callable[[int], int]) -> Path:
    """A finished item; the image of prompt i shows `right(i)` of its two colours."""
    item = folder.item("5-scores", "images", model, recipe={"model": model})
    item.begin()
    for i, prompt in enumerate(BENCHMARK):
        words = prompt.text.replace(",", "").split()
        image(*[words[0], words[2]][: right(i)]).save(item.path / f"{prompt.id}.png")
    item.finish(item.path.glob("*.png"), {})
    return item.path


@pytest.fixture
def folder(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def images(folder: Workspace) -> dict[str, Path]:
    return {
        "merged": generate(folder, "merged", lambda i: 2),
        "early": generate(folder, "early", lambda i: 2 if i < len(BENCHMARK) // 2 else 0),
        "base": generate(folder, "base", lambda i: i % 2),
    }


class Networks:
    """The loaders that are handed in, and the networks that they gave."""

    def __init__(self) -> None:
        self.judges = {
            "toybox-a": ColourJudge("toybox-a"),
            "toybox-b": ColourJudge("toybox-b", threshold=0.6),
        }
        self.scorer = ColourJudge("clip")

    def score(self, folder: Workspace, images: dict[str, Path], **changed: Any) -> Scorecard:
        config = changed.get("config", CONFIG)
        load = Loaders(judge=self.judges.__getitem__, scorer=lambda name: self.scorer)
        return score_models(
            changed.get("benchmark_prompts", BENCHMARK),
            images,
            config,
            folder,
            roles=changed.get("roles", ROLES),
            seed=3,
            networks=ScoringNetworks(config, load),
        )

    @property
    def seen(self) -> list[int]:
        return [n.seen for n in (*self.judges.values(), self.scorer)]


def artefacts(folder: Workspace) -> dict[str, bytes]:
    root = folder.root / "5-scores"
    files = (path for path in root.rglob("*") if path.is_file() and "images" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_scores_are_those_of_the_images(folder: Workspace, images: dict[str, Path]) -> None:
    card = Networks().score(folder, images)
    assert [m.model for m in card.models] == ["base", "early", "merged"]
    base, early, merged = card.models
    assert (card.prompts, card.questions) == (70, 140)
    # Of the base every second image is black; the others lack the second colour.
    assert (base.score.mean, base.difference, base.score.n) == (25.0, None, 70)
    assert base.categories["second"].mean == 0 and base.categories["colour"].mean == 50
    assert merged.score.mean == 100 and merged.difference is not None
    assert merged.difference.mean == 75 and 65 < merged.difference.low < 75
    assert early.groups["early"].mean == 100 and early.groups["late"].mean == 0
    assert early.group_differences["late"].mean == pytest.approx(-25, abs=2)
    assert merged.category_differences["colour"].mean == 50
    assert merged.per_prompt == {p.id: 1.0 for p in BENCHMARK}
    assert merged.clip is not None and merged.clip.mean == 100
    assert merged.clip_difference is not None and merged.clip_difference.mean == 50
    # The second judge wants 60% of an image to have the colour: it denies all two-colour ones.
    assert card.agreement is not None and 0.3 < card.agreement < 0.7
    assert [m.unreadable for m in card.models] == [0, 0, 0]


def generate_several(folder: Workspace, model: str, *right: Callable[[int], int]) -> Path:
    """`generate` with several images of each prompt, one for each of `right`."""
    item = folder.item("5-scores", "images", model, recipe={"model": model})
    item.begin()
    for i, prompt in enumerate(BENCHMARK):
        words = prompt.text.replace(",", "").split()
        for k, shown in enumerate(right):
            name = f"{prompt.id}-{k}" if k else prompt.id
            image(*[words[0], words[2]][: shown(i)]).save(item.path / f"{name}.png")
    item.finish(item.path.glob("*.png"), {})
    return item.path


def test_several_images_of_each_prompt_are_one_prompt(folder: Workspace) -> None:
    """The base's first images are right, its second ones black; merged has both right."""
    generated = {
        "base": generate_several(folder, "base", lambda i: 2, lambda i: 0),
        "merged": generate_several(folder, "merged", lambda i: 2, lambda i: 2),
    }
    config = CONFIG.model_copy(update={"seeds": 2, "vqascore": "{text}: Is there red?"})
    load = Loaders(judge=Networks().judges.__getitem__, scorer=lambda name: ColourJudge("clip"))
    card = score_models(
        BENCHMARK, generated, config, folder, roles={m: m for m in generated}, seed=3,
        compare=[("merged", "base")], networks=ScoringNetworks(config, load),
    )  # fmt: skip
    base, merged = card.models
    assert (card.seeds, card.prompts, card.questions) == (2, 70, 140)
    assert (base.score.mean, base.score.n, merged.score.mean) == (50, 70, 100)
    assert base.per_prompt == {prompt.id: 0.5 for prompt in BENCHMARK}
    assert base.score.standard_error == 0  # prompts are all alike, whatever their images are
    assert merged.difference is not None and merged.difference.mean == 50
    assert card.comparisons[0].difference == merged.difference
    assert base.categories["second"].mean == 50 and base.groups["early"].n == 35
    assert merged.category_differences["colour"].mean == 50
    assert base.clip is not None and (base.clip.mean, base.clip.n) == (50, 70)
    assert merged.clip_difference is not None and merged.clip_difference.mean == 50
    assert base.soft is not None and base.soft.n == 70 and 48 < base.soft.mean < 52
    assert merged.vqascore_difference is not None and merged.vqascore_difference.n == 70
    answers = read_answers(folder, "base")
    assert [a.prompt_id for a in answers[:4]] == ["p000", "p000", "p000-1", "p000-1"]
    assert [a.verdict for a in answers[:4]] == ["yes", "yes", "no", "no"]


def test_the_same_images_twice_give_the_same_numbers(tmp_path: Path) -> None:
    def half(i: int) -> int:
        return i % 2

    cards = []
    for seeds in (1, 2):
        folder = Workspace(tmp_path / str(seeds))
        generated = {
            "base": generate_several(folder, "base", *[half] * seeds),
            "merged": generate_several(folder, "merged", *[lambda i: (i + 1) % 3] * seeds),
        }
        config = CONFIG.model_copy(update={"seeds": seeds, "resamples": 200})
        cards.append(
            Networks().score(folder, generated, config=config, roles={m: m for m in generated})
        )
    once, twice = cards
    assert once.models == twice.models


def test_answers_are_kept_with_their_verdicts(folder: Workspace, images: dict[str, Path]) -> None:
    card = Networks().score(folder, images)
    answers = read_answers(folder, "base")
    assert [(a.prompt_id, a.question_id) for a in answers] == [
        (p.id, q.id) for p in BENCHMARK for q in p.questions
    ]
    assert (answers[0].text, answers[0].verdict) == ("no", "no")
    assert answers[0].yes is not None and answers[0].yes < 0.5
    points = sum(a.verdict == "yes" for a in answers) / len(answers)
    assert points * 100 == card.models[0].score_by_question
    with pytest.raises(DataError, match="scores stage first"):
        read_answers(folder, "nobody")


def test_a_second_run_asks_nothing_and_changes_nothing(
    folder: Workspace, images: dict[str, Path]
) -> None:
    first = Networks().score(folder, images)
    before = artefacts(folder)
    idle = Networks()
    assert idle.score(folder, images) == first
    assert idle.seen == [0, 0, 0]
    assert artefacts(folder) == before


@pytest.mark.parametrize("lines_left", [0, 5, CHUNK, CHUNK + 9])
def test_a_stopped_run_ends_with_the_same_bytes(
    folder: Workspace, images: dict[str, Path], tmp_path: Path, lines_left: int
) -> None:
    Networks().score(folder, images)
    whole = artefacts(folder)
    item = tmp_path / "5-scores" / "answers" / "early"
    lines = (item / "answers.jsonl").read_bytes().splitlines(keepends=True)
    # As a kill leaves it: no manifest, some lines, the last one torn.
    (item / "manifest.json").unlink()
    (item / "answers.jsonl").write_bytes(b"".join(lines[:lines_left]) + lines[lines_left][:20])
    again = Networks()
    again.score(folder, images)
    assert artefacts(folder) == whole
    assert again.seen == [len(BENCHMARK) - lines_left // CHUNK * CHUNK, 0, 0]


def test_an_interrupt_loses_at_most_one_chunk(folder: Workspace, images: dict[str, Path]) -> None:
    stopped = Networks()
    stopped.judges["toybox-a"].stop_after = CHUNK
    with pytest.raises(KeyboardInterrupt):
        stopped.score(folder, images)
    again = Networks()
    again.score(folder, images)
    assert again.seen == [3 * len(BENCHMARK) - CHUNK, 3 * len(BENCHMARK), 3 * len(BENCHMARK)]


def test_another_rule_needs_no_judge(folder: Workspace, images: dict[str, Path]) -> None:
    Networks().score(folder, images)
    idle = Networks()
    changed = idle.score(folder, images, config=CONFIG.model_copy(update={"zeroing": "none"}))
    assert changed.zeroing == "none" and idle.seen == [0, 0, 0]
    assert list((folder.root / "superseded").iterdir())


@pytest.mark.parametrize("damage", [None, b"", b"\x89PNG\r\n\x1a\n broken"])
def test_a_missing_or_broken_image_is_named(
    folder: Workspace, images: dict[str, Path], damage: bytes | None
) -> None:
    path = images["base"] / "p007.png"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(DataError, match=r"p007\.png"):
        Networks().score(folder, images)


def test_unfinished_images_and_wrong_roles_are_refused(
    folder: Workspace, images: dict[str, Path]
) -> None:
    with pytest.raises(DataError, match="exactly one must be the base"):
        Networks().score(folder, images, roles=ROLES | {"base": "other"})
    with pytest.raises(DataError, match=r"without a role: \['early'\]"):
        Networks().score(folder, images, roles={"base": "base", "merged": "merged"})
    (images["early"] / "manifest.json").unlink()
    with pytest.raises(DataError, match="has no manifest"):
        Networks().score(folder, images)


def test_other_images_other_answers(folder: Workspace, images: dict[str, Path]) -> None:
    Networks().score(folder, images)
    path = images["base"] / "manifest.json"
    manifest = json.loads(path.read_text()) | {"key": "0" * 16}
    del manifest["sha256"]
    name, entry = next(iter(manifest["files"].items()))
    image = images["base"] / name
    image.write_bytes(image.read_bytes() + b"other")
    entry |= {"bytes": image.stat().st_size, "sha256": sha256(image.read_bytes()).hexdigest()}
    path.write_text(json.dumps(signed(manifest)))
    again = Networks()
    again.score(folder, images)
    assert again.seen == [len(BENCHMARK)] * 3


def test_unreadable_answers_are_counted_and_score_nothing(
    folder: Workspace, images: dict[str, Path]
) -> None:
    class Wordy(ColourJudge):
        @staticmethod
        def _say(chance: float) -> tuple[str, float]:
            return ("Yes." if chance >= 0.5 else "there is none"), chance

    networks = Networks()
    networks.judges["toybox-a"] = Wordy("toybox-a")
    base = networks.score(folder, images).models[0]
    assert (base.unreadable, base.score.mean) == (105, 25.0)


class Taught(ColourJudge):
    """Cannot read some questions, as toybox's judges cannot."""

    def __init__(self, name: str, *, word: str) -> None:
        super().__init__(name)
        self.word = word

    def unread(self, questions: Sequence[str]) -> list[str]:
        return [question for question in questions if self.word in question]

    def answer(
        self, images: Sequence[Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        replies = super().answer(images, questions)
        return [
            [("not read", None) if self.word in q else a for q, a in zip(texts, of, strict=True)]
            for texts, of in zip(questions, replies, strict=True)
        ]


def test_questions_that_a_judge_cannot_read_are_told_once_and_counted(
    folder: Workspace, images: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    networks = Networks()
    networks.judges["toybox-a"] = Taught("toybox-a", word="blue")
    card = networks.score(folder, images)
    asked = sum("blue" in q.text for prompt in BENCHMARK for q in prompt.questions)
    assert {model.unreadable for model in card.models} == {asked}
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("toybox-a cannot read 1 of 3 questions, 'Is there blue?' first") == 1
    assert "first. Such an answer counts as unreadable and earns no point." in shown
    assert "toybox's" not in shown and "as no" not in shown
    for model in ROLES:
        recipe = manifest(folder.root / "5-scores/answers" / model)["recipe"]
        assert recipe["unread"] == 1
    # What it reads has the recipe that it has by a judge that never says what it reads.
    networks.judges["toybox-a"] = Taught("toybox-a", word="purple")
    networks.score(folder, images)
    before = manifest(folder.root / "5-scores/answers/base")["key"]
    networks.judges["toybox-a"] = ColourJudge("toybox-a")
    networks.score(folder, images)
    assert manifest(folder.root / "5-scores/answers/base")["key"] == before


def test_the_score_that_checkpoints_are_chosen_by(images: dict[str, Path]) -> None:
    prompts: list[BenchmarkPrompt] = BENCHMARK
    assert benchmark_score(prompts, images["base"], judge=ColourJudge("x")) == 25
    assert benchmark_score(prompts, images["merged"], judge=ColourJudge("x")) == 100


ASKED_AGAIN: dict[str, tuple[Callable[[BenchmarkPrompt], dict[str, Any]], list[int]]] = {
    "group": (lambda p: {"group": "other"}, [0, 0, 0]),
    "category": (lambda p: {"questions": _each(p, category="new")}, [0, 0, 0]),
    "dependencies": (lambda p: {"questions": _each(p, parents=())}, [0, 0, 0]),
    "text": (lambda p: {"text": f"{p.text} again"}, [0, 0, 3 * len(BENCHMARK)]),
    "questions": (
        lambda p: {"questions": _each(p, text="Is there blue?")},
        [3 * len(BENCHMARK), 3 * len(BENCHMARK), 0],
    ),
}


def _each(prompt: BenchmarkPrompt, **changed: Any) -> tuple[Question, ...]:
    return tuple(question.model_copy(update=changed) for question in prompt.questions)


@pytest.mark.parametrize("what", ASKED_AGAIN)
def test_a_run_asks_again_only_where_it_matters(
    folder: Workspace, images: dict[str, Path], what: str
) -> None:
    Networks().score(folder, images)
    change, expected = ASKED_AGAIN[what]
    again = Networks()
    again.score(
        folder, images, benchmark_prompts=[p.model_copy(update=change(p)) for p in BENCHMARK]
    )
    assert again.seen == expected


def test_a_judges_name_alone_changes_no_answer(folder: Workspace, images: dict[str, Path]) -> None:
    Networks().score(folder, images)
    again = Networks()
    for judge in again.judges.values():
        judge.name = f"{judge.name}, renamed"
    again.score(folder, images)
    assert again.seen == [0, 0, 0]


def test_soft_scores_stand_beside_the_words(folder: Workspace, images: dict[str, Path]) -> None:
    asked = CONFIG.model_copy(update={"vqascore": "{text}: Is there red?"})
    networks = Networks()
    base, _, merged = networks.score(folder, images, config=asked).models
    assert base.soft is not None and 20 < base.soft.mean < 30 and base.soft.n == 70
    assert base.soft_difference is None and merged.soft_difference is not None
    assert merged.soft_difference.mean == pytest.approx(75, abs=3)
    assert merged.vqascore is not None and 60 < merged.vqascore.mean < 70  # red is in two thirds
    assert merged.vqascore_difference is not None and merged.vqascore_difference.mean > 40
    plain = Networks().score(folder, images).models[0]
    assert plain.vqascore is None and plain.soft == base.soft


def test_the_same_images_made_again_have_the_answers_of_before(
    folder: Workspace, images: dict[str, Path]
) -> None:
    """By whatever versions: a judge behind a server may cost money."""
    Networks().score(folder, images)
    path = images["base"] / "manifest.json"
    manifest = json.loads(path.read_text()) | {"key": "0" * 16}
    del manifest["sha256"]
    path.write_text(json.dumps(signed(manifest)))
    again = Networks()
    again.score(folder, images)
    assert again.seen == [0, 0, 0]
