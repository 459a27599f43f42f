"""DPOK: its clip without PPO's maximum, its value network, exact resume with both."""

import json

import pytest
import tiny
import torch
from experts.rewarding import fitted, settings
from experts.test_encode_pairs import encoded, pairs
from experts.test_nft import Stop, stopping, tree

from selma.config.rewards import DpokObjective
from selma.experts.objectives.dpok import bounded_losses
from selma.experts.value import ValueTraining

DPOK = DpokObjective(
    reward="toybox",
    updates_per_round=2,
    images_per_prompt=2,
    sampling_steps=3,
    guidance=2.0,
    reward_weight=1.0,
    value_batch=4,
    value_batches=2,
    images_kept=0,
)


def test_outside_the_clip_there_is_no_gradient_on_either_side():
    ratios = torch.tensor([1.001, 0.999, 1.0], requires_grad=True)
    losses = bounded_losses(ratios, torch.tensor([-1.0, 1.0, 2.0]), clip=1e-4)
    torch.testing.assert_close(losses.detach(), torch.tensor([1.0001, -0.9999, -2.0]))
    losses.sum().backward()
    assert ratios.grad is not None and ratios.grad.tolist() == [0.0, 0.0, -2.0]


def values(training, path=None):
    if path is not None:
        training.load(path)
    stream = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 1, 2, 2, generator=stream)
    text = torch.randn(6, 3, generator=stream)
    return latents, text, torch.arange(6) % 2, torch.arange(6.0)


def test_the_value_learns_and_goes_from_file_to_file(tmp_path):
    one, other = (ValueTraining(7, 2, learning_rate=1e-2, seed=0) for _ in range(2))
    batch = values(one)
    errors = [one.step([batch]) for _ in range(30)]
    assert errors[-1] < errors[0] / 2
    one.save(tmp_path / "value.safetensors")
    other.load(tmp_path / "value.safetensors")
    assert one.step([batch]) == other.step([batch])
    assert one.step([batch]) == other.step([batch])


def test_it_trains_and_goes_on_where_it_was_cut_short(tmp_path):
    model = tiny.load("sd2")
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    config = settings(DPOK, steps=6)
    whole = fitted(tmp_path / "whole", model, data, config, tmp_path)
    lines = [json.loads(line) for line in (whole / "loss.jsonl").read_text().splitlines()]
    assert [line["ratio"] == 1.0 for line in lines] == [True, False] * 3
    assert lines[0]["kl"] == 0 and lines[1]["kl"] > 0  # at first the adapter is the base
    for step in (3, 5):
        with pytest.raises(Stop):
            fitted(tmp_path / "cut", model, data, config, tmp_path, on_step=stopping(step))
    assert tree(fitted(tmp_path / "cut", model, data, config, tmp_path)) == tree(whole)
