"""Subjects in the one loop: the prior's loss, kept checkpoints, exact resume, four kinds."""

import json

import pytest
import safetensors.torch
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs

from selma.adapters.headers import parameter_count
from selma.adapters.table import adapter_file
from selma.applications.subjects.settings import (
    Prior,
    SubjectMethod,
    SubjectSettings,
    SubjectTraining,
)
from selma.applications.subjects.training import (
    adapter_at,
    kept_steps,
    subject_learner,
    train_subjects,
)
from selma.backbones.text_to_image import ADAPTER_FILE, FULL_FILE, ROTATION_FILE
from selma.config.adapters import CoftConfig, FullConfig, LoraConfig, OftConfig
from selma.experts import checkpoints
from selma.experts.batches import Batches
from selma.experts.training import fit
from selma.workspace import Workspace

ADAPTERS = {
    "lora": LoraConfig(rank=2),
    "full": FullConfig(),
    "oft": OftConfig(blocks=4),
    "coft": CoftConfig(blocks=4, eps=1e-2, radius="paper"),
}
TRAINING = SubjectTraining(steps=4, batch_size=2, checkpoint_every=2, learning_rate=1e-2)
CONFIG = SubjectSettings(
    training=TRAINING,
    prior=Prior(weight=0.5),
    methods={name: SubjectMethod(adapter=adapter) for name, adapter in ADAPTERS.items()},
)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    """The subject's images and the class's, encoded."""
    datasets = []
    for captions in (["a qwe cat"] * 3, ["a cat"] * 5):
        folder = tmp_path_factory.mktemp("data")
        images = pairs(folder, captions=captions)
        datasets.append(encoded(folder, images, model=lambda: model))
    return datasets


def trained(path, model, data, adapter, *, stop_at=None, prior_weight=0.5, training=TRAINING):
    own, prior = data
    path.mkdir(parents=True, exist_ok=True)
    learner = subject_learner(
        model, own, adapter, training,
        subject="cat", seed=0, prior=prior, prior_weight=prior_weight,
    )  # fmt: skip

    def on_step(line):
        if line["step"] == stop_at:
            raise Stop

    settings = {"made_by": {}, "on_step": on_step, "keep_adapters": True}
    if stop_at is None:
        fit(learner, training, path, **settings)
    else:
        with pytest.raises(Stop):
            fit(learner, training, path, **settings)
    return path


def weights(path, step=4):
    folder = checkpoints.checkpoint_folder(path / "checkpoints", step)
    return safetensors.torch.load_file(adapter_file(folder))


def lines(path):
    return [json.loads(line) for line in (path / "loss.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resuming_is_bit_equal_and_the_base_comes_back(tmp_path, model, data, kind):
    straight = trained(tmp_path / "straight", model, data, ADAPTERS[kind])
    stopped = trained(tmp_path / "stopped", model, data, ADAPTERS[kind], stop_at=3)
    resumed = trained(stopped, model, data, ADAPTERS[kind])
    for step in (2, 4):
        a, b = weights(straight, step), weights(resumed, step)
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    assert (straight / "loss.jsonl").read_bytes() == (resumed / "loss.jsonl").read_bytes()
    fresh = tiny.load("sd1").denoiser.state_dict()
    assert all(torch.equal(fresh[name], t) for name, t in model.denoiser.state_dict().items())


def test_the_loss_is_the_subjects_and_the_weighted_priors(tmp_path, model, data):
    path = trained(tmp_path, model, data, ADAPTERS["oft"])
    for line in lines(path):
        assert line["loss"] == pytest.approx(line["subject"] + 0.5 * line["prior"], rel=1e-6)
        assert line["prior"] > 0
    # A weight of 0 trains as if there were no class images; another weight does not.
    none = weights(trained(tmp_path / "none", model, data, ADAPTERS["oft"], prior_weight=0.0))
    alone = trained(tmp_path / "alone", model, (data[0], None), ADAPTERS["oft"])
    assert all(torch.equal(none[n], t) for n, t in weights(alone).items())
    assert any(not torch.equal(none[n], t) for n, t in weights(path).items())


def test_micro_batches_take_the_priors_part_with_them(tmp_path, model, data):
    micro = TRAINING.model_copy(update={"micro_batch_size": 1})
    full = trained(tmp_path / "full", model, data, ADAPTERS["oft"])
    parts = trained(tmp_path / "parts", model, data, ADAPTERS["oft"], training=micro)
    for a, b in zip(lines(full), lines(parts), strict=True):
        for name in ("loss", "subject", "prior"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
    for name, tensor in weights(full).items():
        # Adam makes whole steps of gradients that are near zero, so that rounding shows.
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=0, atol=1e-3)


def test_the_priors_randomness_is_its_own_and_changes_nothing_else():
    plain = Batches(seed=0, skill="s", count=3, batch_size=4, latent=(1, 2, 2),
                    train_timesteps=10, caption_dropout=0.0, flip=False)  # fmt: skip
    class_batches = Batches(**{**vars(plain), "skill": "s/prior", "count": 7})
    both = Batches(**{**vars(plain), "prior": class_batches})
    for step in range(3):
        a, b = plain.at(step), both.at(step)
        assert torch.equal(a.noise, b.noise) and torch.equal(a.indices, b.indices)
        assert b.prior is not None and not torch.equal(b.prior.noise, b.noise)
        assert b.prior.indices.max() < 7
        parts = [part.prior for part in b.parts(1)]
        assert torch.equal(torch.cat([part.noise for part in parts]), b.prior.noise)
    assert all(part.prior is None for part in plain.at(0).parts(2))


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_every_method_leaves_its_adapter_at_every_kept_step(tmp_path, shape):
    model, folder = tiny.load(shape), Workspace(tmp_path / "run")
    own, prior = pairs(tmp_path / "own"), pairs(tmp_path / "class", captions=["a cat"] * 2)
    methods = CONFIG.methods if shape == "sd1" else {"full": CONFIG.methods["full"]}
    config = CONFIG.model_copy(update={"methods": methods})

    def run(settings=config, model=model):
        return train_subjects(
            {"my cat": own}, {"my cat": prior}, settings, folder,
            base=tiny.base(shape), seed=0, model=lambda: model,
        )  # fmt: skip

    adapters = run()
    files = {"lora": ADAPTER_FILE, "full": FULL_FILE, "oft": ROTATION_FILE, "coft": ROTATION_FILE}
    for adapter in adapters:
        assert adapter.steps == (2, 4) == kept_steps(TRAINING)
        early, last = (adapter_at(adapter, s) / files[adapter.method] for s in adapter.steps)
        a, b = (safetensors.torch.load_file(path) for path in (early, last))
        assert a.keys() == b.keys() and any(not torch.equal(a[n], b[n]) for n in a)
        assert parameter_count(last) == sum(tensor.numel() for tensor in a.values())
        assert not (adapter.folder / "checkpoints").exists()
        assert (adapter.folder / "energy.json").exists() == (adapter.method in ("oft", "coft"))
    assert run(model=None) == adapters  # finished: no model is needed
    full = next(adapter for adapter in adapters if adapter.method == "full")
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    assert parameter_count(full.folder / FULL_FILE) == parameters
    heavier = config.model_copy(update={"prior": Prior(weight=2.0)})
    assert {a.key for a in run(heavier)}.isdisjoint(a.key for a in adapters)


def test_kept_steps_end_with_the_last():
    assert kept_steps(TRAINING.model_copy(update={"steps": 5})) == (2, 4, 5)
    assert kept_steps(TRAINING.model_copy(update={"checkpoint_every": 9})) == (4,)
