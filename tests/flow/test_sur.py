"""`selma sur` from its config to pictures, on a tiny base: each command by itself, and errors."""

import pytest
import sur_data
import tiny
import torch
import yaml
from typer.testing import CliRunner

from selma import cli
from selma.config import RunConfig, load_config
from selma.config.sur import RELEASED_SUR, SurSettings
from selma.errors import ConfigError
from selma.finished import NotFinished


def config_file(tmp_path, **sur):
    raw = {
        "folder": str(tmp_path / "run"),
        "base": {"model": str(tiny.folder("sd1")), "device": "cpu"},
        "images": {"steps": 2, "guidance": 3.0, "batch_size": 4},
        "prompts": {"skills": ["toybox_coco"], "per_skill": 2},
        "scores": {"prompts": 5},
        "sur": {
            "data": {"source": {"kind": "toybox", "count": 4}, "picture_px": 16},
            "llm": {"backend": sur_data.llm().backend.model_dump()},
            "training": {"steps": 2, "batch_size": 2, "precision": "fp32",
                         "learning_rate": 0.01, "checkpoint_every": 1},
            "adapter": {"weight": 1.0},
        } | sur,
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(*words):
    result = CliRunner().invoke(cli.app, ["sur", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_collect_train_and_draw(tmp_path):
    config = config_file(tmp_path)
    with pytest.raises(NotFinished, match="selma sur collect"):
        run("train", config)
    assert "4 triples" in run("collect", config)
    with pytest.raises(NotFinished, match="selma sur train"):
        run("draw", config)
    assert "_sur" in run("train", config)
    out = run("draw", config)
    pictures = tmp_path / "run" / "5-scores" / "pictures"
    base, read = (sorted((pictures / name).glob("*.png")) for name in ("base", "sur"))
    assert len(base) == len(read) == 5 and str(pictures / "sur") in out
    differ = [a.read_bytes() != b.read_bytes() for a, b in zip(base, read, strict=True)]
    assert any(differ)
    before = {path: path.stat().st_mtime_ns for path in read}
    run("draw", config)
    assert {path: path.stat().st_mtime_ns for path in read} == before


def test_another_strength_is_another_drawing(tmp_path):
    config = config_file(tmp_path)
    for command in ("collect", "train", "draw"):
        run(command, config)
    folder = tmp_path / "run" / "5-scores" / "pictures" / "sur"
    one = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    none = config_file(tmp_path, drawing={"strength": 0.0})
    run("draw", none)  # neither collects nor trains again
    base = {p.name: p.read_bytes() for p in (folder.parent / "base").glob("*.png")}
    assert {p.name: p.read_bytes() for p in folder.glob("*.png")} == base != one


def test_generate_reads_a_prompt_through_it(tmp_path):
    config = config_file(tmp_path)
    for command in ("collect", "train"):
        run(command, config)
    words = ["generate", "a cat", "--base", str(tiny.folder("sd1")), "--steps", "2",
             "--sur", str(tmp_path / "run" / "3-experts" / "_sur")]  # fmt: skip
    for name, more in (("a", []), ("b", ["--sur-strength", "0"])):
        out = ["--out", str(tmp_path / f"{name}.png")]
        result = CliRunner().invoke(cli.app, [*words, *more, *out])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    with pytest.raises(ConfigError, match="negative"):
        CliRunner().invoke(cli.app, [*words, "--sur-negative", "nonsense"], catch_exceptions=False)


def test_the_released_preset_is_the_release_and_can_be_mended_in_part():
    released = SurSettings.model_validate({"preset": "released"})
    dumped = released.model_dump()
    for part, given in RELEASED_SUR.items():
        for name, value in given.items():
            if isinstance(value, dict):
                assert {k: dumped[part][name][k] for k in value} == value
            else:
                assert dumped[part][name] == value
    assert released.losses.distillation.weight == 1e-5 and released.training.flip
    mended = SurSettings.model_validate(
        {"preset": "released", "losses": {"denoising": {"gradient": True}}}
    )
    assert mended.losses.denoising.gradient
    assert mended.losses.alignment == released.losses.alignment
    assert mended.adapter == released.adapter
    assert SurSettings.model_validate(released.model_dump()) == released


def test_the_config_that_comes_along_and_its_paths(tmp_path):
    (tmp_path / "llm").mkdir()
    source = {"kind": "civitai", "dump": "d.json", "pictures": "pics"}
    narrator = {"kind": "captioner", "model": "llm"}
    path = config_file(
        tmp_path,
        data={"source": source, "narrator": narrator},
        llm={"backend": {"kind": "local", "model": "llm"}, "file": "v.pt"},
    )
    sur = load_config(path).sur
    assert sur.data.source.dump == str(tmp_path / "d.json")
    assert sur.data.source.pictures == str(tmp_path / "pics")
    assert sur.data.narrator.model == sur.llm.backend.model == str(tmp_path / "llm")
    assert sur.llm.file == str(tmp_path / "v.pt")
    with pytest.raises(ConfigError, match="narrator"):
        load_config(config_file(tmp_path, data={"source": source}))
    assert RunConfig(name="plain").sur is None


def test_convert_makes_a_file_of_a_released_checkpoint(tmp_path):
    torch.save(sur_data.Released(32).state_dict(), tmp_path / "adapter.pt")
    out = run("convert", tmp_path / "adapter.pt", tmp_path / "out", "--weight", "0.1")
    assert out.strip().endswith("sur_adapter.safetensors")
