"""A frozen base in fewer bits; what needs torchao runs where `selma[quantization]` is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import CONFIG, last, trained

from selma.adapters.applying import applied
from selma.backbones.base_files import base_fingerprint
from selma.backbones.quantizing import dense, is_quantized
from selma.backbones.text_to_image import ADAPTER_FILE, load_text_to_image
from selma.config import RunConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError
from selma.experts import checkpoints
from selma.preflight import check
from selma.records.adapters import AppliedAdapter


def test_what_cannot_be_quantized_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    base = BaseConfig(quantization="nf4", device="cpu")
    with pytest.raises(ConfigError, match=r"base\.quantization: nf4 needs an NVIDIA GPU"):
        check(RunConfig(name="four", folder=tmp_path, base=base))


def test_another_precision_of_weights_is_another_base() -> None:
    plain, eight = BaseConfig(), BaseConfig(quantization="int8")
    assert base_fingerprint(plain) != base_fingerprint(eight)
    assert not is_quantized(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("shape", ["sd3", "z-image"])
def test_an_expert_of_a_base_in_eight_bits(tmp_path: Path, shape: str) -> None:
    pytest.importorskip("torchao")
    base = tiny.base(shape).model_copy(update={"quantization": "int8"})
    model = load_text_to_image(base)
    layers = [module for module in model.denoiser.modules() if is_quantized(module)]
    assert layers and any(is_quantized(module) for module in model.pipe.text_encoder.modules())
    kept = [layer.weight.data.dequantize().clone() for layer in layers]

    def image() -> bytes:
        how = {"seeds": [5], "steps": 3, "guidance": 3.0, "batch_size": 1}
        (made,) = model.generate(["a cat"], **how)
        return made.tobytes()

    before, plain = image(), tiny.load(shape)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    whole = trained(tmp_path / "whole", model, data, CONFIG)
    trained(tmp_path / "again", model, data, CONFIG, stop_at=3)
    assert last(trained(tmp_path / "again", model, data, CONFIG)) == last(whole)
    file = checkpoints.newest(whole / "checkpoints").path / ADAPTER_FILE
    with applied(model, [AppliedAdapter(path=file, strength=50.0)]):
        adapted = image()
        assert any(not is_quantized(m) for m in model.denoiser.modules() if hasattr(m, "weight"))
    assert adapted != before == image()
    for layer, weight in zip(layers, kept, strict=True):
        assert torch.equal(layer.weight.data.dequantize(), weight)
    # The changed layer is the dequantized weight and the change, unrounded but to its type.
    changed = dense(layers[0], lambda weight: weight + 1, torch.float32)
    torch.testing.assert_close(changed.weight, kept[0].float() + 1)
    assert plain.fingerprint != model.fingerprint
