"""`selma merge FILES`: files of any origin, without a base model, in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from selma.adapters.converting import convert
from selma.adapters.reading import read_adapter
from selma.cli import app
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, ConfigError, IncompatibleExperts
from selma.merged import merging
from selma.merged.diagnostics import header, read_diagnostics
from selma.merged.merging import merge_files
from selma.merged.methods import METHODS

ADDING = [row.name for row in METHODS.values() if not row.rotates]
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.out_proj"
SHORT = TEXT.replace("text_model.", "")
LAYERS = {
    f"unet.{BLOCK}.attn1.to_q": (32, 32, None),
    f"unet.{BLOCK}.attn2.to_k": (32, 768, None),
    "unet.mid_block.resnets.0.conv1": (32, 16, 3),
    TEXT: (24, 24, None),
}


def adapter(path, *, seed=0, rank=2, layers=LAYERS, header=None, factor=1.0):
    """A diffusers LoRA as others write it: no lineage of ours."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, narrow, k) in layers.items():
        a, b = (
            ((rank, narrow), (out, rank))
            if k is None
            else ((rank, narrow, k, k), (out, rank, 1, 1))
        )
        tensors[f"{name}.lora_A.weight"] = torch.randn(a, generator=generator)
        tensors[f"{name}.lora_B.weight"] = factor * torch.randn(b, generator=generator)
    metadata = {"format": "pt"}
    if header:
        metadata["lora_adapter_metadata"] = json.dumps(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def change(path):
    file = read_adapter(path)
    return {
        key: layer.scale * (b @ a)
        for key, layer in file.layers.items()
        for a, b in [file.factors(key)]
    }


def near(one, other):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-4, rtol=1e-4)


def settings(method):
    more = {"rank": 6} if "rank" in METHODS[method].settings.model_fields else {}
    return MergedConfig(method=method, **more)


@pytest.mark.parametrize("method", ADDING)
def test_neither_order_nor_names_nor_formats_matter(tmp_path, method):
    some = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(3)]
    config = settings(method)
    merge_files(some, config, tmp_path / "one.safetensors", weights=[0.5, 0.3, 0.2])
    one = safetensors.torch.load_file(tmp_path / "one.safetensors")

    renamed = [path.rename(tmp_path / f"z{9 - n}.safetensors") for n, path in enumerate(some)]
    merge_files(renamed[::-1], config, tmp_path / "two.safetensors", weights=[0.2, 0.3, 0.5])
    two = safetensors.torch.load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)

    convert(renamed[0], tmp_path / "k.safetensors", to="kohya")
    convert(renamed[1], tmp_path / "p", to="peft")
    mixed = [tmp_path / "k.safetensors", tmp_path / "p", renamed[2]]
    merge_files(mixed, config, tmp_path / "three.safetensors", weights=[0.5, 0.3, 0.2])
    near(change(tmp_path / "three.safetensors"), change(tmp_path / "one.safetensors"))


def test_mixed_ranks_scales_and_layers(tmp_path):
    """Each layer as its own header says; a layer that an expert does not change has delta 0."""
    keys = list(LAYERS)
    few = {key: LAYERS[key] for key in keys[:2]}
    header = {"unet.r": 4, "unet.lora_alpha": 6, "unet.use_rslora": True}
    header["unet.alpha_pattern"] = {"to_k": 2}
    one = adapter(tmp_path / "a.safetensors", rank=4, layers=few, header=header)
    two = adapter(tmp_path / "b.safetensors", rank=3, seed=1)
    merge_files([one, two], MergedConfig(), tmp_path / "m.safetensors")
    a, b, found = change(one), change(two), change(tmp_path / "m.safetensors")
    scales = {layer.scale for layer in read_adapter(one).layers.values()}
    assert scales == {6 / 2, 2 / 2}  # alpha over the root of 4
    assert {len(x) for x in (a, b, found)} == {2, 4}
    near(found, {key: (a.get(key, 0) + b[key]) / 2 for key in b})
    ranks = {
        key: layer.rank for key, layer in read_adapter(tmp_path / "m.safetensors").layers.items()
    }
    assert sorted(ranks.values()) == [3, 3, 7, 7]


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
def test_the_result_goes_to_each_format(tmp_path, to):
    some = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(2)]
    out = tmp_path / "out" / ("m" if to == "peft" else "m.safetensors")
    merge_files(some, MergedConfig(), out, to=to)
    assert read_adapter(out).format == to
    near(change(out), {k: (v + change(some[1])[k]) / 2 for k, v in change(some[0]).items()})


def test_one_odd_experts_conflicts_are_seen(tmp_path):
    """The diagnostics name whose signs are in conflict: the one against the other two."""
    some = [adapter(tmp_path / f"{n}.safetensors") for n in ("a", "b")]
    some.append(adapter(tmp_path / "odd.safetensors", factor=-1.0))
    _, diagnostics = merge_files(some, MergedConfig(method="ties"), tmp_path / "m.safetensors")
    assert diagnostics["experts"]["odd"]["conflict_entries"] == 1.0
    assert diagnostics["experts"]["a"]["conflict_mass"] == 0.0
    assert diagnostics["cosines"]["a"]["odd"] == pytest.approx(-1.0)


def test_files_are_told_in_the_order_in_which_they_came(tmp_path):
    some = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(4)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        weights = [0.1 * (1 + n) for n in order]
        _, diagnostics = merge_files(
            [some[n] for n in order], MergedConfig(), tmp_path / "m.safetensors", weights=weights
        )
        names = [str(n) for n in order]
        assert list(diagnostics["experts"]) == list(diagnostics["cosines"]) == names
        assert [each["weight"] for each in diagnostics["experts"].values()] == weights


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
def test_the_file_itself_holds_its_merges_diagnostics(tmp_path, to):
    """In all, per expert and per layer, in each format and in what it is converted to."""
    some = [adapter(tmp_path / f"{n}.safetensors", seed=n, rank=1 + n) for n in range(3)]
    out = tmp_path / ("m" if to == "peft" else "m.safetensors")
    _, diagnostics = merge_files(some, MergedConfig(method="ties", density=0.5), out, to=to)
    found = read_diagnostics(out)
    assert {key: found[key] for key in ("all", "experts", "cosines")} == {
        key: diagnostics[key] for key in ("all", "experts", "cosines")
    }
    assert (
        found["layers"].keys() == diagnostics["layers"].keys() == LAYERS.keys() - {TEXT} | {SHORT}
    )
    for name, layer in found["layers"].items():
        told = diagnostics["layers"][name]
        assert layer.keys() == {"relative_error", "cosine", "conflict_mass", "rank"}
        assert layer == pytest.approx({key: told[key] for key in layer}, rel=1e-3)
        assert layer["relative_error"] > 0 and 0 < layer["cosine"] < 1
    assert len({layer["relative_error"] for layer in found["layers"].values()}) == len(LAYERS)
    for other in {"diffusers", "kohya", "peft"} - {to}:
        there = tmp_path / f"{other}{'' if other == 'peft' else '.safetensors'}"
        convert(out, there, to=other)
        assert read_diagnostics(there) == found
    assert read_diagnostics(some[0]) is None


def test_a_large_models_header_stays_small(tmp_path):
    """SDXL's projections and feed-forwards: two thousand layers whose names are long."""
    places = [("down_blocks.1", 2), ("down_blocks.2", 10), ("mid_block", 10), ("up_blocks.0", 10)]
    layers = {
        f"unet.{block}.attentions.{n}.transformer_blocks.{m}.{name}": {
            "relative_error": 1 / (3 + m),
            "cosine": 1 - 1 / (7 + n),
            "conflict_mass": 1 / 7,
            "rank": 640,
        }
        for block, depth in places
        for n in range(5)
        for m in range(depth)
        for name in (
            *(f"attn{k}.{to}" for k in (1, 2) for to in ("to_q", "to_k", "to_v", "to_out.0")),
            *("ff.net.0.proj", "ff.net.2", "attn3.to_q", "attn3.to_k"),
        )
    }
    found = {"all": {}, "experts": {}, "cosines": {}, "layers": layers}
    assert len(layers) == 1920
    # In the file it is a string within JSON, whose quotes are escaped.
    assert len(json.dumps(header(found))) < 50 * len(layers) < len("".join(layers))


@pytest.mark.parametrize(
    "note",
    ["nonsense", "[]", "{}", '{"layers": {}}', '{"figures": ["cosine"], "layers": {"a": []}}'],
)
def test_diagnostics_that_are_none_are_refused(tmp_path, note):
    path = adapter(tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"selma_merge_diagnostics": note})
    assert read_adapter(path).layers
    with pytest.raises(AdapterError, match="must be as this selma"):
        read_diagnostics(path)


def test_inspect_shows_what_a_file_says_of_itself(tmp_path):
    some = [str(adapter(tmp_path / f"{n}.safetensors", seed=len(n))) for n in ("left", "right")]
    out, told = tmp_path / "m.safetensors", tmp_path / "told.json"
    _, diagnostics = merge_files(
        [Path(p) for p in some], MergedConfig(method="ties"), out, to="kohya"
    )

    def said(*line):
        done = CliRunner().invoke(app, ["inspect", *map(str, line)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    text = said(out, "--json", told)
    assert "kohya" in text and "layers: 4 (1 of text_encoder, 3 of unet)" in text
    assert (
        "method: ties" in text
        and f"relative error {diagnostics['all']['relative_error']:.4g}" in text
    )
    for name in ("left", "right"):
        assert f"{diagnostics['experts'][name]['norm']:.4g}" in text
    assert json.loads(told.read_text()) == read_diagnostics(out)
    assert "relative error" not in said(some[0]) and "rank: 2" in said(some[0])


def test_files_that_do_not_fit_are_refused(tmp_path):
    one = adapter(tmp_path / "a.safetensors")
    wide = {key: (out, narrow + 1, k) for key, (out, narrow, k) in LAYERS.items()}
    two = adapter(tmp_path / "b.safetensors", layers=wide)
    with pytest.raises(IncompatibleExperts, match="different models"):
        merge_files([one, two], MergedConfig(), tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="one weight"):
        merge_files([one], MergedConfig(), tmp_path / "m.safetensors", weights=[1, 2])
    assert not (tmp_path / "m.safetensors").exists()


def test_the_command(tmp_path):
    some = [str(adapter(tmp_path / f"{n}.safetensors", seed=n)) for n in range(2)]
    out, told = tmp_path / "m.safetensors", tmp_path / "told.json"
    options = ["--method", "svd", "--max-error", "0.2", "--weights", "0.75,0.25"]
    options += ["--lambda", "0.5", "--to", "kohya", "--out", str(out), "--json", str(told)]
    done = CliRunner().invoke(app, ["merge", *some, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "relative error" in done.output
    a, b = (change(tmp_path / f"{n}.safetensors") for n in range(2))
    for key, found in change(out).items():
        expected = 0.5 * (0.75 * a[key] + 0.25 * b[key])
        assert (found - expected).norm() <= 0.2 * expected.norm()
    assert json.loads(told.read_text())["all"]["norm_ratio"] == pytest.approx(0.5, abs=0.02)

    back = tmp_path / "back.safetensors"
    line = ["convert", str(out), "--to", "diffusers", "--out", str(back)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    near(change(back), change(out))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rank", "3"], "mean_of_deltas has no rank"),
        (["--method", "ties", "--density", "2"], "less than or equal to 1"),
        (["--method", "svd", "--rank", "1", "--max-error", "0.1"], "two ways"),
        (["--weights", "1,x"], "must be numbers"),
        (["--method", "knots", "--consensus", "mean", "--density", "0.5"], "consensus is mean"),
        (["--method", "other"], "ties_of_factors"),
    ],
)
def test_wrong_settings_are_named(tmp_path, options, says):
    one = adapter(tmp_path / "a.safetensors")
    out = ["--out", str(tmp_path / "m.safetensors")]
    with pytest.raises(ConfigError, match=says):
        CliRunner().invoke(app, ["merge", str(one), *out, *options], catch_exceptions=False)


UNNAMED = {"unet.mid_block.resnets.0.conv1": (32, 16, 3)}  # SD's and SDXL's alike


@pytest.mark.parametrize(
    ("to", "out", "layers", "says"),
    [
        ("safetensor", "out.safetensors", LAYERS, "one of diffusers, kohya, peft"),
        ("selma", "out.safetensors", LAYERS, "one of diffusers, kohya, peft"),
        ("diffusers", "out", LAYERS, "one .safetensors file"),
        ("kohya", "out.pt", LAYERS, "one .safetensors file"),
        ("peft", "out.safetensors", LAYERS, "a folder"),
        ("kohya", "out.safetensors", UNNAMED, "--base"),
    ],
)
def test_a_layout_that_cannot_be_written_is_refused_before_the_merge(
    tmp_path, monkeypatch, to, out, layers, says
):
    path = adapter(tmp_path / "a.safetensors", layers=layers)
    monkeypatch.setattr(merging, "combine", lambda *_: pytest.fail("it was merged all the same"))
    with pytest.raises(AdapterError, match=says):
        merge_files([path, path], MergedConfig(), tmp_path / "new" / out, to=to)
    assert sorted(tmp_path.iterdir()) == [path]


MEASURE = """
import json, os, resource, sys
from pathlib import Path
from selma.config.merged import MergedConfig
from selma.merged.merging import merge_files
from selma.merged.methods import METHODS
import torch
small, large, out = [[Path(p) for p in arg.split(",")] for arg in sys.argv[1:4]]
found = {}
for method in (row.name for row in METHODS.values() if not row.rotates):
    read, write = os.pipe()
    if not os.fork():  # each method's peak is its own, and libraries are loaded once
        config = MergedConfig(method=method)
        merge_files(small, config, out[0])  # whatever libraries keep for good is there after this
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        merge_files(large, config, out[0])
        os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    found[method] = 1024 * int(os.read(read, 99))
print(json.dumps(found))
"""


def test_memory_stays_under_twice_the_files(tmp_path):
    names = [
        f"unet.down_blocks.2.attentions.{n % 2}.transformer_blocks.{n // 2}.attn1.{to}"
        for n in range(12)
        for to in ("to_q", "to_k")
    ]
    small = [
        adapter(
            tmp_path / f"s{n}.safetensors", seed=n, rank=64, layers={names[0]: (256, 256, None)}
        )
        for n in range(2)
    ]
    layers = dict.fromkeys(names, (256, 256, None))
    large = [
        adapter(tmp_path / f"l{n}.safetensors", seed=n, rank=64, layers=layers) for n in range(2)
    ]
    size = sum(path.stat().st_size for path in large)
    assert size > 6e6
    lists = [",".join(map(str, paths)) for paths in (small, large)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *lists, str(tmp_path / "m.safetensors")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert list(found) == ADDING
    assert not {method: more for method, more in found.items() if more >= 2 * size}


def places(value, *above):
    """Where in nested mappings there is anything, the whole among it."""
    yield above
    for name, inside in value.items() if isinstance(value, dict) else ():
        yield from places(inside, *above, name)


def put(value, where, odd):
    return {**value, where[0]: put(value[where[0]], where[1:], odd)} if where else odd


@pytest.mark.parametrize("odd", [None, [], 5, "x", {"a": 5}, {"a": None}, [1]], ids=repr)
def test_odd_diagnostics_are_refused_in_words(tmp_path, odd):
    files = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in (1, 2)]
    (path,), _ = merge_files(files, settings("mean_of_deltas"), tmp_path / "merged.safetensors")
    with safetensors.safe_open(path, "pt") as opened:
        notes = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    (key,) = [name for name in notes if name.endswith("_diagnostics")]
    said = json.loads(notes[key])
    refused = 0
    for where in places(said):
        safetensors.torch.save_file(
            tensors, path, {**notes, key: json.dumps(put(said, where, odd))}
        )
        done = CliRunner().invoke(app, ["inspect", str(path)])
        if done.exit_code:
            assert isinstance(done.exception, AdapterError), (where, done.exception)
            assert str(done.exception).endswith("but is none. Merge anew.")
            refused += 1
    assert refused > 10
