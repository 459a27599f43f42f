"""What `selma generate` prints is run with plain diffusers, and is the same image."""

import textwrap

import diffusers
import numpy as np
import pytest
import tiny
import torch
from original_layout import write_single_file
from PIL import Image
from typer.testing import CliRunner

from selma import cli
from selma.adapters import full, lora
from selma.adapters.files import Lineage
from selma.backbones.text_to_image import ADAPTER_FILE, FULL_FILE, load_text_to_image
from selma.config.adapters import FullConfig, LoraConfig
from selma.config.networks import BaseConfig
from selma.images.on_demand import generate
from selma.images.plain_diffusers import in_diffusers


@pytest.fixture(scope="module")
def toybox():
    return load_text_to_image(BaseConfig())


def moved(tensors, std):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(std * torch.randn(tensor.shape, generator=generator))
    return tensors


def lora_folder(folder, model):
    config, none = LoraConfig(rank=2), torch.Generator().manual_seed(0)
    tensors = moved(lora.attach(model.denoiser, config, generator=none), 0.1)
    folder.mkdir()
    lora.save(folder / ADAPTER_FILE, tensors, config, lineage=Lineage())
    lora.detach(model.denoiser)
    return folder


def full_folder(folder, model):
    tensors = moved(full.attach(model.denoiser, FullConfig(), generator=torch.Generator()), 0.003)
    folder.mkdir()
    full.save(folder / FULL_FILE, tensors, FullConfig(), lineage=Lineage())
    full.detach(model.denoiser)
    return folder


def both(tmp_path, *words):
    """The image that the command wrote, and the one that its lines give."""
    path = tmp_path / "image.png"
    arguments = ["generate", "a red ball", "--seed", 3, "--steps", 4, "--guidance", 3, *words]
    result = CliRunner().invoke(cli.app, [str(word) for word in (*arguments, "--out", path)])
    assert result.exit_code == 0, result.output
    names: dict = {}
    exec(textwrap.dedent(result.output.partition("plain diffusers:")[2]), names)
    return np.asarray(Image.open(path)).astype(int), np.asarray(names["image"]).astype(int)


def test_the_lines_give_the_same_image(tmp_path, toybox, measured):
    adapters = {
        "base": [],
        "lora": ["--adapter", lora_folder(tmp_path / "lora", toybox), "--strength", 0.7],
        "full": ["--adapter", full_folder(tmp_path / "full", toybox)],
    }
    images = {name: both(tmp_path, *words) for name, words in adapters.items()}
    for ours, theirs in images.values():
        # A forward pass of another size rounds otherwise: measured are 1 of 255 and 0.15 %.
        assert ours.shape == theirs.shape and (ours != theirs).mean() < 0.01
        measured("diffusers", diffusers.__version__, "the lines that `generate` prints: levels",
                 np.abs(ours - theirs).max(), 1)  # fmt: skip
    assert np.abs(images["lora"][0] - images["base"][0]).max() > 1
    assert np.abs(images["full"][0] - images["base"][0]).max() > 1


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_a_single_file_is_loaded_with_its_configs(tmp_path, shape):
    # Files tell SDXL's two text encoders apart by their widths.
    folder = tiny.build(shape, tmp_path / shape, second_width=48)
    file = write_single_file(folder, tmp_path / "base.safetensors")
    ours, theirs = both(tmp_path, "--base", file, "--base-config", folder)
    assert np.abs(ours - theirs).max() <= 1


def test_another_autoencoder_is_loaded_first(tmp_path):
    other = BaseConfig(model="toybox", vae=str(tmp_path / "vae"))
    pipe = load_text_to_image(BaseConfig()).pipe
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.mul_(0.5)
    pipe.vae.save_pretrained(tmp_path / "vae")
    how = {"base": other, "seed": 3, "steps": 2, "guidance": 3.0}
    names: dict = {}
    exec(in_diffusers("a red ball", **how), names)
    (ours,) = generate("a red ball", **how)
    (plain,) = generate("a red ball", **how | {"base": "toybox"})
    theirs = np.asarray(names["image"]).astype(int)
    assert np.abs(np.asarray(ours) - theirs).max() <= 1 < np.abs(np.asarray(plain) - theirs).max()
