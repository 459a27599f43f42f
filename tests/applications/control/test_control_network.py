"""Control networks: no effect at the start, each image from its own condition, exact files."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from selma.adapters.files import Lineage
from selma.applications.control import network_files, networks
from selma.errors import AdapterError, DataError, ModelError

KINDS = ("branch", "controlnet")
TEXTS = ["a cat", "a mat", "cats"]


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def conditioning_images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network_of(model, kind, *, changed=True):
    network = networks.new_network(kind, model.denoiser, halvings=1, seed=0)
    if changed:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.requires_grad_(False)


def generated(model, network=None, conditioning_images=None, *, texts=TEXTS, at_once=2, start=0):
    settings = {"steps": 2, "guidance": 3.0, "batch_size": at_once}
    seeds = range(start, start + len(texts))
    if network is None:
        return [np.array(p) for p in model.generate(texts, seeds=seeds, **settings)]
    conditioning = networks.Conditioning(network)
    with conditioning.within(model.denoiser):
        images = model.generate(
            texts,
            seeds=seeds,
            **settings,
            before=lambda positions: conditioning.show(conditioning_images[list(positions)]),
        )
        return [np.array(image) for image in images]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_changes_no_image_and_a_trained_one_does(model, conditioning_images, kind):
    plain = generated(model)
    assert same(
        generated(model, network_of(model, kind, changed=False), conditioning_images), plain
    )
    assert not same(generated(model, network_of(model, kind), conditioning_images), plain)
    assert same(generated(model), plain)  # nothing stays behind


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_condition_alone(model, conditioning_images, kind):
    network = network_of(model, kind)
    images = generated(model, network, conditioning_images)
    # Alone, and therefore at another position of the batch.
    last = generated(model, network, conditioning_images[2:], texts=TEXTS[2:], start=2)
    assert np.array_equal(images[2], last[0])
    other = torch.cat([conditioning_images[:2], 1 - conditioning_images[2:]])
    changed = generated(model, network, other)
    assert same(changed[:2], images[:2]) and not np.array_equal(changed[2], images[2])


def test_the_branch_is_added_once_to_the_first_features(model, conditioning_images):
    """By hand: conv_in's output plus the encoder's, and nothing else is touched."""
    network, unet = network_of(model, "branch"), model.denoiser
    conditioning = networks.Conditioning(network)
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = unet.conv_in(x)
        with conditioning.within(unet):
            conditioning.show(conditioning_images)
            conditioned = unet.conv_in(x)
    # Guidance's two halves have the same conditions.
    assert torch.equal(conditioned, plain + network(conditioning_images).repeat(2, 1, 1, 1))


def test_the_branch_on_sd15_has_the_released_parameters():
    """1,086,480 in the encoder; with OFT's r = 4 and without the dead time embedding, 14.2 M."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        branch = networks.empty_network("branch", unet, halvings=3)
    assert sum(p.numel() for p in branch.parameters()) == 1_086_480
    strides = [m.stride[0] for m in branch.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(strides) == 8 and strides.count(2) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_what_was_saved(tmp_path, model, conditioning_images, kind):
    network = network_of(model, kind)
    about = {"kind": kind, "condition": "canny", "halvings": 1, "adapter": None}
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        state = network.state_dict()
        network_files.save(path, state, {}, about=about, lineage=Lineage(base="x"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    file = network_files.load(paths[0])
    assert (
        file.about["condition"] == "canny" and file.lineage.base == "x" and file.rotations is None
    )
    assert file.parameters == sum(p.numel() for p in network.parameters())
    with network_files.controlled(model, file) as conditioning:
        assert isinstance(conditioning.network, ControlNetModel) == (kind == "controlnet")
        for name, tensor in network.state_dict().items():
            assert torch.equal(conditioning.network.state_dict()[name], tensor)


def test_foreign_files_are_refused(tmp_path, model):
    path = tmp_path / "control.safetensors"
    path.write_bytes(b"pickle")
    with pytest.raises(AdapterError, match="must be a whole safetensors file"):
        network_files.load(tmp_path)
    network = network_of(model, "branch")
    for halvings, state in ((2, network.state_dict()), (1, {"conv_in.weight": torch.zeros(1)})):
        about = {"kind": "branch", "condition": "canny", "halvings": halvings, "adapter": None}
        network_files.save(path, state, {}, about=about, lineage=Lineage())
        with (
            pytest.raises(AdapterError, match="another model"),
            network_files.controlled(model, network_files.load(path)),
        ):
            pass
    about["halvings"] = 1
    extra = {"nowhere.to_q.oft_generator": torch.zeros(1, 3)}
    network_files.save(path, network.state_dict(), extra, about=about, lineage=Lineage())
    with (
        pytest.raises(AdapterError, match="nowhere"),
        network_files.controlled(model, network_files.load(path)),
    ):
        pass


def test_loras_alpha_counts(tmp_path, model):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = model.denoiser.get_submodule(layer).weight.detach().clone()
    factors = {
        f"{layer}.lora_A.weight": torch.ones(2, weight.shape[1]),
        f"{layer}.lora_B.weight": torch.ones(weight.shape[0], 2),
    }
    about = {"kind": "branch", "condition": "canny", "halvings": 1, "adapter": {"alpha": 6.0}}
    path = tmp_path / "control.safetensors"
    network = network_of(model, "branch")
    network_files.save(path, network.state_dict(), factors, about=about, lineage=Lineage())
    with network_files.controlled(model, network_files.load(path)):
        changed = model.denoiser.get_submodule(layer).weight
        torch.testing.assert_close(changed, weight + 3.0 * 2)  # alpha / rank, times ones @ ones
    assert torch.equal(model.denoiser.get_submodule(layer).weight, weight)


def test_impossible_conditions_are_refused(model, conditioning_images, tmp_path):
    with pytest.raises(ModelError, match="16 times"):
        networks.widths_of(4)
    conditioning = networks.Conditioning(network_of(model, "branch"))
    with conditioning.within(model.denoiser):
        with pytest.raises(ModelError, match="no image"):
            model.denoiser.conv_in(torch.zeros(2, 4, 8, 8))
        conditioning.show(conditioning_images)
        with pytest.raises(ModelError, match="4 samples"):
            model.denoiser.conv_in(torch.zeros(4, 4, 8, 8))
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="16x16"):
        networks.read_conditioning_images([tmp_path / "a.png"], px=16)
