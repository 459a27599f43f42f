"""A kind of adapter from outside goes through the commands: trained, read, applied, fused, refused
where adapters are merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import safetensors.torch
import torch
import yaml
from adapters import outside_kind
from click.testing import Result
from pipeline.killing import settings
from pipeline.server import serving
from typer.testing import CliRunner

from selma import cli
from selma.adapters import lora
from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.lora import LORA
from selma.adapters.table import ADAPTERS, kind_of, read_any
from selma.backbones.text_to_image import load_text_to_image
from selma.config import RunConfig
from selma.config.adapters import LoraConfig
from selma.config.networks import BaseConfig
from selma.config.section import Section
from selma.errors import AdapterError, ConfigError
from selma.registry import registered

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with registered("selma.adapters", outside_kind.ROW):
        yield


def command(*words: object, code: int = 0) -> str:
    result: Result = CliRunner().invoke(cli.app, [str(word) for word in words])
    shown = result.output + (str(result.exception) if result.exception else "")
    assert (result.exit_code == 0) == (code == 0), shown
    return shown


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on toybox's base that is trained with the kind from outside, by the commands."""
    folder = tmp_path_factory.mktemp("outside")
    with serving() as address:
        raw = settings(folder, address, run="run")
        raw["base"] = {"model": "toybox", "device": "cpu"}
        raw["experts"] |= {"adapter": {"kind": "scales"}, "steps": 2, "learning_rate": 0.05}  # type: ignore[operator]
        config = folder / "run.yaml"
        config.write_text(yaml.safe_dump(raw))
        for stage in ("prompts", "images", "experts"):
            command(stage, config)
        yield config


def expert(run: Path, skill: str = "coco") -> Path:
    return run.parent / "run" / "3-experts" / skill / "scales.safetensors"


def test_settings_are_those_of_its_row(run: Path) -> None:
    config = RunConfig.model_validate(yaml.safe_load(run.read_text()))
    assert config.experts.adapter == outside_kind.ScalesConfig()
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again.experts.adapter == config.experts.adapter
    assert list(ADAPTERS) == ["lora", "oft", "coft", "full", "sur", "mixture", "scales"]


def test_it_is_trained_and_read(run: Path) -> None:
    tensors = safetensors.torch.load_file(expert(run))
    assert tensors and all(tensor.any() for tensor in tensors.values())
    for place in (expert(run), expert(run).parent):
        assert kind_of(place) is outside_kind.ROW
        file = read_any(place)
        assert file.lineage.made_by["skill"] == "coco" and len(file.layers) == len(tensors)
    shown = command("inspect", expert(run))
    assert "scales, outside" in shown and "neurons: " in shown


def test_it_is_applied_alone_with_others_and_fused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "scales.safetensors"
    path.write_bytes(expert(run).read_bytes())
    outside_kind.moved(path)
    images = {}
    for name, words in {
        "base": [],
        "once": ["--adapter", path],
        "off": ["--adapter", path, "--strength", 0],
        "twice": ["--adapter", path, "--adapter", path],
        "double": ["--adapter", path, "--strength", 2],
    }.items():
        out = tmp_path / f"{name}.png"
        command("generate", "a red ball", "--steps", 2, "--out", out, *words)
        images[name] = out.read_bytes()
    assert images["off"] == images["base"] != images["once"] != images["double"]
    command("convert", path, "--to", "fused", "--base", "toybox", "--out", tmp_path / "fused")
    out = tmp_path / "fused.png"
    command("generate", "a red ball", "--steps", 2, "--base", tmp_path / "fused", "--out", out)
    assert out.read_bytes() != images["base"]
    model = load_text_to_image(BaseConfig())
    layer = read_any(path).layers[0].removeprefix("unet.")
    weight = model.denoiser.get_parameter(f"{layer}.weight")
    plain, scales = weight.detach().clone(), read_any(path).scales(f"unet.{layer}")
    with applied(model, chosen([path, path], [1.0, 0.5])):
        torch.testing.assert_close(weight, (1.5 * scales).exp()[:, None] * plain)
    assert torch.equal(weight, plain)


def test_where_it_cannot_be_merged_it_says_so(run: Path, tmp_path: Path) -> None:
    paths = [expert(run), expert(run, "whoops")]
    out = tmp_path / "out.safetensors"
    assert "no scale of a mean" in command("merge", *paths, "--out", out, code=1)
    assert not out.exists()
    assert "experts.adapter: experts of the kind scales cannot be merged" in command(
        "merge", run, code=1
    )
    assert "one format" in command(
        "convert", paths[0], "--to", "peft", "--out", tmp_path / "peft", code=1
    )
    with pytest.raises(AdapterError):
        outside_kind.read(tmp_path)


def test_settings_that_cannot_say_how_they_are_merged_make_no_row() -> None:
    class Plain(Section):
        kind: Literal["scales"] = "scales"

    with pytest.raises(ConfigError, match=r"AdapterSettings, but those of 'scales', Plain, do not"):
        replace(outside_kind.ROW, settings=Plain)  # type: ignore[arg-type]


class HalfConfig(LoraConfig):
    kind: Literal["half"] = "half"  # type: ignore[assignment]


def test_one_whose_space_is_that_of_deltas_is_merged(tmp_path: Path) -> None:
    row = replace(LORA, name="half", settings=HalfConfig, file="half.safetensors")
    paths, deltas = [], []
    for number in range(2):
        torch.manual_seed(number)
        shapes = {f"{LAYER}.lora_A.weight": (1, 4), f"{LAYER}.lora_B.weight": (4, 1)}
        factors = {name: torch.randn(shape) for name, shape in shapes.items()}
        paths.append(tmp_path / str(number) / row.file)
        paths[-1].parent.mkdir()
        lora.save(paths[-1], factors, HalfConfig(rank=1), lineage=Lineage())  # type: ignore[arg-type]
        deltas.append(factors[f"{LAYER}.lora_B.weight"] @ factors[f"{LAYER}.lora_A.weight"])
    out = tmp_path / "merged.safetensors"
    with registered("selma.adapters", row):
        assert kind_of(paths[0]) is row and row.merge_space == "deltas"
        command("merge", *paths, "--out", out)
    a, b = read_any(out).factors(f"unet.{LAYER}")
    torch.testing.assert_close(b @ a, sum(deltas) / 2)


def test_its_row_counts_whatever_class_its_file_has(tmp_path: Path) -> None:
    """Its file is LoRA's class, which says another kind: its own functions are called all the
    same."""

    def negated(adapter: object, *, strength: float = 1.0) -> dict[str, object]:
        return {f"unet.{layer}": lambda weight: -strength * weight}

    def none_fits(file: object, model: object, who: object) -> None:
        raise AdapterError(f"{who} fits nothing")

    model, out = load_text_to_image(BaseConfig()), tmp_path / "out.safetensors"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = model.denoiser.get_parameter(f"{layer}.weight")
    plain, (rows, width) = weight.detach().clone(), weight.shape
    factors = {
        f"{layer}.lora_A.weight": torch.ones(1, width),
        f"{layer}.lora_B.weight": torch.ones(rows, 1),
    }
    row = replace(
        LORA,
        name="half",
        settings=HalfConfig,
        file="half.safetensors",
        weight_changes=negated,
        describe=lambda file: ["turned round"],
    )
    path = tmp_path / row.file
    lora.save(path, factors, HalfConfig(rank=1), lineage=Lineage())  # type: ignore[arg-type]
    with registered("selma.adapters", row):
        with applied(model, chosen([path])):
            assert torch.equal(weight, -plain)
        with applied(model, chosen([path, path], [1.0, 2.0])):
            assert torch.equal(weight, 2 * plain)
        assert "turned round" in command("inspect", path)
    with (
        registered("selma.adapters", replace(row, alone=True)),
        pytest.raises(AdapterError, match="cannot be applied with others"),
    ):
        applied(model, chosen([path, path])).__enter__()
    with registered("selma.adapters", replace(row, require_fit=none_fits)):
        with pytest.raises(AdapterError, match="fits nothing"):
            applied(model, chosen([path])).__enter__()
        shown = command("merge", path, path, "--base", "toybox", "--out", out, code=1)
    assert f"{path} fits nothing" in shown and torch.equal(weight, plain)


class OpaqueFile(outside_kind.ScalesFile):
    merge_space: ClassVar[str] = "deltas"  # type: ignore[assignment]


def test_one_that_no_merge_can_read_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    def read(place: Path, **_: object) -> OpaqueFile:
        return OpaqueFile(**vars(outside_kind.read(place)))

    row = replace(LORA, name="opaque", settings=HalfConfig, file="opaque.safetensors", read=read)
    paths = [tmp_path / str(number) / row.file for number in range(2)]
    for path in paths:
        path.parent.mkdir()
        tensors = {"x.log_scales": torch.ones(2)}
        outside_kind.save(
            path, tensors, outside_kind.ScalesConfig(), lineage=Lineage(), component="unet"
        )
    out = tmp_path / "merged.safetensors"
    with registered("selma.adapters", row):
        shown = command("merge", *paths, "--out", out, code=1)
    assert "must read it as AdapterFile" in shown and not out.exists()
