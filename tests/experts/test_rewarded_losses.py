"""Losses of objectives by rewards, put together by hand from what one round has left."""

import math
from contextlib import contextmanager

import pytest
import tiny
import torch
from experts.rewarding import fitted, learner_of, settings
from experts.test_ddpo import DDPO
from experts.test_dpok import DPOK
from experts.test_encode_pairs import encoded, pairs
from experts.test_nft import NFT

from selma.experts.objectives.ddpo import last_rewards
from selma.experts.rounds import RoundFiles
from selma.experts.trajectories import PATH
from selma.row_files import write_rows
from selma.workspace import read_lines

OBJECTIVES = (NFT, DDPO, DPOK)


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def model(request):
    """Of epsilon and of velocity."""
    return tiny.load(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder, model):
    return encoded(folder, pairs(folder), model=lambda: model)


@contextmanager
def begun(path, model, data, objective, folder):
    """A learner in its first round, and its parameters."""
    learner = learner_of(model, data, settings(objective), folder)
    (path / "checkpoints").mkdir()
    with learner.weights.attached() as parameters:
        learner.begin_round(RoundFiles(path, 1), parameters, lambda what: None)
        yield learner, parameters


def moved(parameters, by=0.02):
    for parameter in parameters.values():
        parameter.data += by


def losses(learner, *, step):
    batch = learner.batches.at(step - 1)
    return batch, learner.losses(batch, learner.model.noise_path(), step=step)


def test_nfts_loss_is_of_the_trained_the_old_and_the_bases_predictions(
    tmp_path, model, data, folder
):
    objective = NFT.model_copy(update={"clip": 2.0, "kl": 0.5, "beta": 0.3})
    with begun(tmp_path, model, data, objective, folder) as (learner, parameters):
        current, path = learner.rollouts.round, model.noise_path()
        moved(parameters, 0.05)  # what drew is what training began with: the base
        batch, came = losses(learner, step=2)
        x0 = current.drawn["latents"][batch.indices]
        noisy = path.noisy(x0, batch.noise, batch.timesteps)
        known = learner.rollouts.conditioning(batch.indices)

        def predicted():
            with torch.no_grad():
                return model.family.denoise(model.denoiser, noisy, batch.timesteps, known)

        now = predicted()
        with learner.weights.switched_off():
            old = predicted()
    x0_now, x0_old = (path.clean(noisy, v, batch.timesteps) for v in (now, old))
    rewards = current.rewards.view(-1, objective.images_per_prompt)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(correction=0)
    r = (0.5 + advantages.flatten().clamp(-2, 2) / 4)[batch.indices]
    total = 0.0
    for share, sign in ((r, 1), (1 - r, -1)):
        error = (x0_old + sign * 0.3 * (x0_now - x0_old) - x0).flatten(1)
        total = total + share * error.square().mean(1) / error.abs().mean(1)
    kl = (now - old).square().flatten(1).mean(1)
    torch.testing.assert_close(came["kl"], kl)
    torch.testing.assert_close(came["loss"], 2.0 * total / 0.3 + 0.5 * kl)


def test_a_steps_density_is_that_of_the_noise_that_drew_it(tmp_path, model, data, folder):
    """Of all transitions, and with the guidance that they were drawn with."""
    with begun(tmp_path, model, data, DDPO, folder) as (learner, _):
        trajectories, drawn = learner.trajectories, learner.rollouts.round.drawn[PATH]
        for image, row in enumerate(read_lines(tmp_path / "rounds" / "000001" / "rewards.jsonl")):
            stream = torch.Generator().manual_seed(row["seed"])
            noise = torch.randn(drawn.shape[1:], generator=stream)
            assert drawn[image, 0].equal(noise[0])
            for k in range(DDPO.sampling_steps):
                transition = torch.tensor([image * DDPO.sampling_steps + k])
                t, after = trajectories.times[k], trajectories.times[k + 1]
                a, b = (float(trajectories.noise_path.alphas_bar[i]) for i in (t, after))
                sigma = ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
                with torch.no_grad():
                    density = trajectories.log_densities(
                        transition, trajectories.predicted(transition)
                    )
                wanted = -float(noise[k + 1].square().mean()) / 2
                wanted -= math.log(sigma) + math.log(2 * math.pi) / 2
                assert float(density) == pytest.approx(wanted, abs=2e-3)


def test_guidance_is_away_from_the_empty_prompt(tmp_path, model, data, folder):
    with begun(tmp_path, model, data, DDPO, folder) as (learner, parameters):
        moved(parameters)
        trajectories, transitions = learner.trajectories, torch.tensor([0, 4])
        times = trajectories.times[transitions % DDPO.sampling_steps]
        states = trajectories.states(transitions)
        known = learner.rollouts.conditioning(transitions // DDPO.sampling_steps)
        empty = data.empty.map(lambda part: part[[0, 0]])
        with torch.no_grad():
            guided = trajectories.predicted(transitions)
            told, blank = (
                model.family.denoise(model.denoiser, states, times, each) for each in (known, empty)
            )
        torch.testing.assert_close(guided, blank + DDPO.guidance * (told - blank))


def test_ddpo_clips_advantages_and_knows_a_prompts_last_rewards(tmp_path, model, data, folder):
    objective = DDPO.model_copy(update={"clip": 0.25})
    with begun(tmp_path, model, data, objective, folder) as (learner, _):
        assert learner.advantages.abs().max() == 0.25
    for number, rewards in ((1, [1.0, 2.0]), (2, [3.0]), (3, [9.0])):
        rows = [{"prompt": "a", "reward": reward} for reward in rewards]
        place = tmp_path / "known" / "rounds" / f"{number:06d}"
        place.mkdir(parents=True)
        write_rows(place / "rewards.jsonl", rows)
    assert last_rewards(RoundFiles(tmp_path / "known", 2), 2) == {"a": [2.0, 3.0]}


def test_dpoks_loss_has_the_rewards_rest_and_the_distance_to_the_base(
    tmp_path, model, data, folder
):
    objective = DPOK.model_copy(update={"reward_weight": 3.0, "kl": 0.5, "ratio_clip": 1e6})
    with begun(tmp_path, model, data, objective, folder) as (learner, parameters):
        last = learner._value.network.last
        last.weight.data.zero_()
        last.bias.data.fill_(0.25)
        moved(parameters)
        batch, came = losses(learner, step=2)
        with torch.no_grad():
            now = learner.trajectories.predicted(batch.indices)
            with learner.weights.switched_off():
                base = learner.trajectories.predicted(batch.indices)
        rewards = learner.rollouts.round.rewards[batch.indices // objective.sampling_steps]
    kl = (now - base).square().flatten(1).mean(1)
    torch.testing.assert_close(came["kl"], kl)
    assert not came["ratio"].eq(1).any()
    wanted = -3.0 * (rewards - 0.25) * came["ratio"] + 0.5 * kl
    torch.testing.assert_close(came["loss"], wanted)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_micro_batches_are_the_same_step(tmp_path, model, data, folder, objective):
    config = {"steps": 2, "learning_rate": 1e-3}
    whole, split = (
        fitted(tmp_path / str(size), model, data, settings(objective, **config, **parts), folder)
        for size, parts in ((4, {}), (1, {"micro_batch_size": 1}))
    )
    lines = (read_lines(path / "loss.jsonl") for path in (whole, split))
    for one, other in zip(*lines, strict=True):
        for name in ("loss", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5)
