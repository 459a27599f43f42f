"""Order and noise as functions of seed, skill and step."""

import dataclasses

import pytest
import torch

from selma.config.timesteps import TimestepsConfig
from selma.experts.batches import Batches
from selma.experts.flipping import may_flip


def batches(**changed):
    settings = {
        "seed": 0,
        "skill": "cats",
        "count": 10,
        "batch_size": 4,
        "latent": (4, 8, 8),
        "train_timesteps": 1000,
        "caption_dropout": 0.5,
        "flip": True,
    }
    return Batches(**settings | changed)


def columns(batch):
    """Its tensors by name; the prior's, too, where there is one."""
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    prior = found.pop("prior")
    return found | ({f"prior.{k}": v for k, v in columns(prior).items()} if prior else {})


def same(a, b):
    mine, theirs = columns(a), columns(b)
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.mark.parametrize("prior", [None, batches(skill="prior")])
def test_a_step_is_the_same_whatever_came_before(prior):
    one, other = batches(prior=prior), batches(prior=prior)
    for step in range(5):
        one.at(step)
    assert same(one.at(7), other.at(7))


@pytest.mark.parametrize("change", [{"seed": 1}, {"skill": "dogs"}])
def test_seed_and_skill_change_everything_that_is_random(change):
    a, b = batches().at(3), batches(**change).at(3)
    assert not torch.equal(a.noise, b.noise)
    assert not torch.equal(a.posterior, b.posterior)
    assert not torch.equal(a.timesteps, b.timesteps)


def test_every_epoch_has_every_pair_once():
    order = torch.cat([batches().at(step).indices for step in range(25)])
    epochs = order.split(10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("prior", [None, batches(skill="prior")])
def test_parts_are_the_whole(prior):
    whole = batches(prior=prior).at(2)
    parts = [columns(part) for part in whole.parts(2)]
    for name, column in columns(whole).items():
        assert torch.equal(torch.cat([part[name] for part in parts]), column)


def test_modes_leave_everything_else_random_as_it_was():
    generated, modes = columns(batches().at(1)), columns(batches(sampled=False).at(1))
    assert generated.pop("posterior").std() > 0.9
    assert not modes.pop("posterior").any()
    assert all(torch.equal(generated[name], modes[name]) for name in generated)


def test_shares_are_what_is_asked():
    many = batches(batch_size=4000, latent=(1, 1, 1), caption_dropout=0.1).at(0)
    assert 0.08 < many.dropped.float().mean() < 0.12
    assert 0.46 < many.mirrored.float().mean() < 0.54
    assert many.timesteps.min() == 0
    assert many.timesteps.max() == 999
    none = batches(caption_dropout=0.0, flip=False).at(0)
    assert not none.dropped.any()
    assert not none.mirrored.any()


@pytest.mark.parametrize(
    ("caption", "allowed"),
    [
        ("a red ball on the grass", True),
        ("two cats and a bright sky", True),
        ("the wrighter of songs", True),  # "right" only as a whole word
        ("a ball to the left of a box", False),
        ("on the Right side", False),
        ("a right-handed pitcher", False),
        ('a sign that reads "open"', False),
        ("the word hello in neon", False),
        ("a shop's logo", False),
        ("a jersey with 23 on it", False),
    ],
)
def test_captions_with_sides_or_lettering_forbid_mirroring(caption, allowed):
    assert may_flip(caption) is allowed


def test_timesteps_are_of_the_range_alone_and_nothing_else_changes():
    everywhere = batches(batch_size=64)
    late = batches(batch_size=64, min_timestep=600, train_timesteps=900)
    steps = torch.cat([late.at(step).timesteps for step in range(20)])
    assert steps.min() == 600 and steps.max() == 899
    assert torch.equal(late.at(3).indices, everywhere.at(3).indices)
    assert torch.equal(late.at(3).noise, everywhere.at(3).noise)


@pytest.mark.parametrize(
    ("settings", "mean", "deviation"),
    [
        ({"kind": "uniform"}, 0.5, 0.289),
        ({"kind": "logit_normal"}, 0.5, 0.208),
        ({"kind": "logit_normal", "mean": 1.0}, 0.697, 0.183),
        ({"kind": "mode"}, 0.5, 0.215),
        ({"kind": "uniform", "shift": 3.0}, 0.676, 0.267),
    ],
)
def test_timesteps_are_as_likely_as_the_settings_say(settings, mean, deviation):
    """Means and deviations by numerical integration of arXiv:2403.03206, equations 19 and 20."""
    drawn = batches(timesteps=TimestepsConfig(**settings), batch_size=20_000).at(0).timesteps
    assert drawn.min() >= 0 and drawn.max() <= 999 and drawn.dtype == torch.long
    assert abs(drawn.double().mean() / 1000 - mean) < 0.006
    assert abs(drawn.double().std() / 1000 - deviation) < 0.006
    bounded = batches(
        timesteps=TimestepsConfig(**settings), min_timestep=600, train_timesteps=700, batch_size=500
    )
    assert set(bounded.at(1).timesteps.tolist()) <= set(range(600, 700))
