"""A run whose experts are mixed instead of merged, from YAML to report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.killing import home, settings, tree
from selma import cli, pipeline
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.preflight import check
from selma.status import statuses


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    folder = tmp_path_factory.mktemp("mixture")
    with home(folder) as address:
        raw = settings(folder, address, run="mixed")
        raw["merged"] = {"mixture": {"learning_rate": 0.1}}
        raw["experts"] |= {"learning_rate": 0.1, "steps": 4}  # type: ignore[operator]
        raw["scores"] |= {"experts": False}  # type: ignore[operator]
        yield raw


def test_a_run_mixes_its_experts(raw: dict[str, object]) -> None:
    config = RunConfig.model_validate(raw)
    for stage in (pipeline.prompts, pipeline.images, pipeline.experts):
        stage(config)
    states = {f"{status.stage}/{status.name}": status.state for status in statuses(config)}
    assert states["4-merged/merged"] == "missing"
    pipeline.run(config)
    run = config.run_folder
    assert {status.state for status in statuses(config)} == {"done"}
    assert (run / "3-experts" / "_mixture" / "manifest.json").is_file()
    assert (run / "4-merged" / "mixture.safetensors").is_file()
    gates = json.loads((run / "4-merged" / "diagnostics.json").read_text())["gates"]
    assert set(gates["skills"]) == {"coco", "whoops"}
    card = pipeline.scorecard(config)
    assert [model.model for model in card.models] == ["base", "merged"]
    page = (run / "6-report" / "index.html").read_text()
    assert "What the gates chose" in page and "A mixture, not merged" in page
    before = tree(run)
    pipeline.run(config)
    assert tree(run) == before


def test_commands_know_a_mixture(raw: dict[str, object], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(raw))
    run = Path(str(raw["folder"]))
    base = raw["base"]["model"]  # type: ignore[index]
    mixture, out = run / "4-merged", tmp_path / "mean.safetensors"
    image = ["--steps", "1", "--seed", "1", "--out", tmp_path / "cat.png"]
    for words, expected in (
        (["merge", config], "what the gates chose"),
        (["inspect", mixture], "mean share"),
        (["convert", mixture, "--to", "diffusers", "--out", out, "--base", base], str(out)),
        (["inspect", out], "diffusers"),
        (["generate", "a cat", "--base", base, "--adapter", mixture, *image], "cat"),
    ):
        result = CliRunner().invoke(cli.app, list(map(str, words)))
        assert result.exit_code == 0, result.output
        assert expected in result.output
    result = CliRunner().invoke(cli.app, ["card", str(run)])
    assert result.exit_code != 0


def test_mistakes_are_found_before_a_model_is_loaded(raw: dict[str, object]) -> None:
    config = RunConfig.model_validate(raw)
    oft = {"kind": "oft", "blocks": 2}
    for change, words in (
        ({"experts": raw["experts"] | {"adapter": oft}}, "made of low-rank experts"),  # type: ignore[operator]
        ({"merged": {"mixture": {"micro_batch_size": 3}}}, "micro_batch_size must divide"),
    ):
        with pytest.raises(ConfigError, match=words):
            check(RunConfig.model_validate(raw | change))
    check(config)
