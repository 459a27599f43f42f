"""A tiny run whose experts are rotations: trained, merged, drawn, scored, and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.killing import tree
from pipeline.test_run import address, config, place, states
from selma import pipeline
from selma.adapters.rotations.files import read_rotations
from selma.applications.publishing.card import write_card
from selma.cli import app
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.preflight import check

__all__ = ["address", "place"]  # fixtures

OFT = {
    "experts": {"adapter": {"kind": "oft", "blocks": 2}, "learning_rate": 0.05},
    "merged": {"method": "karcher_mean"},
}


@pytest.fixture(scope="module")
def merged(place: Path, address: str) -> RunConfig:
    one = config(place, address, "oft", **OFT)
    for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
        stage(one)
    return one


def test_experts_and_their_merge_are_rotations(merged: RunConfig) -> None:
    files = tree(merged.run_folder)
    for skill in ("coco", "whoops"):
        assert f"3-experts/{skill}/rotations.safetensors" in files
        assert f"3-experts/{skill}/energy.json" in files
    assert "4-merged/rotations.safetensors" in files
    assert not any("lora" in name for name in files)
    made_by = read_rotations(merged.run_folder / "4-merged").lineage.made_by
    assert made_by["method"] == "karcher_mean" and set(made_by["experts"]) == {"coco", "whoops"}
    before = tree(merged.run_folder)
    pipeline.merge(merged)
    assert tree(merged.run_folder) == before


def test_generate_takes_files_strengths_and_several(merged: RunConfig, tmp_path: Path) -> None:
    base = ["--base", merged.base.model, "--steps", "2", "--seed", "3"]
    expert = merged.run_folder / "3-experts" / "coco"
    each = {
        "plain": [],
        "folder": ["--adapter", str(expert)],
        "file": ["--adapter", str(expert / "rotations.safetensors")],
        "off": ["--adapter", str(expert), "--strength", "0"],
        "two": ["--adapter", str(expert), "--adapter", str(merged.run_folder / "4-merged"),
                "--strength", "0.5", "--strength", "2"],
    }  # fmt: skip
    generated = {}
    for name, more in each.items():
        out = tmp_path / f"{name}.png"
        done = CliRunner().invoke(app, ["generate", "a cat", *base, *more, "--out", str(out)])
        assert done.exit_code == 0, done.output
        generated[name] = out.read_bytes()
    assert generated["file"] == generated["folder"] != generated["plain"]
    assert generated["off"] == generated["plain"]
    assert generated["two"] not in (generated["plain"], generated["folder"])


def test_files_are_merged_and_converted_by_command(merged: RunConfig, tmp_path: Path) -> None:
    experts = [str(merged.run_folder / "3-experts" / skill) for skill in ("coco", "whoops")]
    out, diagnostics = tmp_path / "both.safetensors", tmp_path / "diagnostics.json"
    command = ["merge", *experts, "--method", "mean_of_skews", "--rescale"]
    done = CliRunner().invoke(app, [*command, "--out", str(out), "--json", str(diagnostics)])
    assert done.exit_code == 0, done.output
    assert "Conflict c" in done.output
    assert json.loads(diagnostics.read_text())["all"]["orthogonality"] < 1e-5
    peft = ["convert", str(out), "--to", "peft", "--out", str(tmp_path / "peft")]
    assert CliRunner().invoke(app, peft).exit_code == 0
    assert (tmp_path / "peft" / "adapter_config.json").is_file()
    fused = ["--to", "fused", "--base", merged.base.model, "--out", str(tmp_path / "fused")]
    assert CliRunner().invoke(app, ["convert", str(out), *fused]).exit_code == 0
    assert (tmp_path / "fused" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("adapter", "method"),
    [("oft", "mean_of_deltas"), ("coft", "knots"), ("lora", "mean_of_skews")],
)
def test_a_method_of_the_other_kind_is_told_before_anything_starts(
    place: Path, address: str, adapter: str, method: str
) -> None:
    one = config(
        place, address, "told", experts={"adapter": {"kind": adapter}}, merged={"method": method}
    )
    with pytest.raises(ConfigError, match=r"merged\.method"):
        check(one)


def test_blocks_that_fill_no_layer_are_told_before_anything_starts(
    place: Path, address: str
) -> None:
    five = OFT | {"experts": {"adapter": {"kind": "oft", "blocks": 5}}}
    one = config(place, address, "told", **five)
    with pytest.raises(ConfigError, match="5 and 32 came"):
        check(one)


def test_a_whole_run_shows_energies_and_the_merge(merged: RunConfig) -> None:
    page = pipeline.run(merged).read_text()
    assert "Energy of the neurons" in page and "conflict c" in page
    assert set(states(merged).values()) == {"done"}


def test_a_card_promises_only_what_rotations_can(merged: RunConfig) -> None:
    text = (write_card(merged.run_folder).folder / "README.md").read_text()
    about = yaml.safe_load(text.split("---\n")[1])
    assert "oft" in about["tags"] and "library_name" not in about
    assert not {"lora", "template:sd-lora", "diffusers"} & set(about["tags"])
    assert "An OFT adapter" in text and "Each expert: 2 blocks a layer, " in text
    assert "load_lora_weights" not in text
    assert "--base FOLDER_OF_THE_BASE --adapter rotations.safetensors --seed" in text


def test_inspect_tells_what_an_expert_turns(merged: RunConfig) -> None:
    place = merged.run_folder / "3-experts" / "coco"
    done = CliRunner().invoke(app, ["inspect", str(place)])
    assert done.exit_code == 0, done.output
    file = read_rotations(place)
    numbers = sum(file.turn(key).skew_entries.numel() for key in file.layers)
    assert "blocks stored for a layer: 2 of side 16" in done.output
    assert f"oft_generator: in {len(file.layers)} layers" in done.output
    assert f"numbers: {numbers}" in done.output and "kind: oft" in done.output
