"""Full fine-tuning: bit-exact way back, a file that plain diffusers loads, strengths, refusals."""

import pytest
import safetensors.torch
import tiny
import torch

from selma.adapters import full
from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage, given, write_adapter
from selma.adapters.table import kind_of, read_mergeable
from selma.backbones.text_to_image import FULL_FILE
from selma.config.adapters import FullConfig
from selma.errors import AdapterError, ConfigError


@pytest.fixture
def model():
    return tiny.load("sd1")


def images(model):
    generated = model.generate(["a cat"], seeds=[3], steps=2, guidance=3.0, batch_size=1)
    return [image.tobytes() for image in generated]


def trained(unet, folder, step=0.05):
    """A file of weights that were moved, biases among them."""
    factors = full.attach(unet, FullConfig(), generator=torch.Generator())
    with torch.no_grad():
        for parameter in factors.values():
            parameter.add_(step)
    folder.mkdir(exist_ok=True)
    full.save(folder / FULL_FILE, factors, FullConfig(), lineage=Lineage(base="b"))
    full.detach(unet)
    return folder


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_all_weights_are_trained_saved_and_put_back(tmp_path, shape):
    unet = tiny.load(shape).pipe.unet
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    folder = trained(unet, tmp_path / "full")
    assert all(
        torch.equal(p, before[n]) and not p.requires_grad for n, p in unet.named_parameters()
    )
    other = tiny.load(shape).pipe.unet
    other.load_state_dict(safetensors.torch.load_file(folder / FULL_FILE))  # as others would
    assert all(torch.equal(p, before[n] + 0.05) for n, p in other.named_parameters())


def test_drawing_with_it_and_what_stays(tmp_path, model):
    folder = trained(model.pipe.unet, tmp_path / "full")
    base, other = images(model), tiny.load("sd1")
    other.pipe.unet.load_state_dict(safetensors.torch.load_file(folder / FULL_FILE))
    for place in (folder, folder / FULL_FILE):
        with applied(model, chosen([place])):
            assert images(model) == images(other) != base
        assert images(model) == base
    with applied(model, chosen([folder], [0.0])):
        assert images(model) == base
    with applied(model, chosen([folder], [0.5])):
        name = "conv_in.bias"
        halfway = tiny.load("sd1").pipe.unet.get_parameter(name) + 0.025
        torch.testing.assert_close(model.pipe.unet.get_parameter(name), halfway)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path, model):
    folder, base = trained(model.pipe.unet, tmp_path / "full"), images(model)
    tensors = safetensors.torch.load_file(folder / FULL_FILE)
    tensors.pop("conv_in.bias")
    (tmp_path / "less").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "less" / FULL_FILE)
    with pytest.raises(AdapterError, match="conv_in"), applied(model, chosen([tmp_path / "less"])):
        pass
    with pytest.raises(AdapterError, match="alone"), applied(model, chosen([folder, folder])):
        pass
    with pytest.raises(AdapterError, match="neither merged"):
        read_mergeable(folder)
    assert images(model) == base


def test_a_lora_is_no_full_unet(tmp_path):
    factor = {"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.ones(2, 1)}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    write_adapter(path, given(factor), rank=1, alpha=1.0, targets=("x",), lineage=Lineage())
    assert all(kind_of(place).name == "lora" for place in (path, tmp_path, tmp_path / "n"))
    assert not full.is_full(path)


def test_half_precision_is_refused(model):
    model.pipe.unet.to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"base\.precision fp32"):
        full.attach(model.pipe.unet, FullConfig(), generator=torch.Generator())
    full.detach(model.pipe.unet)
