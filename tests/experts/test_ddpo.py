"""DDPO: its losses and advantages by hand, the ratio of a round's first step, exact resume."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from experts.rewarding import fitted, learner_of, settings
from experts.test_encode_pairs import encoded, pairs
from experts.test_nft import Stop, stopping, tree
from pydantic import ValidationError

from selma.config.rewards import DdpoObjective
from selma.errors import ConfigError
from selma.experts.objectives.ddpo import clipped_losses, prompt_advantages
from selma.experts.rollouts import kept_images
from selma.experts.training import fit

DDPO = DdpoObjective(
    reward="toybox",
    prompts_per_round=2,
    images_per_prompt=2,
    updates_per_round=2,
    sampling_steps=3,
    guidance=2.0,
    images_kept=3,
)


def test_losses_have_their_known_values():
    ratios = torch.tensor([1.001, 1.001, 0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0])
    losses = clipped_losses(ratios, advantages, clip=1e-4)
    torch.testing.assert_close(losses.detach(), torch.tensor([-1.0001, 1.001, -0.5]))
    losses.sum().backward()
    assert ratios.grad is not None and ratios.grad.tolist() == [0.0, 1.0, -1.0]


def test_a_prompt_that_is_known_well_is_compared_with_itself():
    known = {"a": [0.0, 2.0, 0.0, 2.0], "b": [2.0, 5.0]}
    got = prompt_advantages([2.0, 5.0], ["a", "b"], known, min_count=4)
    torch.testing.assert_close(got, torch.tensor([1.0, 1.0]))  # of 1 ± 1, and of 3.5 ± 1.5


@pytest.mark.parametrize("shape", ["sd1", "sd2"])  # epsilon and velocity
def test_it_trains_and_goes_on_where_it_was_cut_short(tmp_path, shape):
    model = tiny.load(shape)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    config = settings(DDPO)
    whole = fitted(tmp_path / "whole", model, data, config, tmp_path)
    lines = [json.loads(line) for line in (whole / "loss.jsonl").read_text().splitlines()]
    # The first step of a round has the very weights that drew it, later ones do not.
    assert [line["ratio"] == 1.0 for line in lines] == [True, False, True, False]
    with pytest.raises(Stop):
        fitted(tmp_path / "cut", model, data, config, tmp_path, on_step=stopping(2))
    with pytest.raises(Stop):
        fitted(tmp_path / "cut", model, data, config, tmp_path, on_step=stopping(3))
    assert tree(fitted(tmp_path / "cut", model, data, config, tmp_path)) == tree(whole)
    for number in ("000001", "000002"):  # one of each prompt, then a second of the first
        images = sorted(path.name for path in (whole / "rounds" / number).glob("*.png"))
        assert images == ["000-0.png", "000-1.png", "001-0.png"]


def test_of_each_prompt_one_image_is_kept_before_another_one_is():
    assert kept_images(6, each=3, count=0) == []
    assert kept_images(6, each=3, count=3) == [0, 3, 1]
    assert kept_images(6, each=3, count=99) == [0, 3, 1, 4, 2, 5]


def test_noise_that_nothing_reads_is_not_drawn_and_changes_no_byte(tmp_path):
    model = tiny.load("sd1")
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    config = settings(DDPO, micro_batch_size=2)
    trees = []
    for noised in (False, True):
        path = tmp_path / f"noised-{noised}"
        path.mkdir()
        learner = learner_of(model, data, config, tmp_path)
        assert not learner.batches.noised
        learner.batches = replace(learner.batches, noised=noised)
        fit(learner, config, path, made_by={})
        drawn = learner.batches.at(0)
        assert drawn.noise.shape == ((4, *model.latent_shape) if noised else (4, 0))
        trees.append(tree(path))
    assert trees[0] == trees[1]


def test_steps_that_the_schedule_has_not_are_refused(tmp_path):
    model = tiny.load("sd1")
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    steps = model.noise_path().steps
    with pytest.raises(ConfigError, match=f"below the {steps} timesteps"):
        config = settings(DDPO.model_copy(update={"sampling_steps": steps}))
        learner_of(model, data, config, tmp_path)
    for bounds in ({"min_timestep": 10}, {"max_timestep": 500}):
        with pytest.raises(ValidationError, match="the timesteps of its own sampler"):
            settings(DDPO, **bounds)


def test_a_base_on_another_path_is_refused(tmp_path, monkeypatch):
    model = tiny.load("sd1")
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    path = SimpleNamespace(steps=model.noise_path().steps)
    monkeypatch.setattr(type(model), "noise_path", lambda self: path)
    with pytest.raises(ConfigError, match="needs a base that DDIM samples"):
        learner_of(model, data, settings(DDPO), tmp_path)
