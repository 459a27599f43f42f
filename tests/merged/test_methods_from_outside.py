"""A merge method that another package adds: one row, and all that there is can use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import yaml
from merged.test_files import adapter, change, near
from pipeline.killing import settings
from pipeline.test_run import address, place
from pydantic import Field
from typer.testing import CliRunner

from selma import pipeline
from selma.adapters.table import read_any
from selma.cli import app
from selma.config import RunConfig
from selma.config.section import Section
from selma.errors import ConfigError
from selma.merged.delta_methods import Part
from selma.merged.methods import METHODS, Method
from selma.merged.settings import MethodSettings, Trimmed
from selma.registry import registered

__all__ = ["address", "place"]  # fixtures


class Fading(MethodSettings):
    fade: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What is left of each expert's weight after the next one."""
    loud: bool = False


def fading(parts: Sequence[Part], *, fade: float, loud: bool) -> torch.Tensor:
    """Experts one after the other, each weaker than the one before."""
    faded = [part.weight * fade**n * part.delta for n, part in enumerate(parts)]
    return torch.stack(faded).sum(dim=0) * (3 if loud else 1)


FADING = Method("fading", fading, "this test", settings=Fading, weights="sum", ordered=True)


@pytest.fixture
def row() -> Iterator[None]:
    with registered("selma.merge_methods", FADING):
        yield


def merge(*line: object) -> str:
    done = CliRunner().invoke(app, ["merge", *map(str, line)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [adapter(tmp_path / f"{n}.safetensors", seed=n) for n in range(2)]


def test_files_are_merged_by_it(tmp_path: Path, files: list[Path], row: None) -> None:
    out = tmp_path / "m.safetensors"
    assert "relative error" in merge(*files, "--method", "fading", "--fade", 0.25, "--out", out)
    first, second = map(change, files)
    near(change(out), {key: first[key] + 0.25 * second[key] for key in first})
    made_by = read_any(out).lineage.made_by
    assert made_by["method"] == "fading" and made_by["order"] == ["0", "1"]
    assert made_by["settings"] == {"fade": 0.25, "loud": False}
    merge(*files[::-1], "--method", "fading", "--fade", 0.25, "--loud", "--out", out)
    near(change(out), {key: 3 * (second[key] + 0.25 * first[key]) for key in first})
    assert read_any(out).lineage.made_by["settings"] == {"fade": 0.25, "loud": True}
    assert "--fade" in merge("--help") and "What is left of each" in merge("--help")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--density", "0.5"], "density: fading has no density, but ties, ties_of_factors"),
        (["--fade", "2"], "fade: Input should be less than or equal to 1"),
        (["--fade", "2", "--density", "1", "--rank", "x"], "rank: fading has no rank"),
    ],
)
def test_wrong_settings_of_it_are_named(
    files: list[Path], row: None, options: list[str], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(*files, "--method", "fading", *options, "--out", files[0].with_name("m.safetensors"))
    assert says in str(caught.value)
    assert all(f"  {name[2:]}: " in str(caught.value) for name in options[::2])


def test_without_the_row_there_is_neither_method_nor_option(files: list[Path]) -> None:
    out = files[0].with_name("m.safetensors")
    with pytest.raises(ConfigError, match=r"must be a merge method \(mean_of_deltas, .*'fading'"):
        merge(*files, "--method", "fading", "--out", out)
    line = ["merge", *map(str, files), "--fade", "0.5", "--out", str(out)]
    assert CliRunner().invoke(app, line).exit_code == 2


def test_a_method_may_not_take_what_every_merge_has() -> None:
    class Clashing(Section):
        scale: float = 1.0

    with pytest.raises(ValueError, match="scale"):
        Method("clashing", fading, "this test", settings=Clashing)


def test_it_may_leave_trimming_to_the_driver(tmp_path: Path, files: list[Path]) -> None:
    def largest(parts: Sequence[Part]) -> torch.Tensor:
        return torch.stack([p.delta * (p.delta.abs() >= p.least) for p in parts]).sum(dim=0)

    method = Method("largest", largest, "this test", settings=Trimmed, weights="sum")
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    with registered("selma.merge_methods", method):
        merge(*files, "--method", "largest", "--density", 0.3, "--out", ours)
    options = ["--density", 0.3, "--weights", "1,1", "--out", theirs]
    merge(*files, "--method", "magnitude_prune", *options)
    near(change(ours), change(theirs))


def test_stage_4_merges_by_it(place: Path, address: str, row: None) -> None:
    def config(**merged: Any) -> Path:
        path = place / "outside.yaml"
        raw = settings(place, address, run="outside")
        path.write_text(yaml.safe_dump(raw | {"merged": merged}), "utf-8")
        return path

    for stage in (pipeline.prompts, pipeline.images, pipeline.experts):
        stage(RunConfig.model_validate(settings(place, address, run="outside")))
    folder = place / "outside" / "4-merged"
    for wrong in ({"fade": 0.5, "density": 0.5}, {"fade": 7}):
        with pytest.raises(ConfigError, match=f"merged.{list(wrong)[-1]}: "):
            merge(config(method="fading", **wrong))
    assert not folder.exists()
    merge(config(method="fading", fade=0.125, weights={"coco": 1.0, "whoops": 2.0}))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    told = {"fade": 0.125, "loud": False}
    assert manifest["recipe"]["settings"] == read_any(folder).lineage.made_by["settings"] == told
    first, second = (change(place / "outside" / "3-experts" / s) for s in ("coco", "whoops"))
    near(change(folder), {key: first[key] + 0.25 * second[key] for key in first})
    diagnostics = json.loads((folder / "diagnostics.json").read_text("utf-8"))
    assert set(diagnostics["experts"]) == {"coco", "whoops"}
    assert "fading" in METHODS
