"""Pairs of candidates: which are made, which cannot be told apart, and what stays on disk."""

import pytest
import tiny
from images.test_accepting import COUNT, PixelJudge, asked, chosen
from images.test_generating import files, generated, never, prompts
from PIL import Image

from selma.config import RunConfig
from selma.config.images import Choice, ImagesConfig
from selma.config.preferences import PreferencePairs
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError
from selma.images import preferences
from selma.images.preferences import (
    Candidate,
    make_preferences,
    moved,
    noise_of,
    preferred_pairs,
    read_counts,
)
from selma.preflight import check
from selma.records.prompts import Prompt
from selma.scores.accepting import Accepting
from selma.scores.networks import Loaders, ScoringNetworks
from selma.workspace import Workspace, read_lines

CHOOSING = ImagesConfig(steps=2, guidance=3.0, batch_size=2, choose=Choice(candidates=3))
EXACT = PreferencePairs(least_difference=0.0)


def candidates(*scores):
    prompt = Prompt(id="p", skill="cats", text="cats")
    return [Candidate(str(number), prompt, score) for number, score in enumerate(scores)]


def pairs(of, *scores, least=0.0):
    apart, dropped = preferred_pairs(candidates(*scores), of, least_difference=least)
    return [(winner.name, loser.name) for winner, loser in apart], dropped


def test_the_best_is_held_against_the_worst():
    assert pairs("best_worst", 2.0, 3.0, 1.0, 2.5) == ([("1", "2")], 0)


def test_the_first_two_are_a_pair_whatever_the_others_score():
    assert pairs("first_two", 2.0, 3.0, 1.0, 9.0) == ([("1", "0")], 0)


def test_all_are_held_against_all_that_are_worse():
    assert pairs("all", 2.0, 3.0, 1.0) == ([("1", "0"), ("0", "2"), ("1", "2")], 0)


@pytest.mark.parametrize("of", ["best_worst", "first_two", "all"])
def test_equal_candidates_are_no_pair(of):
    assert pairs(of, 1.0, 1.0) == ([], 1)


def test_pairs_nearer_than_the_noise_are_dropped_and_counted():
    assert pairs("all", 2.0, 2.5, 1.0, least=0.5) == ([("0", "2"), ("1", "2")], 1)


def test_noise_is_the_root_mean_square_of_the_changes():
    assert noise_of([1.0, 2.0], [4.0, 6.0]) == pytest.approx(12.5**0.5)
    assert noise_of([1.0, 2.0], [1.0, 2.0]) == 0


def test_an_image_moves_by_one_pixel():
    image = Image.new("RGB", (3, 1))
    for x in range(3):
        image.putpixel((x, 0), (x, x, x))
    assert [moved(image).getpixel((x, 0))[0] for x in range(3)] == [0, 0, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    generated(folder, prompts(), config=CHOOSING)
    return folder


def made(folder, settings=EXACT, **more):
    return make_preferences(["cats"], CHOOSING, settings, Workspace(folder), **more)["cats"]


def rows(folder):
    return read_lines(folder / "2-images/cats/candidates.jsonl")


def test_pairs_are_made_of_kept_candidates_by_their_scores(run):
    preferred = made(run)
    assert [each.prompt.text for each in preferred] == [prompt.text for prompt in prompts()]
    by_name = {row["candidate"]: row for row in rows(run)}
    for each in preferred:
        of_prompt = [r["score"] for r in by_name.values() if r["prompt_id"] == each.prompt.id]
        assert by_name[each.winner.stem]["score"] == max(of_prompt)
        assert by_name[each.loser.stem]["score"] == min(of_prompt)
        assert each.difference == max(of_prompt) - min(of_prompt)
        assert each.winner.is_file() and each.loser.is_file()
    count = read_counts(Workspace(run), ["cats", "none"])["cats"]
    assert (count.pairs, count.dropped, count.prompts, count.measured) == (3, 0, 3, False)


def test_the_noise_is_measured_unless_it_is_set(run, monkeypatch):
    measured = made(run, PreferencePairs(of="all"))
    count = read_counts(Workspace(run), ["cats"])["cats"]
    assert count.measured and count.least_difference > 0
    before = rows(run)
    after = read_lines(run / "2-images/_moved-scores/cats/scores.jsonl")
    scores = [[row["score"] for row in each] for each in (before, after)]
    assert count.least_difference == noise_of(*scores)
    assert count.pairs + count.dropped == 3 * 3
    assert all(each.difference > count.least_difference for each in measured)
    monkeypatch.setattr(preferences, "load_image_scorer", never)  # it is finished
    assert made(run, PreferencePairs(of="all")) == measured


def test_a_torn_run_ends_with_the_same_bytes(tmp_path):
    for name in ("whole", "torn"):
        generated(tmp_path / name, prompts(count=1), config=CHOOSING)
    made(tmp_path / "whole", PreferencePairs())
    for place in ("png_bytes", "scored", "write_rows"):  # in the order in which they come
        with pytest.MonkeyPatch.context() as patched, pytest.raises(AssertionError):
            patched.setattr(preferences, place, lambda *_, **__: never())
            made(tmp_path / "torn", PreferencePairs())
    made(tmp_path / "torn", PreferencePairs())
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_a_judges_answers_can_prefer_as_well(tmp_path):
    some, judge = prompts(count=4), PixelJudge("b")
    chosen(tmp_path, some)
    networks = ScoringNetworks(
        ScoresConfig(), Loaders(judge={"toybox-b": judge, "toybox-a": PixelJudge("a")}.get)
    )
    workspace = Workspace(tmp_path)
    accepting = Accepting({"cats": asked(some)}, ScoresConfig(), networks, workspace, COUNT)
    preferred = made(tmp_path, PreferencePairs(by="answers"), accepting=accepting)
    count = read_counts(workspace, ["cats"])["cats"]
    assert judge.answered == 4 * COUNT  # the moved ones; what it said of the others is on record
    assert count.pairs == len(preferred) and count.pairs + count.dropped == 4
    shares = {row["candidate"]: row["answered"] for row in rows(tmp_path)}
    for each in preferred:
        assert each.difference == shares[each.winner.stem] - shares[each.loser.stem]
        assert each.difference > count.least_difference


def test_there_must_be_candidates_and_answers(run, tmp_path):
    plain = CHOOSING.model_copy(update={"choose": None})
    with pytest.raises(ConfigError, match=r"images\.choose is not set"):
        make_preferences(["cats"], plain, EXACT, Workspace(run))
    with pytest.raises(ConfigError, match=r"choose\.questions is not set"):
        made(run, PreferencePairs(by="answers"))
    settings = {"name": "x", "folder": str(tmp_path), "base": {"model": str(tiny.folder("sd1"))}}
    dpo = {"experts": {"objective": {"kind": "dpo"}}}
    with pytest.raises(ConfigError, match=r"dpo learns from pairs .* images\.choose is not set"):
        check(RunConfig.model_validate(settings | dpo), ["3-experts"])
