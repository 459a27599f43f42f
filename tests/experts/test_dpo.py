"""Diffusion-DPO: known answers, the base as reference, and exact resume."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import Stop, last, lines

from selma.backbones.families.paths import VariancePreserving
from selma.config.adapters import CoftConfig, LoraConfig, OftConfig
from selma.config.experts import ExpertsConfig
from selma.config.preferences import DpoObjective
from selma.errors import ConfigError, DataError
from selma.experts.objectives.dpo import Errors, hinge_loss, ipo_loss, sigmoid_loss
from selma.experts.preferred import places, preferred_images
from selma.experts.skills import SkillData, expert_learner, train_experts
from selma.experts.training import fit
from selma.records.images import Preference
from selma.workspace import Workspace

PAIRS = [(0, 1), (2, 3), (2, 1)]
CAPTIONS = ["a cat", "a cat at a mat", "cats", "the left cat"]
STEPS = 4
CONFIG = ExpertsConfig(
    adapter=LoraConfig(rank=2),
    objective=DpoObjective(beta=50.0),
    steps=STEPS,
    batch_size=2,
    learning_rate=1e-2,
    precision="fp32",
    checkpoint_every=2,
    caption_dropout=0.3,
    ema_decay=0.9,
    flip=True,
)


def changed(**settings):
    return CONFIG.model_copy(update=settings)


def known():
    return Errors(*(torch.tensor([value]) for value in (0.1, 0.12, 0.1002, 0.12)))


def test_the_known_answer_of_the_papers_loss():
    """beta 5000, which is 2500 in diffusers' script."""
    for settings in (DpoObjective(), DpoObjective(beta=5000.0), DpoObjective(half_beta=2500.0)):
        inside = settings.scale * known().difference
        assert inside.item() == pytest.approx(0.5, abs=1e-3)
        loss = sigmoid_loss(known().difference, settings.scale)
        assert loss.item() == pytest.approx(0.474077, abs=4e-4)
    exact = sigmoid_loss(torch.tensor([0.0002], dtype=torch.float64), 2500.0)
    assert exact.item() == pytest.approx(0.474077, abs=1e-6)


def test_the_other_losses():
    difference = torch.tensor([0.0, 0.0002, 0.0004, 0.001], dtype=torch.float64)
    assert hinge_loss(difference, 2500.0).tolist() == pytest.approx([1, 0.5, 0, 0])
    assert ipo_loss(difference, 2500.0).tolist() == pytest.approx([4e-8, 0, 4e-8, 6.4e-7])


def test_beta_is_said_by_its_convention():
    assert DpoObjective().model_dump()["beta"] == 5000.0
    half = DpoObjective(half_beta=100.0)
    assert (half.scale, half.model_dump()["beta"]) == (100.0, None)
    assert DpoObjective.model_validate(half.model_dump()) == half
    with pytest.raises(ValueError, match="give one"):
        DpoObjective(beta=5000.0, half_beta=2500.0)


def test_presets_fill_what_is_not_said():
    def experts(**settings):
        return ExpertsConfig.model_validate(settings)

    selma = experts(objective={"kind": "dpo"}, adapter={"kind": "oft"})
    assert (selma.learning_rate, selma.steps, selma.batch_size) == (3e-4, 5000, 64)
    assert selma.adapter.kind == "oft"
    public = experts(objective={"kind": "dpo", "preset": "diffusers"}, steps=7)
    assert (public.learning_rate, public.steps, public.batch_size) == (1e-5, 7, 32)
    assert public.adapter.rank == 8
    paper = experts(objective=DpoObjective(preset="paper"))
    assert paper.learning_rate == pytest.approx(2.048e-5)
    assert (paper.batch_size, paper.warmup_steps, paper.caption_dropout) == (2048, 500, 0.2)
    assert experts(**paper.model_dump()) == paper
    assert experts(objective={"kind": "denoising"}) == ExpertsConfig()


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def model(request):
    """Of epsilon and of velocity."""
    return tiny.load(request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("data")
    some = pairs(folder, captions=CAPTIONS)
    return encoded(folder, some, flip=True, model=lambda: model)


def learner_of(model, data, config=CONFIG, preferred=PAIRS):
    return expert_learner(model, data, config, skill="cats", seed=0, preferred=preferred)


def step(learner, *, batch=None, parameters=None):
    path = learner.model.noise_path()
    return learner.losses(batch or learner.batches.at(0), path, step=1)


@pytest.mark.parametrize("adapter", [LoraConfig(rank=2), OftConfig(), CoftConfig()])
def test_at_the_start_the_model_is_its_own_reference(model, data, adapter):
    learner = learner_of(model, data, changed(adapter=adapter))
    with learner.weights.attached() as parameters:
        losses = step(learner)
        assert losses["winner_error"].equal(losses["base_winner_error"])
        assert losses["loser_error"].equal(losses["base_loser_error"])
        assert losses["loss"].tolist() == pytest.approx([math.log(2)] * 2)
        assert losses["implicit_accuracy"].tolist() == [0, 0]  # a tie is no win
        losses["loss"].sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
        assert not losses["base_winner_error"].requires_grad


def test_the_reference_stays_the_base_while_weights_move(model, data):
    learner = learner_of(model, data)
    with learner.weights.attached() as parameters:
        before = step(learner)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.1
        after = step(learner)
    for name in ("base_winner_error", "base_loser_error"):
        assert before[name].equal(after[name])
    assert not before["winner_error"].equal(after["winner_error"])
    errors = [after[n].double() for n in ("winner_error", "loser_error")]
    base = [after[n].double() for n in ("base_winner_error", "base_loser_error")]
    inside = -(50.0 / 2) * ((errors[0] - errors[1]) - (base[0] - base[1]))
    torch.testing.assert_close(after["loss"].double(), -inside.sigmoid().log(), rtol=1e-4, atol=0)
    assert (after["implicit_accuracy"] == (inside > 0)).all()


def test_both_images_share_all_that_is_random(model, data):
    """A pair of an image with itself, of the same text, cannot be told apart: the gradient is 0."""
    learner = learner_of(model, data, preferred=[(0, 0), (2, 2)])
    with learner.weights.attached() as parameters:
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.1
        losses = step(learner)
        assert losses["winner_error"].tolist() == pytest.approx(losses["loser_error"].tolist())
        assert losses["loss"].tolist() == pytest.approx([math.log(2)] * 2, abs=1e-4)


def test_one_pair_never_alters_another(model, data):
    learner = learner_of(model, data)
    batch = learner.batches.at(0)
    with learner.weights.attached():
        together = step(learner, batch=batch)
        alone = [step(learner, batch=part) for part in batch.parts(1)]
        noise = batch.noise.clone()
        noise[1] = float("nan")
        spoilt = step(learner, batch=replace(batch, noise=noise))
    for name, each in together.items():
        assert each.tolist() == pytest.approx([part[name].item() for part in alone], abs=1e-5)
    assert spoilt["winner_error"][1].isnan()
    assert spoilt["winner_error"][0].item() == pytest.approx(together["winner_error"][0].item())


def trained(path, model, data, config=CONFIG, stop_at=None):
    path.mkdir(parents=True, exist_ok=True)

    def on_step(line):
        if line["step"] == stop_at:
            raise Stop

    if stop_at is None:
        fit(learner_of(model, data, config), config, path, made_by={}, on_step=on_step)
    else:
        with pytest.raises(Stop):
            fit(learner_of(model, data, config), config, path, made_by={}, on_step=on_step)
    return path


def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, model, data):
    whole = trained(tmp_path / "whole", model, data)
    trained(tmp_path / "torn", model, data, stop_at=3)
    assert last(trained(tmp_path / "torn", model, data)) == last(whole)
    row = lines(whole)[0]
    assert row["loss"] == pytest.approx(math.log(2)) and row["implicit_accuracy"] == 0
    errors = ("winner_error", "loser_error", "base_winner_error", "base_loser_error")
    assert all(row[name] > 0 for name in errors)
    assert all(line["winner_error"] != line["base_winner_error"] for line in lines(whole)[1:])


def test_micro_batches_are_the_same_step(tmp_path, model, data):
    config = changed(ema_decay=None)
    whole = lines(trained(tmp_path / "whole", model, data, config))
    split = lines(trained(tmp_path / "split", model, data, changed(micro_batch_size=1)))
    for one, other in zip(whole, split, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.fixture(scope="module")
def straight(model):
    """The base on straight paths, whose velocity is noise - x0."""
    path = model.noise_path()

    class Straight(VariancePreserving):
        def noisy(self, x0, noise, timesteps):
            sigma = ((timesteps + 1) / self.steps).view(-1, 1, 1, 1)
            return (1 - sigma) * x0 + sigma * noise

        def target(self, x0, noise, timesteps):
            return noise - x0

    return Straight(path.alphas_bar, path.prediction)


def test_flows_learn_by_the_same_loss(model, data, straight):
    learner = learner_of(model, data)
    batch = learner.batches.at(0)
    with learner.weights.attached():
        flow = learner.losses(batch, straight, step=1)
        plain = step(learner, batch=batch)
    assert flow["loss"].tolist() == pytest.approx([math.log(2)] * 2)
    assert not flow["winner_error"].allclose(plain["winner_error"])


def preferences(folder):
    some = pairs(folder, captions=CAPTIONS)
    return [
        Preference(prompt=some[w].prompt, winner=some[w].image, loser=some[l].image, difference=1.0)
        for w, l in PAIRS  # noqa: E741
    ]


def test_images_are_encoded_once_however_many_pairs_they_are_in(tmp_path):
    preferred = preferences(tmp_path)
    assert [pair.image.stem for pair in preferred_images(preferred)] == ["0", "1", "2", "3"]
    assert places(preferred) == PAIRS
    with pytest.raises(DataError, match="least_difference"):
        SkillData.preferring("cats", [])


def test_experts_are_trained_on_preferences(tmp_path):
    some, config = pairs(tmp_path, captions=CAPTIONS), changed(steps=2)
    model = tiny.load("sd1")

    def train(preferred, where="run"):
        (expert,) = train_experts(
            {"cats": some},
            config,
            Workspace(tmp_path / where),
            base=tiny.base("sd1"),
            seed=0,
            model=lambda: model,
            preferences={"cats": preferred},
        )
        return expert

    first = train(preferences(tmp_path))
    assert train(preferences(tmp_path)).key == first.key
    # The same images in other pairs are another expert.
    assert train(preferences(tmp_path)[::-1]).key != first.key


def test_images_alone_are_not_enough(model, data):
    with pytest.raises(ConfigError, match="only images came"):
        expert_learner(model, data, CONFIG, skill="cats", seed=0)
