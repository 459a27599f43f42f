"""PEFT's patterns: the same answers as PEFT's own function, and none of them takes long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from attacks import Attack
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from selma.adapters.patterns import LONGEST, MOST, MOST_EXPRESSIONS, Patterns
from selma.adapters.reading import read_adapter
from selma.errors import AdapterError

BLOCKS = ("down_blocks.0.attentions.0", "down_blocks.1.attentions.1", "mid_block.attentions.0")
MODULES = [
    f"{block}.transformer_blocks.0.{attention}.{projection}"
    for block in BLOCKS
    for attention in ("attn1", "attn2")
    for projection in ("to_q", "to_k", "to_v", "to_out.0")
] + ["conv_in", "mid_block.resnets.0.conv1", "time_embedding.linear_1"]


def as_peft(patterns: dict[str, int], module: str) -> int | None:
    return patterns.get(get_pattern_key(list(patterns), module))


@pytest.mark.parametrize(
    "patterns",
    [
        {"to_q": 1},
        {"to_out.0": 1, "to_q": 2},
        {r".*\.attn1\.(to_q|to_k)$": 32},
        {"attn[12].to_q": 32},
        {"^mid_block": 1, "^mid_block.*": 2},
        {r"^mid_block\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q": 5},
        {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 5, "to_q": 6},
        {"to_q": 6, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 5},
        {r"down_blocks\.\d+\..*to_[qk]": 1, r"down_blocks\.1\..*": 2, ".*": 3},
        {r"(?:attn2|attn1)\.to_(?:q|v)": 7},
        {r"[^.]+\.linear_\d{1,3}": 4},
        {r"conv1?$": 4, r"conv_in": 5, "": 6},
        {r"attn1\.to_q$|to_k": 9},
        {"q": 1, "o_q": 2, "_q": 3},
        {r"\w+": 1},
        {r"to_q\Z": 1, r"attn2\.to_k\Z|conv_i\Z": 2, r"conv\\Z": 3},
        {"a){0}(conv_in": 8},
    ],
)
def test_the_first_that_matches_is_pefts_own(patterns: dict[str, int]) -> None:
    ours = Patterns(patterns)
    for module in MODULES:
        assert ours.value([module], None) == as_peft(patterns, module), module


@given(
    st.lists(
        st.builds(
            lambda start, module, cut, end: start + ".".join(module.split(".")[-cut:]) + end,
            st.sampled_from(["", "^", ".*", r"\w*", "(x|y)?", "[a-d]*"]),
            st.sampled_from(MODULES),
            st.integers(1, 7),
            st.sampled_from(["", "$", ".*", "(_k)?", "+"]),
        ),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
@settings(max_examples=200, deadline=None)
def test_patterns_drawn_from_names_match_as_in_peft(patterns: list[str]) -> None:
    values = {pattern: number for number, pattern in enumerate(patterns)}
    ours = Patterns(values)
    for module in MODULES:
        assert ours.value([module], None) == as_peft(values, module), module


SLOW = [
    "(a+)+$",
    "(a|a)*$",
    "(a*)*b",
    r"\w*" * 12 + "!",
    r"(\w+\s?)*$",
    "(.*a){20}",
    r"((((((((a*)*)*)*)*)*)*)*)*c",
    ".*.*.*.*.*.*.*.*=.*",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_that_hangs_re_takes_no_time(pattern: str, attack: Attack) -> None:
    attack.injects("adapter headers: patterns")
    start = time.perf_counter()
    patterns = Patterns({pattern: 1})
    for _ in range(100):
        patterns.value([f"mid_block.{'a' * 300}!"], None)
    assert time.perf_counter() - start < 2
    attack.held("adapter headers: patterns")


@pytest.mark.parametrize("pattern", SLOW)
def test_nor_does_a_file_with_it(tmp_path: Path, pattern: str, attack: Attack) -> None:
    attack.injects("adapter headers: patterns")
    path = written(tmp_path / "a.safetensors", {"alpha_pattern": {pattern: 2.0}, "r": 2})
    start = time.perf_counter()
    assert read_adapter(path).rank == 2
    assert time.perf_counter() - start < 5
    attack.held("adapter headers: patterns")


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"(?=x)y": 1}, "looks around or refers back"),
        ({"(?<!x)y": 1}, "looks around or refers back"),
        ({r"(a)\1": 1}, "looks around or refers back"),
        ({"a**": 1}, "no regular expression"),
        ({"*": 1}, "no regular expression"),
        ({"(": 1}, "no regular expression"),
        ({"\\": 1}, "no regular expression"),
        ({"[": 1}, "no regular expression"),
        ({"x{1000}{1000}": 1}, "too large"),
        ({"((x{50}){50}){50}": 1}, "too large"),
        ({f"(x|{n}).{{900}}": 1 for n in range(100)}, "too large"),
        ({"x{,3}": 1}, "otherwise than PEFT"),
        ({"[[a]": 1}, "otherwise than PEFT"),
        ({"a" * (LONGEST + 1): 1}, f"{LONGEST} characters"),
        ({f"a{n}": 1 for n in range(MOST + 1)}, f"{MOST} patterns"),
        ({f"a{n}+": 1 for n in range(MOST_EXPRESSIONS + 1)}, "may be regular expressions"),
    ],
)
def test_what_cannot_be_read_as_peft_does_is_refused(
    tmp_path: Path, patterns: dict[str, int], says: str, attack: Attack
) -> None:
    attack.injects("adapter headers: patterns")
    path = written(tmp_path / "a.safetensors", {"rank_pattern": patterns})
    start = time.perf_counter()
    with pytest.raises(AdapterError, match=f"rank_pattern cannot be read, because .*{says}"):
        read_adapter(path)
    assert time.perf_counter() - start < 5
    attack.held("adapter headers: patterns")


def test_thousands_of_names_are_matched_at_once() -> None:
    modules = [
        f"down_blocks.{b}.attentions.{a}.transformer_blocks.{t}.attn{n}.to_{q}"
        for b in range(4)
        for a in range(5)
        for t in range(10)
        for n in (1, 2)
        for q in "qkvo"
    ]
    patterns = Patterns({f"^{module}": number for number, module in enumerate(modules)})
    assert [patterns.value([module], None) for module in modules[::10]] == list(range(1600))[::10]
    assert patterns.value(["mid_block"], -1) == -1


def written(path: Path, header: dict[str, object]) -> Path:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(2, 4),
        f"{layer}.lora_B.weight": torch.ones(5, 2),
    }
    named = {f"unet.{key}": value for key, value in header.items()}
    safetensors.torch.save_file(tensors, path, {"lora_adapter_metadata": json.dumps(named)})
    return path


def test_a_peft_folder_with_patterns_has_their_scales(tmp_path: Path) -> None:
    tensors = {}
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        stem = f"base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.{projection}"
        tensors[f"{stem}.lora_A.weight"] = torch.ones(4, 8)
        tensors[f"{stem}.lora_B.weight"] = torch.ones(8, 4)
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    settings["alpha_pattern"] = {r".*\.attn1\.(to_q|to_k)$": 32}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    scales = {key.rpartition("attn1.")[2]: layer.scale for key, layer in read(tmp_path).items()}
    assert scales == {"to_q": 8.0, "to_k": 8.0, "to_v": 2.0, "to_out.0": 2.0}


def read(path: Path):
    return read_adapter(path).layers
