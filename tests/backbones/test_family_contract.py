"""What every family keeps: an expert is encoded, trained, written, and draws the same in plain
diffusers; batches and stops change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import CONFIG, changed, last, trained

from selma.adapters import lora
from selma.adapters.applying import applied
from selma.adapters.files import Lineage
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig
from selma.errors import ConfigError
from selma.experts import checkpoints
from selma.images.plain_diffusers import in_diffusers
from selma.records.adapters import AppliedAdapter

SHAPES = (*tiny.SHAPES, *tiny.FLOW_SHAPES)
STRONG = changed(learning_rate=0.05)
"""Of which two steps are seen in every pixel."""


@pytest.mark.parametrize("shape", SHAPES)
def test_an_expert_draws_the_same_in_plain_diffusers(tmp_path: Path, shape: str) -> None:
    model = tiny.load(shape)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    path = trained(tmp_path / "expert", model, data, STRONG)
    file = checkpoints.newest(path / "checkpoints").path / ADAPTER_FILE
    (base,) = model.generate(["a cat"], seeds=[5], steps=3, guidance=3.0, batch_size=1)
    with applied(model, [AppliedAdapter(path=file)]):
        (ours,) = model.generate(["a cat"], seeds=[5], steps=3, guidance=3.0, batch_size=1)
    assert base.tobytes() != ours.tobytes()
    names: dict[str, Any] = {}
    with_adapter = [AppliedAdapter(path=file)]
    how = {"base": tiny.base(shape), "adapters": with_adapter, "seed": 5, "steps": 3}
    exec(in_diffusers("a cat", **how, guidance=3.0), names)  # by `load_lora_weights`
    differ = np.abs(np.asarray(names["image"]).astype(int) - np.asarray(ours))
    assert differ.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_change_no_image(shape: str) -> None:
    model = tiny.load(shape)
    texts = ["a cat", "two dogs", "a red bird on a house"]

    def drawn(batch_size: int) -> list[bytes]:
        made = model.generate(texts, seeds=[1, 2, 3], steps=3, guidance=3.0, batch_size=batch_size)
        return [image.tobytes() for image in made]

    together = drawn(3)
    assert drawn(1) == together
    (alone,) = model.generate(texts[1:2], seeds=[2], steps=3, guidance=3.0, batch_size=1)
    assert alone.tobytes() == together[1]


@pytest.mark.parametrize("shape", tiny.FLOW_SHAPES)
def test_a_resumed_training_is_one_never_stopped(tmp_path: Path, shape: str) -> None:
    model = tiny.load(shape)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    whole = last(trained(tmp_path / "whole", model, data, CONFIG))
    trained(tmp_path / "again", model, data, CONFIG, stop_at=3)
    assert last(trained(tmp_path / "again", model, data, CONFIG)) == whole


@pytest.mark.parametrize("shape", SHAPES)
def test_a_choice_of_layers_is_the_familys(tmp_path: Path, shape: str) -> None:
    model = tiny.load(shape)
    drawn = torch.Generator().manual_seed(0)
    for choice, endings in model.family.targets.items():
        config = LoraConfig(rank=2, targets=choice)  # type: ignore[arg-type]
        targets = model.family.targets
        factors = lora.attach(model.denoiser, config, generator=drawn, targets=targets)
        layers = {name.partition(".lora_")[0] for name in factors}
        for ending in endings:
            assert any(layer.endswith(f".{ending}") for layer in layers), ending
        if choice == "attention":
            widths = {f.shape[1] for name, f in factors.items() if ".lora_A." in name}
            assert widths <= model.family.target_widths(model.denoiser.config)
        lora.save(tmp_path / f"{choice}.safetensors", factors, config, lineage=Lineage())
        lora.detach(model.denoiser)
    other = LoraConfig(rank=2, targets="attention+geglu" if shape == "sd3" else "attention+ff")
    if other.targets not in model.family.targets:
        with pytest.raises(ConfigError, match="must be attention"):
            lora.attach(model.denoiser, other, generator=drawn, targets=model.family.targets)
