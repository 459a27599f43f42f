"""Control's training: resume, what is trained and what is frozen, and the files it leaves."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file

from selma.adapters.rotations.files import MAGNITUDES
from selma.applications.control import network_files
from selma.applications.control import training as training
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import (
    BranchNetwork,
    ControlNetNetwork,
    ControlSettings,
    ControlTraining,
    MagnitudeFitting,
)
from selma.applications.control.training import train_control
from selma.backbones.families.paths import VariancePreserving
from selma.config.adapters import CoftConfig, LoraConfig, OftConfig
from selma.experts import running
from selma.experts.batches import Batches
from selma.experts.encoding import Encoded
from selma.experts.objectives.denoising import denoising_loss
from selma.workspace import Workspace, read_lines

OFT = OftConfig(blocks=4, targets="attention+geglu")
NETWORKS = {
    "oft": BranchNetwork(adapter=OFT),
    "coft": BranchNetwork(adapter=CoftConfig(blocks=4, eps=1e-2, radius="paper")),
    "lora": BranchNetwork(adapter=LoraConfig(rank=2, alpha=4)),
    "branch": BranchNetwork(adapter=None),
    "controlnet": ControlNetNetwork(),
}
SHORT = {
    "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "checkpoint_every": 1, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder, samples = tmp_path_factory.mktemp("samples"), []
    for name in ("color", "conditioning_image"):
        (folder / "train" / name).mkdir(parents=True)
    for n, text in enumerate(["a cat at a mat", "cats", "a mat"]):
        paths = [folder / "train" / name / f"{n}.png" for name in ("color", "conditioning_image")]
        for index, path in enumerate(paths):
            noise = np.random.default_rng([n, index]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        samples.append(
            ControlSample(id=f"s{n}", text=text, image=paths[0], conditioning_image=paths[1])
        )
    return samples


def settings(network, **changes):
    return ControlSettings(network=network, training=ControlTraining(**SHORT), **changes)


def train(folder, samples, model, config):
    return train_control(
        samples, config, Workspace(folder), base=tiny.base("sd1"), seed=0, model=model
    )


def never():
    raise AssertionError("the model was loaded")


def state(model):
    return {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", [*NETWORKS, "magnitudes"])
def test_resuming_is_bit_equal_and_the_base_stays(tmp_path, samples, model, monkeypatch, name):
    if name == "magnitudes":  # stopped in the second of two stages
        config = settings(NETWORKS["oft"], magnitudes=MagnitudeFitting(**SHORT))
    else:
        config = settings(NETWORKS[name])
    before = state(model)
    straight = train(tmp_path / "straight", samples, lambda: model, config)
    fit = running.fit

    def stopping(*args, **settings):
        def on_step(line):
            last = name != "magnitudes" or isinstance(args[0].weights, training.MagnitudeWeights)
            if last and line["step"] == 3:
                raise Stop

        fit(*args, **settings | {"on_step": on_step})

    monkeypatch.setattr(running, "fit", stopping)
    with pytest.raises(Stop):
        train(tmp_path / "cut", samples, lambda: model, config)
    monkeypatch.undo()
    cut = train(tmp_path / "cut", samples, lambda: model, config)
    assert cut.key == straight.key
    files = [sorted(trained.folder.iterdir()) for trained in (straight, cut)]
    for a, b in zip(*files, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert train(tmp_path / "cut", samples, never, config) == cut
    assert equal(state(model), before)
    assert not any("forward" in vars(layer) for layer in model.denoiser.modules())
    file = network_files.load(straight.folder)
    assert file.about["kind"] == config.network.kind
    assert all(tensor.abs().max() > 0 for tensor in file.adapter.values())
    # The zero convolutions have left zero: network and adapter are both trained.
    assert all(t.abs().max() > 0 for n, t in file.network.items() if n.startswith("conv_out"))


def test_all_networks_begin_with_the_same_loss(tmp_path, samples, model):
    """They have the same batches, and no effect at first."""
    losses = set()
    for network in NETWORKS.values():
        config = settings(network)
        config = config.model_copy(
            update={"training": config.training.model_copy(update={"steps": 1})}
        )
        trained = train(tmp_path, samples, lambda: model, config)
        losses.add(read_lines(trained.folder / "loss.jsonl")[0]["loss"])
    assert len(losses) == 1


def test_the_condition_reaches_the_loss(tmp_path, samples, model):
    """With other conditions the same training ends elsewhere; with the same ones it does not."""
    config = settings(NETWORKS["branch"])
    a = train(tmp_path / "a", samples, lambda: model, config)
    other = [
        sample.model_copy(update={"conditioning_image": samples[n - 1].conditioning_image})
        for n, sample in enumerate(samples)
    ]
    b = train(tmp_path / "b", other, lambda: model, config)
    assert a.key != b.key
    networks = [network_files.load(trained.folder).network for trained in (a, b)]
    assert not torch.equal(networks[0]["conv_out.weight"], networks[1]["conv_out.weight"])


def test_micro_batches_change_nothing(tmp_path, samples, model):
    config = settings(NETWORKS["oft"])
    parts = config.training.model_copy(update={"micro_batch_size": 1})
    losses = [
        [row["loss"] for row in read_lines(trained.folder / "loss.jsonl")]
        for trained in (
            train(tmp_path / "a", samples, lambda: model, config),
            train(
                tmp_path / "b",
                samples,
                lambda: model,
                config.model_copy(update={"training": parts}),
            ),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_magnitudes_are_fitted_with_all_else_frozen(tmp_path, samples, model):
    config = settings(NETWORKS["oft"], magnitudes=MagnitudeFitting(**SHORT))
    trained = train(tmp_path, samples, lambda: model, config)
    assert trained.label == "oft-r4-magnitudes"
    plain = config.model_copy(update={"magnitudes": None})
    first = network_files.load(train(tmp_path, samples, never, plain).folder)
    second = network_files.load(trained.folder)
    assert equal(dict(first.network), dict(second.network))
    new = {name for name in second.adapter if name not in first.adapter}
    assert new and all(name.endswith(MAGNITUDES) for name in new)
    assert all(second.adapter[name].abs().max() > 0 for name in new)
    assert equal(dict(first.adapter), {n: t for n, t in second.adapter.items() if n not in new})
    assert second.about["adapter"]["magnitudes"] is True
    # The second stage starts where the first one ended, as images are generated with it.
    begun = read_lines(trained.folder / "loss.jsonl")[0]["loss"]
    ended = float(generating_losses(tmp_path, samples, model, first).mean())
    assert begun == pytest.approx(ended, rel=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_images_are_generated_with_what_was_trained(tmp_path, samples, model, name):
    """The file, fused into the weights, has the loss of its tensors in training."""
    config = settings(NETWORKS[name])
    file = network_files.load(train(tmp_path, samples, lambda: model, config).folder)
    conditioning_images = training.ConditioningImages(
        [sample.conditioning_image for sample in samples], 16
    )
    weights = training.ControlWeights(model, config, 0)
    learner = training.ControlLearner(
        model, encoded(tmp_path), conditioning_images, weights, BATCHES
    )
    with weights.attached() as parameters:
        tensors = weights.read(file.path)
        assert tensors.keys() == parameters.keys()
        start = learner.losses(BATCHES.at(0), NOISE_PATH, step=1)["loss"].detach()
        for key, parameter in parameters.items():
            parameter.data.copy_(tensors[key])
        trained = learner.losses(BATCHES.at(0), NOISE_PATH, step=1)["loss"].detach()
    close = {"rtol": 2e-5, "atol": 0.0}
    torch.testing.assert_close(generating_losses(tmp_path, samples, model, file), trained, **close)
    # Sample by sample: their mean may end near where it began.
    assert not torch.allclose(start, trained, rtol=2e-4, atol=0.0)


BATCHES = Batches(
    seed=0, skill="control-canny", count=3, batch_size=2, latent=(4, 8, 8), train_timesteps=1000,
    caption_dropout=0.0, flip=False,
)  # fmt: skip
NOISE_PATH = VariancePreserving(
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod,
    "epsilon",
)


def encoded(folder):
    path = folder / "3-experts/_encoded/control-canny/encoded.safetensors"
    return Encoded.of(load_file(path))


def generating_losses(folder, samples, model, file):
    """The losses [b] of the first step's samples, by the model as it generates with the file."""
    batch = BATCHES.at(0)
    conditioning_images = training.ConditioningImages(
        [sample.conditioning_image for sample in samples], 16
    )
    with network_files.controlled(model, file) as conditioning, torch.no_grad():
        conditioning.show(conditioning_images.at(batch.indices.tolist()))
        return denoising_loss(model, encoded(folder).samples(batch), batch, NOISE_PATH)
