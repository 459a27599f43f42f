"""`selma merge --verify` and `selma resize`: what was written, held against float64."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from merged.test_files import LAYERS, adapter, settings
from typer.testing import CliRunner

from selma.adapters.converting import convert
from selma.adapters.files import Lineage
from selma.adapters.reading import read_adapter
from selma.adapters.rotations.files import Turn, write_rotations
from selma.cli import app
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, ConfigError, MergeWithoutEffect
from selma.merged import verifying
from selma.merged.merging import merge_files
from selma.merged.methods import METHODS
from selma.merged.resizing import resize

EXACT = ("mean_of_deltas", "mean_of_factors", "sum_of_deltas", "ties_of_factors", "knots")


def dense(path):
    """Layer → its delta in float64, by the file's own tensors."""
    file = read_adapter(path)
    deltas = {}
    for key, layer in file.layers.items():
        a, b = (factor.double() for factor in file.factors(key))
        deltas[key] = layer.scale * (b @ a)
    return deltas


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if not row.rotates])
def test_what_is_written_is_the_merge_in_float64(tmp_path, method):
    inputs = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(3)]
    out = tmp_path / "m.safetensors"
    _, told = merge_files(inputs, settings(method), out, verify=True)
    rows, written = told["verified"], dense(out)
    deltas = [dense(path) for path in inputs]
    assert rows.keys() == written.keys() == deltas[0].keys()
    for key, row in rows.items():
        assert row["written"] == pytest.approx(float(written[key].norm()))
        norms = sorted(row["before"].values())
        assert norms == pytest.approx(sorted(float(each[key].norm()) for each in deltas))
        if method in EXACT:
            assert row["relative_error"] < 1e-6
        if method == "mean_of_deltas":
            mean = sum(each[key] for each in deltas) / 3
            assert row["expected"] == pytest.approx(float(mean.norm()))
        if method == "svd":  # what the cut leaves out is said
            mean = sum(each[key] for each in deltas) / 3
            assert row["relative_error"] == pytest.approx(
                float((written[key] - mean).norm() / mean.norm()), abs=1e-6
            )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
def test_every_layout_is_verified_and_bytes_are_those_without(tmp_path, to):
    inputs = [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(2)]
    name = "m" if to == "peft" else "m.safetensors"
    written, told = merge_files(inputs, MergedConfig(), tmp_path / "a" / name, to=to, verify=True)
    plain, _ = merge_files(inputs, MergedConfig(), tmp_path / "b" / name, to=to)
    assert [p.relative_to(tmp_path / "a") for p in written] == [
        p.relative_to(tmp_path / "b") for p in plain
    ]
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in plain]
    assert all(row["relative_error"] < 1e-6 for row in told["verified"].values())


def test_a_layer_without_effect_is_refused_and_nothing_is_left(tmp_path):
    """An expert against itself: the merge succeeds, and does nothing."""
    first = adapter(tmp_path / "a.safetensors")
    few = dict(list(LAYERS.items())[:1])
    second = adapter(tmp_path / "b.safetensors", factor=-1.0, layers=few)
    out = tmp_path / "m.safetensors"
    merge_files([first, second], MergedConfig(), out)
    before = out.read_bytes()
    with pytest.raises(MergeWithoutEffect, match=r"1 layer does nothing, as unet\.mid.*norm"):
        merge_files([first, second], MergedConfig(), out, verify=True)
    assert out.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_layer_that_is_lost_on_the_way_is_found(tmp_path, monkeypatch):
    """The file is read as others read it, so that what writing loses counts."""
    real = verifying.read_any

    def without_one(path, **how):
        file = real(path, **how)
        del file.layers[next(iter(file.layers))]
        return file

    monkeypatch.setattr(verifying, "read_any", without_one)
    with pytest.raises(MergeWithoutEffect):
        merge_files(
            [adapter(tmp_path / "a.safetensors")], MergedConfig(), tmp_path / "m.safetensors",
            verify=True,
        )  # fmt: skip


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if row.rotates])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_rotations_are_verified(tmp_path, method, scale):
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    paths = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        turn = Turn(
            skew_entries=0.1 * torch.randn(4, 6, generator=generator),
            log_magnitudes=0.1 * torch.randn(16, generator=generator),
        )
        paths.append(tmp_path / f"{seed}.safetensors")
        write_rotations(paths[-1], {key: turn}, lineage=Lineage(base="b" * 64))
    config = MergedConfig(method=method, scale=scale)
    _, told = merge_files(paths, config, tmp_path / "m.safetensors", verify=True)
    (row,) = told["verified"].values()
    assert row["relative_error"] < 1e-6 < row["written"]


def test_the_commands(tmp_path):
    paths = [str(adapter(tmp_path / f"{n}.safetensors", seed=n, rank=4)) for n in range(2)]
    out, told = tmp_path / "m.safetensors", tmp_path / "told.json"
    line = ["merge", *paths, "--out", str(out), "--verify", "--json", str(told)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "none without effect" in done.output
    assert "of the merge in float64" in done.output
    assert len(json.loads(told.read_text())["verified"]) == len(LAYERS)
    small = tmp_path / "small.safetensors"
    line = ["resize", str(out), "--rank", "3", "--out", str(small), "--json", str(told)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Rank 8 → 3; relative error of all layers together 0." in done.output
    assert json.loads(told.read_text())["all"]["rank"] == 3


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
def test_resizing_is_eckart_and_youngs_and_says_its_error(tmp_path, to):
    inputs = [adapter(tmp_path / f"{n}.safetensors", seed=n, rank=3) for n in range(2)]
    merge_files(inputs, MergedConfig(), tmp_path / "m.safetensors")
    source = tmp_path / ("m" if to == "peft" else "k.safetensors")
    convert(tmp_path / "m.safetensors", source, to=to)
    out = tmp_path / ("s" if to == "peft" else "s.safetensors")
    _, told = resize(source, out, rank=2)
    before, after = dense(source), dense(out)
    wrong = size = 0.0
    for key, row in told["layers"].items():
        values = torch.linalg.svdvals(before[key])
        best = float(values[2:].norm() / values.norm())
        assert row["relative_error"] == pytest.approx(best, abs=1e-6)
        error = float((after[key] - before[key]).norm())
        assert error / float(values.norm()) == pytest.approx(best, abs=1e-6)
        wrong, size = wrong + error**2, size + float(values.norm()) ** 2
    assert told["all"]["relative_error"] == pytest.approx((wrong / size) ** 0.5, abs=1e-6)
    file, origin = read_adapter(out), read_adapter(source)
    assert file.format == to
    assert {layer.rank for layer in file.layers.values()} == {2}
    assert file.lineage.made_by == {**origin.lineage.made_by, "resized": {"rank": 2}}


def test_an_error_is_a_budget_and_small_layers_keep_their_bits(tmp_path):
    path = adapter(tmp_path / "a.safetensors", rank=6)
    tensors = safetensors.torch.load_file(path)
    narrow = next(name for name in tensors if "attn1" in name and "lora_A" in name)
    tensors[narrow] = tensors[narrow][:1]
    tensors[narrow.replace("_A", "_B")] = tensors[narrow.replace("_A", "_B")][:, :1]
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, path)
    _, told = resize(path, tmp_path / "s.safetensors", max_error=0.3)
    after = safetensors.torch.load_file(tmp_path / "s.safetensors")
    assert torch.equal(after[narrow], tensors[narrow])
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    rows = told["layers"].values()
    assert all(row["relative_error"] <= 0.301 for row in rows)
    assert {row["rank"] for row in rows} > {1}
    assert any(1 < row["rank"] < 6 for row in rows)
    # One rank less would be outside of the budget.
    for key, delta in dense(path).items():
        values, rank = torch.linalg.svdvals(delta), told["layers"][key]["rank"]
        assert rank == 1 or float(values[rank - 1 :].norm() / values.norm()) > 0.299


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "one of --rank and --error"),
        ({"rank": 2, "max_error": 0.1}, "one of --rank and --error"),
        ({"rank": 0}, "1 or more"),
        ({"max_error": 1.0}, "between 0 and 1"),
    ],
)
def test_resizing_needs_one_way(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        resize(adapter(tmp_path / "a.safetensors"), tmp_path / "s.safetensors", **options)


def test_rotations_have_no_rank(tmp_path: Path):
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    path = tmp_path / "r.safetensors"
    write_rotations(path, {key: Turn(skew_entries=torch.ones(4, 6))}, lineage=Lineage("b" * 64))
    with pytest.raises(AdapterError, match="only a LoRA has a rank"):
        resize(path, tmp_path / "s.safetensors", rank=2)


def test_layers_of_zeros_are_counted_and_not_refused(tmp_path):
    """An expert that was never trained has B = 0: no layer that it changes is idle."""
    torch.manual_seed(0)
    keys = [f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_{part}" for part in "qk"]
    for n in range(2):
        tensors = {f"{key}.lora_A.weight": torch.randn(2, 8) for key in keys}
        tensors |= {f"{key}.lora_B.weight": torch.zeros(8, 2) for key in keys}
        tensors[f"{keys[0]}.lora_B.weight"] = torch.randn(8, 2)
        safetensors.torch.save_file(tensors, tmp_path / f"{n}.safetensors")
    files = [str(tmp_path / f"{n}.safetensors") for n in range(2)]
    line = ["merge", *files, "--verify", "--out", str(tmp_path / "m.safetensors")]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert "2 layers, none without effect that an expert changes." in done.output
    assert "1 layer is zeros in every expert." in done.output
