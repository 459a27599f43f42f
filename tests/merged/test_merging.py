"""Experts' files → one file: refusals, bytes, and the picture it draws."""

import json

import pytest
import safetensors.torch
import torch

from selma.adapters.files import Lineage, given, write_adapter
from selma.adapters.reading import read_adapter
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, ConfigError, IncompatibleExperts
from selma.merged.merging import merge_experts
from selma.records.experts import Expert
from selma.workspace import Workspace

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
LAYERS = tuple(f"{BLOCK}.attn2.{name}" for name in ("to_q", "to_k", "to_v"))


def expert(folder, skill, *, rank=2, alpha=None, base="b" * 64, layers=LAYERS, narrow=32, seed=0):
    """An expert with random factors for layers that the tiny SD 1 has."""
    torch.manual_seed(1000 * seed + sum(map(ord, skill)))
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, narrow)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(32, rank)
    path = folder / skill
    path.mkdir(parents=True)
    write_adapter(
        path / ADAPTER_FILE,
        given(tensors),
        rank=rank,
        alpha=alpha or rank,
        targets=("to_q", "to_k", "to_v"),
        lineage=Lineage(base=base, made_by={"skill": skill}),
    )
    return Expert(skill=skill, folder=path, key=f"key-{skill}-{seed}")


def merged(folder, experts, **settings):
    return merge_experts(experts, MergedConfig(**settings), Workspace(folder / "run"))


def weights(folder):
    return safetensors.torch.load_file(folder / ADAPTER_FILE)


def deltas(folder):
    """Each layer's change, by plain algebra on what is in the file."""
    file = read_adapter(folder)
    return {
        key: layer.scale * (b @ a)
        for key, layer in file.layers.items()
        for a, b in [file.factors(key)]
    }


def assert_close(one, other):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["mean_of_deltas", "mean_of_factors"])
def test_one_expert_merged_is_itself(tmp_path, method):
    only = expert(tmp_path, "cats")
    result = merged(tmp_path, [only], method=method)
    assert result.weights == {"cats": 1.0}
    before, after = weights(only.folder), weights(result.folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("method", ["mean_of_deltas", "mean_of_factors"])
def test_the_order_of_experts_changes_no_byte(tmp_path, method):
    some = [expert(tmp_path, skill) for skill in ("cats", "ants", "bees")]
    one = merged(tmp_path / "one", some, method=method)
    other = merged(tmp_path / "other", some[::-1], method=method)
    assert one.key == other.key
    assert (one.folder / ADAPTER_FILE).read_bytes() == (other.folder / ADAPTER_FILE).read_bytes()


def test_deltas_are_averaged_with_each_experts_own_scale_and_rank(tmp_path):
    some = [expert(tmp_path, "a", rank=2, alpha=6), expert(tmp_path, "b", rank=3)]
    result = merged(tmp_path, some, weights={"a": 0.25, "b": 0.75})
    layers = read_adapter(result.folder).layers
    assert {(layer.rank, layer.scale) for layer in layers.values()} == {(5, 1.0)}
    a, b = deltas(some[0].folder), deltas(some[1].folder)
    assert_close(deltas(result.folder), {key: 0.25 * a[key] + 0.75 * b[key] for key in a})


def test_uniform_weights_sum_to_one(tmp_path):
    some = [expert(tmp_path, f"skill{n}") for n in range(5)]
    result = merged(tmp_path, some)
    assert result.weights == {f"skill{n}": 0.2 for n in range(5)}


def test_mean_of_factors_is_what_its_name_says(tmp_path):
    some = [expert(tmp_path, skill) for skill in ("a", "b")]
    result = weights(merged(tmp_path, some, method="mean_of_factors").folder)
    a, b = (weights(one.folder) for one in some)
    assert_close(result, {key: (a[key] + b[key]) / 2 for key in a})


def test_the_header_has_the_lineage(tmp_path):
    some = [expert(tmp_path, skill) for skill in ("a", "b")]
    result = merged(tmp_path, some)
    with safetensors.safe_open(result.folder / ADAPTER_FILE, framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["selma"]) == {
        "base": "b" * 64,
        "made_by": {
            "experts": {"a": "key-a-0", "b": "key-b-0"},
            "method": "mean_of_deltas",
            "weights": {"a": 0.5, "b": 0.5},
        },
    }
    assert json.loads(header["lora_adapter_metadata"])["unet.r"] == 4


def test_what_is_there_is_not_made_again(tmp_path):
    some = [expert(tmp_path, skill) for skill in ("a", "b")]
    first = merged(tmp_path, some)
    for one in some:
        (one.folder / ADAPTER_FILE).unlink()
    assert merged(tmp_path, some) == first
    with pytest.raises(AdapterError, match="must hold"):
        merged(tmp_path, some, weights={"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("settings", "method", "says"),
    [
        ({"base": "c" * 64}, "mean_of_deltas", "one base model"),
        ({"base": None}, "mean_of_deltas", "does not name"),
        ({"rank": 3}, "mean_of_factors", "equal ranks"),
        ({"narrow": 16}, "mean_of_deltas", "different models"),
    ],
)
def test_experts_that_do_not_fit_are_refused_with_the_reason(tmp_path, settings, method, says):
    some = [expert(tmp_path, "a"), expert(tmp_path, "b", **settings)]
    with pytest.raises(IncompatibleExperts, match=says):
        merged(tmp_path, some, method=method)
    assert not (tmp_path / "run").exists()


def test_no_expert_and_twins_are_refused(tmp_path):
    with pytest.raises(IncompatibleExperts, match="at least one"):
        merged(tmp_path, [])
    one = expert(tmp_path, "a")
    with pytest.raises(IncompatibleExperts, match="twice"):
        merged(tmp_path, [one, one])


def test_weights_must_name_the_skills(tmp_path):
    with pytest.raises(ConfigError, match="'a'"):
        merged(tmp_path, [expert(tmp_path, "a")], weights={"b": 1.0})


def rewritten(one, *, tensors=None, **header):
    """The expert's file with other tensors or header entries."""
    path = one.folder / ADAPTER_FILE
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if header:
        settings = json.loads(metadata["lora_adapter_metadata"])
        metadata["lora_adapter_metadata"] = json.dumps(settings | header)
    safetensors.torch.save_file(tensors or weights(one.folder), path, metadata)


KEY = f"unet.{LAYERS[0]}.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({KEY: torch.full((2, 32), float("nan"))}), "finite"),
        (lambda t: t.update({KEY: torch.full((2, 32), float("inf"))}), "finite"),
        (lambda t: t.update({KEY: torch.randn(3, 32)}), "needs A"),
        (lambda t: t.pop(KEY), "needs A"),
        (lambda t: t.update({"unet.x.lora_magnitude_vector": torch.ones(3)}), "DoRA"),
        (lambda t: t.update({"unet.x.lora_B.bias": torch.ones(3)}), "biases"),
        (lambda t: t.update({"unet.x.hada_w1_a": torch.ones(3, 2)}), "LoHa"),
        (lambda t: t.update({"unet.x.lokr_w1": torch.ones(3, 2)}), "LoKr"),
        (lambda t: t.update({"unet.x.lora_mid.weight": torch.ones(2, 2, 3, 3)}), "Tucker"),
        (lambda t: t.update({f"vae.x.lora_{n}.weight": torch.ones(1, 1) for n in "AB"}), "vae.x"),
        (lambda t: t.update({"text_encoder.x.lora_A.weight": torch.ones(2, 3)}), "needs A"),
        (lambda t: t.update({"unet.x.lora_A.weight": torch.ones(2, 3, 1, 1)}), "needs A"),
        (lambda t: [t.pop(key) for key in list(t)[:-2]] and t.clear(), "empty"),
    ],
)
def test_bad_tensors_are_refused(tmp_path, change, says):
    one = expert(tmp_path, "a")
    tensors = weights(one.folder)
    change(tensors)
    path = one.folder / ADAPTER_FILE
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    with pytest.raises(AdapterError, match=says):
        merged(tmp_path, [one])


@pytest.mark.parametrize(
    "header",
    [
        {"unet.use_dora": True},
        {"unet.lora_bias": True},
        {"unet.init_lora_weights": "pissa"},
        {"unet.something_new": 1},
        {"unet.r": 7},
        {"unet.rank_pattern": {"to_q": 3}},
        {"unet.rank_pattern": {"(?=x)y": 3}},
        {"unet.alpha_pattern": {"to_q": "much"}},
        {"unet.lora_alpha": -1},
    ],
)
def test_headers_that_change_the_meaning_are_refused(tmp_path, header):
    one = expert(tmp_path, "a")
    rewritten(one, **header)
    with pytest.raises(AdapterError):
        merged(tmp_path, [one])


def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path):
    one = expert(tmp_path, "a")
    path = one.folder / ADAPTER_FILE
    item = Workspace(tmp_path).item("4-merged", recipe={})
    item.begin()
    path = item.path / ADAPTER_FILE
    expert(tmp_path / "b", "a").folder.joinpath(ADAPTER_FILE).replace(path)
    item.finish([path], {})
    data = path.read_bytes()
    for place in range(0, len(data), 101):
        path.write_bytes(data[:place])
        with pytest.raises(AdapterError):
            read_adapter(path.parent)
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(AdapterError):
            read_adapter(path.parent)
    path.write_bytes(data)
    assert read_adapter(path.parent).rank == 2
