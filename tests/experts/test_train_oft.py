"""The same loop with OFT and COFT: resume, clipping, the ball, and what an expert leaves behind."""

import json

import pytest
import safetensors.torch
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import STEPS, changed, files, lines, never, train, trained

from selma.adapters.applying import applied, chosen
from selma.adapters.rotations.cayley import skew
from selma.adapters.rotations.coft import radius_of
from selma.adapters.rotations.files import MAGNITUDES, SKEW_ENTRIES, read_rotations
from selma.backbones.text_to_image import ROTATION_FILE
from selma.config.adapters import CoftConfig, LoraConfig, OftConfig
from selma.errors import ConfigError
from selma.experts import checkpoints

OFT = OftConfig(magnitudes=True, targets="attention+geglu")
COFT = CoftConfig(eps=1e-2, radius="paper")


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("data")
    return encoded(folder, pairs(folder), model=lambda: model)


def saved_bytes(path):
    """As test_train_experts has it, of rotations."""
    found = checkpoints.newest(path / "checkpoints")
    names = (ROTATION_FILE, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE)
    return [(found.path / name).read_bytes() for name in names] + [
        (path / "loss.jsonl").read_bytes()
    ]


def tensors(path):
    found = checkpoints.newest(path / "checkpoints")
    return safetensors.torch.load_file(found.path / ROTATION_FILE)


@pytest.mark.parametrize("adapter", [OFT, COFT], ids=["oft", "coft"])
def test_resuming_at_any_step_is_bit_equal(tmp_path, model, data, adapter):
    config = changed(adapter=adapter)
    whole = trained(tmp_path / "whole", model, data, config)
    fresh = tiny.load("sd1").denoiser.state_dict()
    assert all(torch.equal(fresh[name], t) for name, t in model.denoiser.state_dict().items())
    for stop_at in (1, 3, STEPS):
        path = trained(tmp_path / str(stop_at), model, data, config, stop_at=stop_at)
        assert saved_bytes(trained(path, model, data, config)) == saved_bytes(whole)
    found = tensors(whole)
    assert {name.rpartition(".")[2] for name in found} == (
        {SKEW_ENTRIES, MAGNITUDES} if adapter is OFT else {SKEW_ENTRIES}
    )
    assert all(t.dtype == torch.float32 and t.abs().max() > 0 for t in found.values())


def test_coft_never_leaves_its_ball(tmp_path, model, data):
    path = trained(tmp_path, model, data, changed(adapter=COFT, checkpoint_every=1))
    free = trained(tmp_path / "free", model, data, changed(adapter=OftConfig()))
    limits = []
    for name, vector in tensors(path).items():
        width = model.denoiser.get_submodule(
            name.removeprefix("unet.").removesuffix(f".{SKEW_ENTRIES}")
        ).in_features
        limit = radius_of(COFT, width)
        norms = torch.linalg.matrix_norm(skew(vector))
        assert (norms <= limit * (1 + 1e-5)).all()
        limits.append(bool((norms > limit * 0.999).any()))
        # Without the bound the same training goes further.
        assert torch.linalg.matrix_norm(skew(tensors(free)[name])).max() > limit
    assert any(limits)


def test_clipping_acts_on_rotations(tmp_path, model, data):
    config = changed(adapter=OftConfig(), steps=1, warmup_steps=0, checkpoint_every=1)

    def gradient_norm(name, limit):
        path = tmp_path / name
        trained(path, model, data, config.model_copy(update={"max_grad_norm": limit}))
        found = checkpoints.newest(path / "checkpoints")
        moments = safetensors.torch.load_file(found.path / checkpoints.OPTIMIZER_FILE)
        first = [m for key, m in moments.items() if key.startswith("exp_avg/")]
        return float(torch.cat([m.flatten() for m in first]).norm()) / (1 - config.betas[0])

    free = gradient_norm("free", None)
    assert free > 0
    assert gradient_norm("clipped", free / 10) == pytest.approx(free / 10, rel=1e-3)


def test_training_lowers_the_loss_and_micro_batches_change_nothing(tmp_path, model, data):
    config = changed(
        adapter=OftConfig(), steps=30, batch_size=8, schedule="constant", checkpoint_every=30
    )
    path = trained(tmp_path / "a", model, data, config)
    losses = [line["loss"] for line in lines(path)]
    assert sum(losses[-10:]) < 0.99 * sum(losses[:10])
    few = config.model_copy(update={"steps": 2, "micro_batch_size": 2})
    other = trained(tmp_path / "b", model, data, few)
    for one, two in zip(lines(path), lines(other), strict=False):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_bf16_keeps_generators_in_float32(tmp_path, model, data):
    config = changed(adapter=OFT, precision="bf16", steps=3, warmup_steps=0)
    path = trained(tmp_path, model, data, config)
    assert all(t.dtype == torch.float32 and t.abs().max() > 0 for t in tensors(path).values())


def test_the_first_loss_is_loras(tmp_path, model, data):
    """Both begin at the base, on the same batch."""
    each = [
        lines(trained(tmp_path / adapter.kind, model, data, changed(adapter=adapter, steps=1)))
        for adapter in (LoraConfig(rank=2), OftConfig(), COFT)
    ]
    losses = {line[0]["loss"] for line in each}
    assert len(losses) == 1


def test_an_expert_is_an_item_with_its_energies(tmp_path, model):
    some = pairs(tmp_path)
    config = changed(adapter=OFT, steps=2, warmup_steps=0)
    expert = train(tmp_path, some, lambda: model, config)
    assert sorted(path.name for path in expert.folder.iterdir()) == [
        "energy.json", "loss.jsonl", "manifest.json", "plan.json", ROTATION_FILE,
    ]  # fmt: skip
    assert train(tmp_path, some, never, config) == expert
    file = read_rotations(expert.folder)
    assert file.about["targets"] == "attention+geglu"
    assert file.lineage.base == model.fingerprint
    assert file.lineage.made_by["skill"] == "cats"
    energies = json.loads((expert.folder / "energy.json").read_text())
    assert len(energies["layers"]) == len(file.layers)
    for one in energies["layers"].values():
        assert one["after"] == pytest.approx(one["before"], rel=1e-4)
    other = train(tmp_path / "again", some, lambda: model, config)
    assert files(other.folder) == files(expert.folder)
    coft = train(tmp_path / "c", some, lambda: model, changed(adapter=COFT, steps=2))
    assert coft.key != expert.key


def test_the_best_checkpoint_on_dev_is_drawn_and_taken(tmp_path, model):
    def score(folder):
        with applied(model, chosen([folder])):  # nothing else is attached any more
            pass
        return {2: 1.0, 4: 3.0, 6: 2.0}[int(folder.name.removeprefix("step-"))]

    config = changed(adapter=OFT, select="dev")
    expert = train(tmp_path, pairs(tmp_path), lambda: model, config, dev_score=score)
    assert read_rotations(expert.folder).lineage.made_by["step"] == 4


def test_blocks_that_do_not_fill_a_layer_stop_the_training(tmp_path, model, data):
    with pytest.raises(ConfigError, match="divide"):
        trained(tmp_path, model, data, changed(adapter=OftConfig(blocks=5)))
    assert not any("forward" in vars(layer) for layer in model.denoiser.modules())
