"""Numbers, sizes and names of a header are a stranger's: they are bounded before all else."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from attacks import Attack

from selma.adapters.headers import MOST_TENSORS, parameter_count
from selma.adapters.mixtures import files as mixture_files
from selma.adapters.rotations.foreign import read_any_rotations
from selma.adapters.spellings import LONGEST_NAME
from selma.adapters.sur import files as sur_files
from selma.adapters.sur.network import Widths, as_settings, make
from selma.adapters.table import read_any
from selma.applications.control import network_files
from selma.config.adapters import SurConfig
from selma.errors import AdapterError

CONTROL = {"version": 1, "kind": "branch", "condition": "canny", "halvings": 3, "adapter": None}
FULL = {"selma_full": "unet"}
MIXTURE = {"selma_mixture": json.dumps({"version": 1, "gate": "token", "experts": ["a"]})}
SUR = {"sur": json.dumps({"adapter": {}, "widths": {"text": [8], "pooled": None}})}


def written(path: Path, names: list[str], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file whose tensors are one number each."""
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    for number, name in enumerate(names):
        offsets = [4 * number, 4 * number + 4]
        header[name] = {"dtype": "F32", "shape": [1, 1], "data_offsets": offsets}
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(4 * len(names)))
    return path


KINDS = {
    "lora": ("unet.x{}.lora_A.weight", {}, read_any),
    "rotations": ("unet.x{}.oft_generator", {}, read_any),
    "full": ("x{}.weight", FULL, read_any),
    "mixture": ("unet.x{}.lora_A.weight", MIXTURE, mixture_files.read),
    "sur": ("x{}", SUR, sur_files.load),
    "control": ("x{}", {"selma_control": json.dumps(CONTROL)}, network_files.load),
    "released": ("x{}.R", {}, read_any_rotations),
    "any": ("x{}", {}, parameter_count),
}


@pytest.mark.parametrize(("name", "metadata", "read"), KINDS.values(), ids=KINDS)
def test_tensors_are_counted_and_their_names_measured(
    tmp_path: Path, name: str, metadata: dict[str, str], read: Any, attack: Attack
) -> None:
    attack.injects("adapter headers")
    many = [name.format(number) for number in range(5 * MOST_TENSORS)]
    path = written(tmp_path / "many.safetensors", many, metadata)
    started = time.process_time()
    with pytest.raises(AdapterError, match=r"may have 20,000 tensors, but has 100,000"):
        read(path)
    assert time.process_time() - started < 5
    long = written(tmp_path / "long.safetensors", [name.format("y" * 10**6)], metadata)
    with pytest.raises(AdapterError, match=f"may have {LONGEST_NAME} characters") as refused:
        read(long)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
    attack.held("adapter headers")


def test_as_many_tensors_as_are_allowed_are_read_in_linear_time(tmp_path: Path) -> None:
    names = [f"unet.x{n}.lora_{f}.weight" for n in range(MOST_TENSORS // 2) for f in "AB"]
    path = written(tmp_path / "most.safetensors", names)
    started = time.process_time()
    with pytest.raises(AdapterError, match="names a layer 'x0' that none of"):
        read_any(path)
    assert time.process_time() - started < 10


SUR_FORM = {"form": "released", "attention": "batch", "mix": "shared"}


@pytest.mark.parametrize(
    ("adapter", "widths"),
    [
        ({"depth": 10**9, **SUR_FORM}, {}),
        ({"hidden": 10**15, **SUR_FORM}, {}),
        ({"hidden": 10**30}, {}),
        ({}, {"text": [8] * 10_000}),
        ({}, {"text": [10**30]}),
        ({}, {"text": [-8]}),
        ({}, {"text": [True]}),
        ({}, {"text": "88"}),
        ({}, {"text": [8.0]}),
        ({}, {"text": 8}),
        ({}, {"pooled": 10**12}),
        ({}, {"pooled": []}),
        ([], {}),
    ],
)
def test_a_sur_adapters_sizes_are_bounded_before_it_is_built(
    tmp_path: Path, adapter: Any, widths: dict[str, Any], attack: Attack
) -> None:
    attack.injects("adapter headers")
    config, mine = SurConfig(), Widths((8,))
    tensors = make(config, mine, tokens=4, seed=0).state_dict()
    good: Any = as_settings(config, mine)
    good["adapter"] |= {"hidden": 8}
    as_said = {
        "adapter": {**good["adapter"], **adapter} if isinstance(adapter, dict) else adapter,
        "widths": good["widths"] | widths,
    }
    path = tmp_path / sur_files.FILE
    safetensors.torch.save_file(tensors, path, {"sur": json.dumps(good)})
    assert sur_files.load(path).adapter.widths == mine
    safetensors.torch.save_file(tensors, path, {"sur": json.dumps(as_said)})
    started = time.process_time()
    with pytest.raises(AdapterError, match=r"header says|SUR-adapter"):
        sur_files.load(path)
    assert time.process_time() - started < 2
    attack.held("adapter headers")


@pytest.mark.parametrize(
    "about",
    [
        {"halvings": 10**9},
        {"halvings": float("inf")},
        {"halvings": -1},
        {"halvings": True},
        {"version": 2},
        {"kind": ["branch"]},
        {"condition": None},
        {"adapter": "lora"},
        {"adapter": {"alpha": "8"}},
        {"adapter": {"alpha": float("nan")}},
    ],
)
def test_a_control_networks_header_is_checked(
    tmp_path: Path, about: dict[str, Any], attack: Attack
) -> None:
    attack.injects("adapter headers")
    path = tmp_path / network_files.FILE
    tensors = {"control.x": torch.zeros(1)}
    header = {"selma_control": json.dumps(CONTROL | {"adapter": {"alpha": 8}})}
    safetensors.torch.save_file(tensors, path, header)
    assert network_files.load(path).about["halvings"] == 3
    header = {"selma_control": json.dumps(CONTROL | about)}
    safetensors.torch.save_file(tensors, path, header)
    with pytest.raises(AdapterError, match="its header says"):
        network_files.load(path)
    attack.held("adapter headers")


@pytest.mark.parametrize(
    "settings",
    [
        {"use_cayley_neumann": True, "num_cayley_neumann_terms": 10**9},
        {"use_cayley_neumann": True, "num_cayley_neumann_terms": "five"},
        {"use_cayley_neumann": True, "num_cayley_neumann_terms": [5]},
        {"coft": True, "eps": "small"},
        {"coft": True, "eps": float("nan")},
        {"coft": True, "eps": -1},
    ],
)
def test_pefts_numbers_of_rotations_are_checked(
    tmp_path: Path, settings: dict[str, Any], attack: Attack
) -> None:
    attack.injects("adapter headers")
    name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.oft_R"
    tensors = {f"{name}.weight": torch.zeros(1, 6)}
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "OFT", "oft_block_size": 4, **settings})
    )
    file = read_any(tmp_path)
    started = time.process_time()
    with pytest.raises(AdapterError, match="must be a number from 0 to"):
        file.turn(file.layers[0])
    assert time.process_time() - started < 2
    attack.held("adapter headers")
