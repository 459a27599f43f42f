"""Objectives that another package adds: experts learn by them through the commands themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pipeline.killing import settings
from pipeline.server import serving
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import Tensor
from typer.testing import CliRunner

from selma import cli
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.experts import ExpertsConfig
from selma.config.section import Section
from selma.experts.learners import LearnerParts
from selma.experts.objectives import OBJECTIVES, Objective
from selma.experts.objectives.denoising import denoising_loss
from selma.registry import registered


class Late(Section):
    """Weighs noisy timesteps more."""

    kind: Literal["late"] = "late"
    power: float = 1.0


@dataclass(frozen=True)
class LateLearner:
    settings: Late
    parts: LearnerParts

    @property
    def model(self) -> Any:
        return self.parts.model

    @property
    def weights(self) -> Any:
        return self.parts.weights

    @property
    def batches(self) -> Any:
        return self.parts.batches

    def losses(self, batch: Any, noise_path: Any, *, step: int) -> Mapping[str, Tensor]:
        samples = self.parts.encoded.samples(batch).to(self.model.device)
        plain = denoising_loss(self.model, samples, batch, noise_path)
        weight = ((batch.timesteps + 1) / noise_path.steps) ** self.settings.power
        return {"loss": weight * plain, "plain": plain}


LATE = Objective("late", Late, LateLearner)


def test_the_papers_objective_is_the_default() -> None:
    assert next(iter(OBJECTIVES)) == "denoising"
    assert ExpertsConfig().model_dump(mode="json")["objective"] == {"kind": "denoising"}


@pytest.fixture(scope="module")
def toybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a run on toybox's base that has its images."""
    folder = tmp_path_factory.mktemp("objectives")
    with serving() as address:
        raw = settings(folder, address, run="run")
        raw["base"] = {"model": "toybox", "device": "cpu"}
        raw["prompts"] |= {"skills": ["coco"], "per_skill": 2}  # type: ignore[operator]
        raw["images"] |= {"steps": 1, "guidance": 0.0}  # type: ignore[operator]
        raw["experts"] |= {"steps": 2}  # type: ignore[operator]
        for stage in ("prompts", "images"):
            assert command(stage, raw).exit_code == 0
        yield raw


def command(stage: str, raw: dict[str, Any]) -> Any:
    config = Path(raw["folder"]).with_suffix(".yaml")
    config.write_text(yaml.safe_dump(raw))
    return CliRunner().invoke(cli.app, [stage, str(config)])


def with_objective(raw: dict[str, Any], **objective: Any) -> dict[str, Any]:
    return raw | {"experts": raw["experts"] | {"objective": objective}}


def test_experts_learn_by_an_objective_from_outside(toybox: dict[str, Any]) -> None:
    run = Path(toybox["folder"])
    expert = run / "3-experts" / "coco"
    assert command("experts", toybox).exit_code == 0
    plain = load_file(expert / ADAPTER_FILE)
    with registered("selma.objectives", LATE):
        result = command("experts", with_objective(toybox, kind="late", power=2.0))
        assert result.exit_code == 0, result.output
        late_settings = {"kind": "late", "power": 2.0}
        in_run = json.loads((run / "run.json").read_text())["settings"]
        assert in_run["experts"]["objective"] == late_settings
        manifest = json.loads((expert / "manifest.json").read_text())
        assert manifest["recipe"]["experts"]["objective"] == late_settings
        with safe_open(expert / ADAPTER_FILE, framework="np") as file:
            made_by = json.loads(file.metadata()["selma"])["made_by"]
        assert made_by["objective"] == late_settings and made_by["skill"] == "coco"
        log = [json.loads(line) for line in (expert / "loss.jsonl").read_text().splitlines()]
        assert len(log) == 2 and all(0 < line["loss"] < line["plain"] for line in log)
        late = load_file(expert / ADAPTER_FILE)
        assert plain.keys() == late.keys()
        assert any((plain[name] != late[name]).any() for name in plain)
        # Other settings of the objective make another expert; the same ones make none.
        again = command("experts", with_objective(toybox, kind="late", power=2.0))
        assert again.exit_code == 0 and manifest == json.loads(
            (expert / "manifest.json").read_text()
        )
        assert command("experts", with_objective(toybox, kind="late")).exit_code == 0
        other = json.loads((expert / "manifest.json").read_text())
        assert other["key"] != manifest["key"]


def test_settings_of_an_objective_are_checked(toybox: dict[str, Any]) -> None:
    wrong = with_objective(toybox, kind="late", power="much")
    assert command("check", wrong).exit_code == 1  # no row of this name
    with registered("selma.objectives", LATE):
        assert command("check", wrong).exit_code == 1
        assert command("check", with_objective(toybox, kind="late", strength=1)).exit_code == 1
        assert command("check", with_objective(toybox, kind="late")).exit_code == 0
