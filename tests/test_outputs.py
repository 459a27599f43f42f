"""No command writes over what it is given to read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_cli import selma
from typer.main import get_command

from selma.cli import app
from selma.errors import ConfigError
from selma.outputs import require_apart

RESULT = {"filename": "0.png", "tag": "colors", "prompt": "a red dog", "correct": True}


def lora(path: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {f"{layer}.lora_A.weight": (2, 8), f"{layer}.lora_B.weight": (8, 2)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder: Path, *arguments: str | Path) -> str:
    """What the command says that refuses, and leaves the folder as it was."""
    before = contents(folder)
    done = selma(*arguments)
    assert done.returncode == ConfigError.exit_code, done
    assert contents(folder) == before
    return done.stderr


def test_a_result_never_goes_over_the_file_that_is_scored(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(RESULT) + "\n")
    link, hard = tmp_path / "link.json", tmp_path / "hard.json"
    link.symlink_to(results)
    os.link(results, hard)
    for output in (results, link, hard, tmp_path / "x" / ".." / "results.jsonl"):
        assert "--json" in refused(tmp_path, "score", "geneval", results, "--json", output)
    good = selma("score", "geneval", results, "--json", tmp_path / "score.json")
    assert good.returncode == 0, good.stderr
    assert selma("score", "geneval", results, "--json", tmp_path / "score.json").returncode == 0


def test_a_merged_adapter_never_goes_over_an_expert(tmp_path: Path) -> None:
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", seed=1)
    inner = lora(tmp_path / "folder" / "pytorch_lora_weights.safetensors", seed=2)
    assert "--out" in refused(tmp_path, "merge", a, b, "--out", b)
    assert "has within it" in refused(tmp_path, "merge", a, b, "--to", "peft", "--out", tmp_path)
    assert "lies within" in refused(tmp_path, "merge", a, inner.parent, "--out", inner)
    both = tmp_path / "merged.safetensors"
    assert "two files" in refused(tmp_path, "merge", a, b, "--out", both, "--json", both)
    assert "--json" in refused(tmp_path, "merge", a, b, "--out", both, "--json", a)
    assert "--out" in refused(tmp_path, "convert", a, "--to", "kohya", "--out", a)
    assert "--out" in refused(tmp_path, "resize", a, "--rank", "1", "--out", a)
    assert "--json" in refused(tmp_path, "inspect", a, "--json", a)


def test_a_new_file_may_lie_beside_the_inputs(tmp_path: Path) -> None:
    a = lora(tmp_path / "a" / "pytorch_lora_weights.safetensors")
    out = a.parent / "kohya.safetensors"
    done = selma("convert", a, "--to", "kohya", "--base", "toybox", "--out", out)
    assert "--out" not in done.stderr


def test_what_a_config_names_is_kept(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("item_id,text\n1,a dog\n")
    (tmp_path / "run.yaml").write_text(
        "folder: run\nbase: {model: toybox}\nscores: {benchmark: prompts.csv}\n"
    )
    asked = ("judge", "check", tmp_path / "run.yaml", "--json")
    assert "prompts.csv" in refused(tmp_path, *asked, tmp_path / "prompts.csv")
    assert "run.yaml" in refused(tmp_path, *asked, tmp_path / "run.yaml")


def test_a_word_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = lora(tmp_path / "a.safetensors")
    (tmp_path / "peft").mkdir()
    monkeypatch.chdir(tmp_path)
    done = selma("convert", a, "--to", "peft", "--out", "peft")
    assert "--out must not" not in done.stderr


@pytest.mark.parametrize("value", ["a\0b", "x" * 5000, "", None, 3, 0.5])
def test_values_that_are_no_path_are_let_be(value: Any, tmp_path: Path) -> None:
    require_apart({"--json": tmp_path / "out.json"}, [value, [value]])


def leaves(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(name), command
        return
    for each, below in inner.items():
        yield from leaves(below, (*name, each))


@pytest.mark.parametrize(("name", "command"), list(leaves(get_command(app))))
def test_every_output_is_marked(name: str, command: Any) -> None:
    for parameter in command.params:
        if parameter.name in ("out", "json", "csv"):
            assert parameter.callback is not None, parameter.name
