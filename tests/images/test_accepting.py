"""Choosing by questions: a judge accepts what is trained on, and nothing is lost or repeated."""

import contextlib
import hashlib
import io
import json

import pytest
import tiny
from images.test_generating import DiesAfter, Killed, files, generated, prompts

from selma.config.images import Choice, ImagesConfig
from selma.config.scores import ScoresConfig
from selma.console import show_pairs
from selma.errors import ConfigError, TooFewPairs
from selma.images import generating
from selma.images.choosing import require_pairs
from selma.images.generating import generate_pairs
from selma.images.pairs import read_survivors
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.images import Survivors
from selma.scores.accepting import Accepting
from selma.scores.networks import Loaders, ScoringNetworks
from selma.workspace import Workspace, manifest, read_lines

COUNT = 4
CONFIG = ImagesConfig(
    steps=2,
    guidance=3.0,
    batch_size=2,
    choose=Choice(candidates=COUNT, questions="toybox", fewest_pairs=1),
)


class Die(Exception):
    """Where a process would have been killed."""


class PixelJudge:
    """A judge whose answers follow from the image's bytes and the question alone."""

    def __init__(self, name: str, dies_after: int = -1) -> None:
        self.name, self.fingerprint, self.left = name, name, dies_after
        self.answered = 0

    def answer(self, images, questions):
        if self.left == 0:
            raise Die
        self.left -= 1
        self.answered += len(images)
        return [
            [("no" if self._digest(image, text) % 2 == 0 else "yes", None) for text in texts]
            for image, texts in zip(images, questions, strict=True)
        ]

    @staticmethod
    def _digest(image, text):
        return hashlib.sha256(image.tobytes() + text.encode()).digest()[0]


def asked(of, *, without=()):
    """Two questions about each prompt, of which the second depends on the first."""
    first = Question(id="1", text="Are there cats?", category="entity")
    second = Question(id="2", text="Are they many?", category="count", parents=("1",))
    return [
        BenchmarkPrompt(id=p.id, text=p.text, group="cats", questions=(first, second))
        for p in of
        if p.id not in without
    ]


def chosen(folder, some, *, config=CONFIG, judge=None, without=(), model=None, adapters=()):
    workspace, judges = Workspace(folder), {"toybox-b": judge or PixelJudge("b")}
    networks = ScoringNetworks(
        ScoresConfig(), Loaders(judge=lambda name: judges.get(name) or PixelJudge("a"))
    )
    return generate_pairs(
        {"cats": some},
        config,
        workspace,
        base=tiny.base("sd1"),
        seed=0,
        model=model or (lambda: tiny.load("sd1")),
        adapters=adapters,
        accepting=Accepting(
            {"cats": asked(some, without=without)}, ScoresConfig(), networks, workspace, COUNT
        ),
    )["cats"]


def told(folder):
    return read_lines(folder / "2-images/cats/candidates.jsonl")


def changed(**choose):
    return CONFIG.model_copy(update={"choose": CONFIG.choose.model_copy(update=choose)})


@pytest.fixture(scope="module")
def some():
    return prompts(count=8)


@pytest.fixture(scope="module")
def left(tmp_path_factory, some):
    """A folder in which images of the prompts were chosen, and the pairs."""
    folder = tmp_path_factory.mktemp("left")
    return folder, chosen(folder, some, without=[some[2].id])


def test_of_those_that_are_accepted_the_best_is_kept(left, some):
    folder, pairs = left
    rows = told(folder)
    assert len(rows) == 7 * COUNT
    assert {row["answered"] for row in rows} == {0.0, 0.5, 1.0}  # else nothing is told apart here
    remaining = []
    for prompt in some:
        of_prompt = [row for row in rows if row["prompt_id"] == prompt.id]
        accepted = [row for row in of_prompt if row["answered"] == 1.0]
        kept = [row for row in of_prompt if row["kept"]]
        assert kept == sorted(accepted, key=lambda row: -row["score"])[:1]
        remaining += [(prompt, row["seed"]) for row in kept]
    assert [(pair.prompt, pair.seed) for pair in pairs] == remaining
    assert 0 < len(pairs) < 7
    for pair in pairs:
        name = next(r["candidate"] for r in rows if r["seed"] == pair.seed)
        candidate = folder / f"2-images/_candidates/cats/{name}.png"
        assert candidate.read_bytes() == pair.image.read_bytes()


def test_dependencies_count_as_in_the_score(left):
    """A yes to a question whose parent was denied is no point: the shares are 0, or 1/2 and 1."""
    folder, _ = left
    answers = {
        r["prompt"]: r["answers"]
        for r in read_lines(folder / "2-images/_answers/cats/answers.jsonl")
    }
    zeroed = [
        r for r in told(folder) if [a["text"] for a in answers[r["candidate"]]] == ["no", "yes"]
    ]
    assert zeroed and all(row["answered"] == 0 for row in zeroed)


def test_what_is_left_of_the_prompts_is_told(left, some):
    folder, pairs = left
    expected = Survivors(prompts=8, without_questions=1, rejected=7 - len(pairs))
    assert read_survivors(Workspace(folder), ["cats", "none"]) == {"cats": expected}
    assert expected.share == len(pairs) / 8


def test_what_is_finished_is_read_back(left, some):
    folder, pairs = left
    before, judge = files(folder), PixelJudge("b", dies_after=0)
    assert chosen(folder, some, judge=judge, without=[some[2].id]) == pairs
    assert files(folder) == before


def test_another_threshold_neither_generates_nor_asks_again(tmp_path, some):
    strict = chosen(tmp_path, some)
    judge = PixelJudge("b", dies_after=0)
    loose = chosen(
        tmp_path, some, config=changed(threshold=0.5), judge=judge, model=lambda: DiesAfter(0)
    )
    assert len(loose) > len(strict)
    for pair in loose:
        (row,) = (row for row in told(tmp_path) if row["seed"] == pair.seed)
        assert row["answered"] >= 0.5


def test_several_are_kept_as_far_as_they_are_accepted(tmp_path, some):
    pairs = chosen(tmp_path, some, config=CONFIG.model_copy(update={"per_prompt": 3}))
    accepted = {p.id: 0 for p in some} | {}
    for row in told(tmp_path):
        accepted[row["prompt_id"]] += row["answered"] == 1.0
    counts = {p.id: sum(pair.prompt == p for pair in pairs) for p in some}
    assert counts == {id: min(count, 3) for id, count in accepted.items()}
    assert len({pair.image for pair in pairs}) == len(pairs)


def test_a_scorers_threshold_is_a_second_one_and_each_ones_cost_is_counted(tmp_path, left, some):
    ranked = [row["score"] for row in told(left[0])]
    middle = sorted(ranked)[len(ranked) // 2]
    without = [some[2].id]
    pairs = chosen(tmp_path, some, config=changed(score_threshold=middle), without=without)
    rows = told(tmp_path)
    assert [row["score"] for row in rows] == ranked
    rejected = below = 0
    remaining = []
    for prompt in some:
        accepted = [r for r in rows if r["prompt_id"] == prompt.id and r["answered"] == 1.0]
        passing = [row for row in accepted if row["score"] >= middle]
        rejected += prompt.id not in without and not accepted
        below += bool(accepted) and not passing
        remaining += sorted(passing, key=lambda row: -row["score"])[:1]
    assert [pair.seed for pair in pairs] == [row["seed"] for row in remaining]
    expected = Survivors(prompts=8, without_questions=1, rejected=rejected, below_score=below)
    assert below and expected.share == len(pairs) / 8
    assert read_survivors(Workspace(tmp_path), ["cats"]) == {"cats": expected}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        show_pairs({"cats": pairs}, {"cats": expected})
    assert f"{below} ha" in shown.getvalue() and "scores high enough" in shown.getvalue()


def test_another_scorers_threshold_neither_generates_nor_asks_again(tmp_path, some):
    chosen(tmp_path, some)
    judge = PixelJudge("b", dies_after=0)
    high = changed(score_threshold=1e6)
    with pytest.raises(TooFewPairs, match=r"[1-8] none .* and images\.choose\.score_threshold\."):
        chosen(tmp_path, some, config=high, judge=judge, model=lambda: DiesAfter(0))
    low = changed(score_threshold=-1e6)
    chosen(tmp_path, some, config=low, judge=judge)


def test_a_scorers_threshold_works_without_questions(tmp_path, some):
    config = CONFIG.model_copy(update={"choose": Choice(candidates=COUNT)})
    generated(tmp_path / "every", some, config=config)
    best = [row["score"] for row in told(tmp_path / "every") if row["kept"]]
    threshold = sorted(best)[3]
    choose = Choice(candidates=COUNT, score_threshold=threshold, fewest_pairs=1)
    config = CONFIG.model_copy(update={"choose": choose})
    pairs = generated(tmp_path / "high", some, config=config)
    expected = Survivors(prompts=8, without_questions=0, rejected=0, below_score=8 - len(pairs))
    assert len(pairs) == sum(score >= threshold for score in best) < 8
    assert read_survivors(Workspace(tmp_path / "high"), ["cats"]) == {"cats": expected}


def test_recipes_without_a_scorers_threshold_are_as_before(tmp_path, some):
    chosen(tmp_path, some)
    assert "score_threshold" not in manifest(tmp_path / "2-images/cats")["recipe"]
    chosen(tmp_path, some, config=changed(score_threshold=-1e6))
    assert manifest(tmp_path / "2-images/cats")["recipe"]["score_threshold"] == -1e6


@pytest.mark.parametrize(
    "where", ["generating", "scored", "asking", "write_rows", "write_metadata"]
)
def test_a_torn_run_ends_with_the_same_bytes(tmp_path, monkeypatch, some, where):
    chosen(tmp_path / "whole", some)

    def die(*_, **__):
        raise Die

    dying = DiesAfter(5) if where == "generating" else tiny.load("sd1")
    judge = PixelJudge("b", dies_after=0 if where == "asking" else -1)
    with monkeypatch.context() as patched, pytest.raises((Die, Killed)):
        if where not in ("generating", "asking"):
            patched.setattr(generating, where, die)
        chosen(tmp_path / "torn", some, model=lambda: dying, judge=judge)
    torn = sorted((tmp_path / "torn").rglob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in torn}
    chosen(tmp_path / "torn", some)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")
    candidates = {p: t for p, t in times.items() if "_candidates" in p.parts}
    assert {path: path.stat().st_mtime_ns for path in candidates} == candidates


def test_too_few_pairs_are_an_error_that_says_what_to_change(tmp_path, some):
    with pytest.raises(TooFewPairs, match=r"needs 8 pairs .* but has \d: of 8 prompts, 0 have no"):
        chosen(tmp_path, some, config=changed(fewest_pairs=8))
    assert len(list((tmp_path / "2-images/_candidates/cats").glob("*.png"))) == 8 * COUNT
    judge = PixelJudge("b", dies_after=0)
    assert chosen(tmp_path, some, judge=judge, model=lambda: DiesAfter(0))
    with pytest.raises(TooFewPairs, match=r"needs 8 pairs .* Raise images.choose.candidates"):
        chosen(tmp_path, some, config=changed(fewest_pairs=8))  # what is finished is asked, too


def test_too_few_prompts_of_which_all_survive_are_told_to_be_more():
    survivors = Survivors(prompts=2, without_questions=0, rejected=0)
    with pytest.raises(TooFewPairs, match=r"is kept\. Raise prompts\.per_skill, or be content"):
        require_pairs("cats", 2, survivors, fewest=8)
    survivors = Survivors(prompts=2, without_questions=1, rejected=1)
    with pytest.raises(TooFewPairs, match=r"needs 1 pair to .* 1 has no questions, 1 no image"):
        require_pairs("cats", 0, survivors, fewest=1)


def test_without_questions_nothing_is_generated(tmp_path, some):
    with pytest.raises(TooFewPairs, match="8 have no questions") as caught:
        chosen(tmp_path, some, without=[p.id for p in some])
    assert "images.choose.questions" in str(caught.value)
    assert "candidates" not in str(caught.value)
    assert not list(tmp_path.rglob("*.png"))


def test_the_judge_that_reports_may_not_choose(tmp_path, some):
    with pytest.raises(ConfigError, match="choosing_judge must be another"):
        chosen(tmp_path, some, judge=PixelJudge("a"))
    assert not list(tmp_path.rglob("*.png"))


def test_another_judge_answers_anew(tmp_path, some):
    chosen(tmp_path, some)
    judge = PixelJudge("c")
    chosen(tmp_path, some, judge=judge, model=lambda: DiesAfter(0))
    assert judge.answered == 8 * COUNT
    superseded = {path.name.rpartition("-")[0] for path in (tmp_path / "superseded").iterdir()}
    assert superseded == {"2-images_cats", "2-images__answers_cats"}


def test_settings_say_where_questions_come_from():
    assert Choice(questions="mine.csv").questions == "mine.csv"
    written = Choice.model_validate({"questions": {"backend": {"kind": "local"}}}).questions
    assert json.loads(written.model_dump_json())["backend"]["model"] == "smollm2"
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Choice(threshold=1.5)
