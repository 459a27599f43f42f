"""Compiled blocks and convolutions in another order: the same work, but for its last bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import AutoencoderTiny
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import CONFIG, last, trained, weights

from selma.adapters.applying import applied
from selma.backbones.base_files import base_fingerprint
from selma.backbones.speed import make_faster
from selma.backbones.text_to_image import ADAPTER_FILE, TextToImage, load_text_to_image
from selma.config import RunConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError
from selma.experts import checkpoints
from selma.preflight import check
from selma.records.adapters import AppliedAdapter

FASTER = {"compile": True, "channels_last": True}


def image(model: TextToImage) -> torch.Tensor:
    how = {"seeds": [5], "steps": 3, "guidance": 3.0, "batch_size": 1}
    (made,) = model.generate(["a cat"], **how)
    return torch.frombuffer(bytearray(made.tobytes()), dtype=torch.uint8).int()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's compiler hides its own
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
def test_what_is_faster_draws_trains_and_applies_the_same(tmp_path: Path) -> None:
    plain = tiny.load("sd1")
    model = load_text_to_image(tiny.base("sd1").model_copy(update=FASTER))
    compiled = [m for m in model.denoiser.modules() if m._compiled_call_impl is not None]
    assert {type(block).__name__ for block in compiled} == {"BasicTransformerBlock"}
    assert (image(plain) - image(model)).abs().max() <= 1

    data = encoded(tmp_path, pairs(tmp_path), model=lambda: plain)
    usual = trained(tmp_path / "plain", plain, data, CONFIG)
    whole = trained(tmp_path / "whole", model, data, CONFIG)
    trained(tmp_path / "again", model, data, CONFIG, stop_at=3)
    assert last(trained(tmp_path / "again", model, data, CONFIG)) == last(whole)
    for name, tensor in weights(usual).items():
        torch.testing.assert_close(weights(whole)[name], tensor, rtol=1e-4, atol=1e-6)

    file = checkpoints.newest(whole / "checkpoints").path / ADAPTER_FILE
    before, adapters = image(model), [AppliedAdapter(path=file, strength=50.0)]
    with applied(model, adapters), applied(plain, adapters):
        changed = image(model)
        assert (image(plain) - changed).abs().max() <= 1
    assert (changed - before).abs().max() > 1
    assert torch.equal(image(model), before)


@pytest.mark.parametrize("shape", [*tiny.SHAPES[1:], *tiny.FLOW_SHAPES])
def test_every_family_names_its_blocks(shape: str) -> None:
    model = load_text_to_image(tiny.base(shape).model_copy(update=FASTER))
    assert any(m._compiled_call_impl is not None for m in model.denoiser.modules())


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        unet = torch.nn.Sequential(torch.nn.Linear(2, 2))
        transformer = AutoencoderTiny()  # of diffusers, whose models have both lists, perhaps empty

    for name, told in {"unet": "Sequential", "transformer": "AutoencoderTiny"}.items():
        with pytest.raises(ConfigError, match=f"{told} names no repeated blocks"):
            make_faster(Pipe, BaseConfig(compile=True), name)
    monkeypatch.setenv("PATH", str(tmp_path))
    base = BaseConfig(compile=True, device="cpu")
    with pytest.raises(ConfigError, match=r"base\.compile: on a CPU .* C\+\+ compiler"):
        check(RunConfig(name="fast", folder=tmp_path, base=base))


def test_other_last_bits_are_another_base() -> None:
    bases = [BaseConfig(), *(BaseConfig.model_validate({name: True}) for name in FASTER)]
    assert len(set(map(base_fingerprint, bases))) == 3
