"""DiffusionNFT: its formula, its start, and rounds that go on where they were cut short."""

import json
import re

import pytest
import tiny
import torch
from experts.rewarding import Redness, fitted, learner_of, settings
from experts.test_encode_pairs import encoded, pairs
from pydantic import ValidationError

from selma.config.experts import ExpertsConfig
from selma.config.rewards import NftObjective
from selma.errors import ConfigError, DataError, ModelError
from selma.experts.advantages import group_advantages, has_spread
from selma.experts.objectives.nft import nft_losses, optimality
from selma.experts.rounds import RoundFiles

NFT = NftObjective(
    reward="toybox",
    prompts_per_round=2,
    images_per_prompt=3,
    updates_per_round=2,
    sampling_steps=2,
    clip=1.0,
    images_kept=1,
)


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd2")  # predicts velocity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder, model):
    return encoded(folder, pairs(folder), model=lambda: model)


def test_advantages_are_of_the_group_over_the_rounds_deviation():
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.5])
    groups = torch.tensor([0, 0, 1, 1])
    assert has_spread(rewards, groups).tolist() == [True, True, False, False]
    deviation = rewards.std(correction=0)  # √(1/8)
    by_round = group_advantages(rewards, groups, deviation="round")
    torch.testing.assert_close(by_round, torch.tensor([-0.5, 0.5, 0.0, 0.0]) / (deviation + 1e-6))
    by_prompt = group_advantages(rewards, groups, deviation="prompt")
    torch.testing.assert_close(by_prompt, torch.tensor([-1.0, 1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


class Endless(Redness):
    """Its first rewards are finite, as those of its check are."""

    def __init__(self, finite: int) -> None:
        super().__init__()
        self.finite = finite

    def rows(self, images, prompts):
        self.finite -= 1
        return [{"reward": 1.0 if self.finite >= 0 else float("nan")} for _ in images]


@pytest.mark.parametrize(("finite", "where"), [(0, "images (own) of the check"), (3, "round 1")])
def test_a_reward_that_is_not_finite_is_told(tmp_path, folder, data, model, finite, where):
    with pytest.raises(ModelError, match=re.escape(where)):
        fitted(tmp_path / "run", model, data, settings(NFT), folder, reward=Endless(finite))


def test_rewards_of_equal_images_are_no_advantage():
    equal = torch.full((6,), 0.1)  # whose mean is not 0.1 in float32
    groups = torch.arange(6) // 3
    assert group_advantages(equal, groups, deviation="prompt").eq(0).all()


def test_optimality_maps_clipped_advantages_to_shares():
    r = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 9.0]), clip=5.0)
    assert r.tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]


def test_the_loss_has_its_known_value():
    """x0 = 0, old 1, now 1.5, β = 1: x̂0⁺ = 1.5, x̂0⁻ = .5; e/w is their size."""
    full = lambda value: torch.full((2, 1, 2, 2), value)  # noqa: E731
    r = torch.tensor([1.0, 0.25])
    losses = nft_losses(full(1.5), full(1.0), full(0.0), r, beta=1.0)
    torch.testing.assert_close(losses, torch.tensor([1.5, 0.25 * 1.5 + 0.75 * 0.5]))
    # β = .1: x̂0⁺ = 1.05, x̂0⁻ = .95, and all of it over β.
    losses = nft_losses(full(1.5), full(1.0), full(0.0), r, beta=0.1)
    torch.testing.assert_close(losses, torch.tensor([10.5, 10 * (0.25 * 1.05 + 0.75 * 0.95)]))


def test_an_average_image_moves_nothing_at_a_rounds_first_step():
    now = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    r = torch.tensor([0.5, 1.0, 0.0])
    nft_losses(now, now.detach(), x0, r, beta=0.7).sum().backward()
    assert now.grad is not None and now.grad[0].abs().max() < 1e-7
    # The best image pulls exactly as hard as the worst pushes.
    gap = (now - x0).detach()
    pulls = [now.grad[n] * gap[n].abs().mean() / gap[n] for n in (1, 2)]
    torch.testing.assert_close(pulls[0], -pulls[1])


def rounds(path):
    return [json.loads(line) for line in (path / "loss.jsonl").read_text().splitlines()]


def tree(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, data, folder):
    lines = []
    path = fitted(
        tmp_path_factory.mktemp("whole"),
        model,
        data,
        settings(NFT),
        folder,
        journal=lambda **facts: lines.append(facts),
    )
    return path, lines


class Stop(Exception):
    pass


def stopping(step):
    def on_step(line):
        if line["step"] == step:
            raise Stop

    return on_step


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_training_that_was_cut_short_ends_in_equal_bytes(
    tmp_path, model, data, folder, whole, step
):
    with pytest.raises(Stop):
        fitted(tmp_path, model, data, settings(NFT), folder, on_step=stopping(step))
    assert tree(fitted(tmp_path, model, data, settings(NFT), folder)) == tree(whole[0])


class Killed(Redness):
    """Ends the training while a round is rewarded."""

    def rows(self, images, prompts):
        self.left = getattr(self, "left", 4) - 1  # three times by the check, then by the rounds
        if self.left < 0:
            raise Stop
        return super().rows(images, prompts)


def test_a_round_that_was_cut_short_is_made_again(tmp_path, model, data, folder, whole):
    with pytest.raises(Stop):
        fitted(tmp_path, model, data, settings(NFT), folder, reward=Killed())
    assert (tmp_path / "rounds" / "000002" / "000-0.png").exists()
    assert tree(fitted(tmp_path, model, data, settings(NFT), folder)) == tree(whole[0])


def test_a_round_leaves_its_rewards_and_a_line_in_the_journal(whole):
    path, journal = whole
    assert [(line["event"], line["round"], line["judged"]) for line in journal] == [
        ("round", 1, 6),
        ("round", 2, 6),
    ]
    rows = (path / "rounds" / "000002" / "rewards.jsonl").read_text().splitlines()
    names = [json.loads(row)["image"] for row in rows]
    assert names == ["000-0", "000-1", "000-2", "001-0", "001-1", "001-2"]
    check = json.loads((path / "rounds" / "check.json").read_text())
    assert {"own", "others", "noise", "own above noise", "own above others"} < set(check)
    assert all("kl" in line and "reward" in line for line in rounds(path))
    assert RoundFiles(path, 2).state().exists() and not RoundFiles(path, 1).state().exists()


def test_the_images_of_a_batch_change_no_bit_of_each_other(model, data, folder):
    learner = learner_of(model, data, settings(NFT), folder)
    shared = {"steps": 2, "guidance": 2.0, "batch_size": 8}
    rows = data.conditioning.map(lambda part: part[[0, 1, 2]])
    together = list(model.generate_latents(rows, data.empty, seeds=[1, 2, 3], **shared))
    alone = data.conditioning.map(lambda part: part[[1]])
    assert together[1].equal(next(model.generate_latents(alone, data.empty, seeds=[2], **shared)))
    assert learner.updates_per_round == 2


def test_latents_decode_to_the_image_that_the_base_generates(model, data, folder):
    text = pairs(folder)[1].prompt.text
    shared = {"steps": 2, "guidance": 2.0, "batch_size": 8}
    image = next(model.generate([text], seeds=[5], **shared))
    row = data.conditioning.map(lambda part: part[[1]])
    latents = list(model.generate_latents(row, data.empty, seeds=[5], **shared))
    decoded = next(model.decode(latents, batch_size=8))
    assert decoded.tobytes() == image.tobytes()


def test_prompts_without_a_reward_are_not_drawn(tmp_path, model, data, folder):
    first, *_ = pairs(folder)
    config = settings(NFT, steps=2)
    reward = Redness(without=(first.prompt.id,))
    path = fitted(tmp_path, model, data, config, folder, reward=reward)
    rows = (path / "rounds" / "000001" / "rewards.jsonl").read_text().splitlines()
    assert first.prompt.id not in {json.loads(row)["prompt"] for row in rows}
    everything = tuple(pair.prompt.id for pair in pairs(folder))
    with pytest.raises(DataError, match="needs prompts that can be rewarded"):
        fitted(tmp_path / "none", model, data, config, folder, reward=Redness(everything))


def test_a_reward_that_likes_noise_is_told(tmp_path, model, data, folder, capsys):
    class Blind(Redness):
        from_zero = True

        def rows(self, images, prompts):
            return [{"reward": 0.8} for _ in images]

    fitted(tmp_path, model, data, settings(NFT, steps=1), folder, reward=Blind())
    shown = " ".join(capsys.readouterr().err.split())
    assert "gives 0.8 to images of noise" in shown and "0.8 to images of other prompts" in shown


def test_without_a_reward_nothing_is_learnt(tmp_path, model, data, folder):
    with pytest.raises(ConfigError, match="learns from rewards"):
        fitted(tmp_path, model, data, settings(NFT), folder, reward=None)


def test_questions_and_their_reward_belong_together():
    with pytest.raises(ValidationError, match="needs questions"):
        NftObjective(reward="questions")
    with pytest.raises(ValidationError, match="no other reward has any"):
        NftObjective(reward="toybox", questions="toybox")
    with pytest.raises(ValidationError, match="caption_dropout at 0"):
        ExpertsConfig(objective=NFT, caption_dropout=0.1)
