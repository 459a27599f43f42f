"""Rewards of images: shares of answers with their dependencies, scores, and who may not judge."""

from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError
from scores.colours import ColourJudge

from selma.config import RunConfig
from selma.config.rewards import NftObjective
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError, ModelError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.prompts import Prompt
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.rewarding import ScoredImages, WithScores, rewards

ASKED = BenchmarkPrompt(
    id="p",
    text="red, green and blue",
    group="cats",
    questions=(
        Question(id="1", text="Is there red?", category="entity"),
        Question(id="2", text="Is there green?", category="entity"),
        Question(id="3", text="Is there blue?", category="entity", parents=("2",)),
    ),
)
PROMPT = Prompt(id="p", skill="cats", text=ASKED.text)
NFT = {"objective": {"kind": "nft", "reward": "toybox"}}
OTHER = Prompt(id="q", skill="cats", text="a dog")


def networks(reporting: float = 0.3) -> ScoringNetworks:
    thresholds = {"toybox-a": reporting, "toybox-b": 0.2}
    return ScoringNetworks(
        ScoresConfig(), Loaders(judge=lambda name: ColourJudge(name, threshold=thresholds[name]))
    )


def halves(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def reward_of(**settings: Any) -> Any:
    objective = NftObjective(reward="questions", questions="toybox")
    config = ScoresConfig(**settings)
    return rewards(objective, config, networks(), {"cats": [ASKED]})("cats")


def test_the_reward_is_the_share_of_answers_with_their_dependencies() -> None:
    images = [halves("red", "blue"), halves("red", "green"), halves("green", "blue")]
    rows = reward_of().rows(images, [PROMPT] * 3)
    # Of the first, blue depends on green, which is not there.
    assert [row["reward"] for row in rows] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert [answer["question"] for answer in rows[0]["answers"]] == ["1", "2", "3"]
    alone = reward_of(zeroing="none").rows(images, [PROMPT] * 3)
    assert [row["reward"] for row in alone] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert reward_of().knows(PROMPT) and not reward_of().knows(OTHER)
    assert reward_of().recipe != reward_of(zeroing="none").recipe


def test_the_judge_that_reports_is_no_reward() -> None:
    same = networks(reporting=0.2)
    objective = NftObjective(reward="questions", questions="toybox")
    reward = rewards(objective, ScoresConfig(), same, {"cats": [ASKED]})("cats")
    with pytest.raises(ConfigError, match="must be another judge"):
        _ = reward.recipe
    with pytest.raises(ConfigError, match="must be another judge"):
        reward.rows([halves("red", "blue")], [PROMPT])


def test_vqascore_asks_the_choosing_judge_about_whole_prompts() -> None:
    config = ScoresConfig(vqascore="Is there {text}?")
    objective = NftObjective(reward="vqascore")
    reward = rewards(objective, config, networks(), {})("cats")
    red = Prompt(id="r", skill="cats", text="red")
    images = [halves("red", "blue"), halves("green", "blue")]
    judge = ColourJudge("toybox-b", threshold=0.2)  # not the one that reports
    asked = judge.answer(images, [["Is there red?"]] * 2)
    wanted = [answer[0][1] for answer in asked]
    rows = reward.rows(images, [red] * 2)
    assert [row["reward"] for row in rows] == wanted and wanted[0] > 0.9 > 0.1 > wanted[1]
    assert reward.knows(OTHER) and reward.from_zero
    assert reward.recipe == {"vqascore": "Is there {text}?", "judge": "colours-0.2"}
    same = rewards(objective, config, networks(reporting=0.2), {})("cats")
    with pytest.raises(ConfigError, match="must be another judge"):
        same.rows(images, [red] * 2)
    with pytest.raises(ValidationError, match="no other reward has any"):
        NftObjective(reward="vqascore", questions="toybox")


def test_a_judge_without_probabilities_gives_no_vqascore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColourJudge, "_say", staticmethod(lambda chance: ("yes", None)))
    config = ScoresConfig(vqascore="Is there {text}?")
    reward = rewards(NftObjective(reward="vqascore"), config, networks(), {})("cats")
    with pytest.raises(ModelError, match="toybox-b gives none"):
        reward.rows([halves("red", "blue")], [Prompt(id="r", skill="cats", text="red")])


def test_a_scorer_needs_no_questions() -> None:
    scored = ScoredImages(ColourJudge("colours"))
    rows = scored.rows([halves("red", "blue")], [PROMPT])
    assert rows == [{"reward": 100.0}] and scored.knows(OTHER) and not scored.from_zero


def test_scores_are_added_to_a_reward_by_their_weights() -> None:
    alone = reward_of()
    both = WithScores(alone, [(ColourJudge("colours"), 0.02)])
    images = [halves("red", "green"), halves("red", "blue")]
    rows, plain = both.rows(images, [PROMPT, PROMPT]), alone.rows(images, [PROMPT, PROMPT])
    scores = ScoredImages(ColourJudge("colours")).rows(images, [PROMPT, PROMPT])
    assert plain[0]["reward"] != plain[1]["reward"]
    for row, of_questions, of_scorer in zip(rows, plain, scores, strict=True):
        assert row["parts"] == [of_questions["reward"], of_scorer["reward"]]
        assert row["reward"] == of_questions["reward"] + 0.02 * of_scorer["reward"]
        assert row["answers"] == of_questions["answers"]
    assert both.knows(PROMPT) and not both.knows(OTHER) and not both.from_zero
    assert both.recipe == {**alone.recipe, "also": [[ColourJudge("colours").fingerprint, 0.02]]}
    added = {"objective": NFT["objective"] | {"reward": "vqascore", "also": [
        {"scorer": "toybox", "weight": 0.02}]}}  # fmt: skip
    assert RunConfig.model_validate({"name": "r", "experts": added}).chosen_by == ("clip",)


@pytest.mark.parametrize(
    ("different", "method", "searched"),
    [
        ({}, "sum_of_deltas", True),
        ({"merged": {"method": "ties"}}, "ties", True),
        ({"merged": {"search": None}}, "mean_of_deltas", False),
        ({"merged": {"scale": 1.5}}, "mean_of_deltas", False),
        ({"merged": {"mixture": {}}}, "mean_of_deltas", False),
        ({"scores": {"benchmark": "a.csv"}}, "mean_of_deltas", False),
        ({"experts": NFT | {"adapter": {"kind": "oft"}}}, "mean_of_deltas", False),
        ({"experts": {}}, "mean_of_deltas", False),
    ],
)  # fmt: skip
def test_what_rewards_taught_is_added_up_and_its_scale_searched_by_default(
    different: dict[str, Any], method: str, searched: bool
) -> None:
    config = RunConfig.model_validate({"name": "r", "experts": NFT} | different)
    search = config.merged.search
    assert (config.merged.method, search is not None) == (method, searched)
    assert search is None or (search.weights, search.trials) == (False, 6)
    assert RunConfig.model_validate(config.model_dump()) == config


def test_a_scorer_that_rewards_is_no_evidence_and_questions_have_one_source() -> None:
    run: dict[str, Any] = {
        "name": "r",
        "experts": {"objective": {"kind": "nft", "reward": "toybox"}},
    }
    assert RunConfig.model_validate(run).chosen_by == ("clip",)
    assert RunConfig.model_validate(run).questions is None
    asking = {"objective": {"kind": "nft", "questions": "toybox"}}
    config = RunConfig.model_validate({"name": "r", "experts": asking})
    assert config.questions == "toybox" and config.chosen_by == ()
    other = {"choose": {"questions": "other.csv"}}
    with pytest.raises(ValidationError, match="must be the same"):
        RunConfig.model_validate({"name": "r", "experts": asking, "images": other})
