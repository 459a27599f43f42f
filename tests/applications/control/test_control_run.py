"""`selma control` from config to page, on a tiny base: each command by itself, all, and errors."""

import json
import re
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import torch
import yaml
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from typer.testing import CliRunner

from selma import cli
from selma.applications.control import pipeline
from selma.applications.control.settings import ControlRun, ControlSettings
from selma.config import load_config
from selma.errors import ConfigError, DataError, ModelError
from selma.finished import NotFinished
from selma.report.pages import read_pages
from selma.toybox.conditions import CLASSES
from selma.toybox.landmarks import LandmarkReader, ReaderConfig
from selma.toybox.pretraining.segmenting import _save_preprocessing
from selma.workspace import Workspace

FEW = {"other_condition": "canny", "blocks": [2]}
SHORT = {"steps": 2, "batch_size": 2, "learning_rate": 1e-2, "checkpoint_every": 2}


def config_file(tmp_path, **control):
    raw = {
        "folder": str(tmp_path / "run"),
        "base": {"model": str(tiny.folder("sd1")), "device": "cpu"},
        "control": {
            "data": {"condition": "canny", "source": {"kind": "toybox", "train": 3, "val": 3}},
            "training": SHORT,
            "generation": {"steps": 2, "guidance": 3.0, "batch_size": 2},
            "scores": {"resamples": 200},
            **control,
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def invoked(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def images(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_each_command_by_itself(tmp_path):
    path = config_file(tmp_path)
    config = load_config(path, ControlRun)
    with pytest.raises(NotFinished, match="control prepare"):
        pipeline.train(config)
    assert "val: 3 images" in invoked("control", "prepare", path)
    with pytest.raises(NotFinished, match="control train"):
        pipeline.generate(config)
    invoked("control", "train", path)
    with pytest.raises(NotFinished, match="control generate"):
        pipeline.score(config)
    generated = pipeline.generate(config)
    assert list(generated) == ["base", "oft-r4"]
    assert images(generated["base"]) != images(generated["oft-r4"])
    # A lost image is generated again, alone and in another batch, to the same bytes.
    before = images(generated["oft-r4"])
    sorted(generated["oft-r4"].glob("*.png"))[1].unlink()
    generation = config.control.generation.model_copy(update={"batch_size": 1})
    settings = config.control.model_copy(update={"generation": generation})
    pipeline.generate(config.model_copy(update={"control": settings}))
    assert images(generated["oft-r4"]) == before
    output = invoked("control", "score", path)
    assert "IoU" in output and "oft-r4" in output
    card, page = pipeline.score(config)
    assert [m.model for m in card.models] == ["source", "base", "oft-r4"]
    source, base, oft = card.models
    # Canny of the source images is the condition itself.
    assert source.measures["iou"].mean == source.measures["f1"].mean == 1.0
    assert oft.measures["iou"].n == 3 and oft.differences["iou"].n == 3
    assert not base.differences and base.fid > 0 and oft.parameters > 0
    assert json.loads((tmp_path / "run/5-scores/control/canny/card.json").read_text())
    text = page.read_text()
    assert "<script" not in text and not re.search(r'(src|href)="(?!data:|#)', text)
    assert text.count("data:image/png") == 3 * 4  # condition, source, base and the network
    (section,) = read_pages(Workspace(tmp_path / "run"))
    assert section.file == "control.html" and set(section.about) == {"base"}
    assert [row[0] for row in section.tables[0].rows] == ["source", "base", "oft-r4"]


def test_compare_makes_the_papers_tables(tmp_path):
    reader = tmp_path / "reader"
    LandmarkReader(ReaderConfig(width=16, blocks=1)).save(reader)
    path = config_file(
        tmp_path,
        magnitudes=SHORT,
        scores={"resamples": 200, "features": None, "reader": str(reader)},
        tables={
            "conditions": ["canny", "landmarks"],
            "other_condition": "canny",
            "lora": {"rank": 2},
            "blocks": [2, 4],
            "learning_rates": {"controlnet": 1e-3},
        },
    )
    config = load_config(path, ControlRun)
    cards, page = pipeline.compare(config)
    assert [card.condition for card in cards] == ["canny", "landmarks"]
    methods = ["source", "base", "controlnet", "lora-2", "coft-r4", "oft-r4"]
    assert [m.model for m in cards[0].models] == [*methods, "oft-r2", "oft-r4-magnitudes"]
    assert [m.model for m in cards[1].models] == methods
    assert all(card.reference == "oft-r4" for card in cards)
    for card in cards:
        assert not card.models[5].differences
        assert all(m.fid is None for m in card.models)
    # A reader that knows nothing finds nothing: failures are counted, and there is no error.
    landmarks = cards[1].models[0]
    assert landmarks.failures == 3 and landmarks.measures["failures"].mean == 100.0
    assert "error" not in landmarks.measures
    assert "table 2" in page.read_text() and "table 4" in page.read_text()
    (section,) = read_pages(Workspace(tmp_path / "run"))
    captions = [table.caption for table in section.tables]
    assert any("table 2" in text for text in captions)
    assert any("table 4" in text for text in captions)
    # Nothing is made again.
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    assert pipeline.compare(config)[0] == cards
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")} == trained


def test_any_segmentation_model_reads_maps(tmp_path):
    """A tiny SegFormer against a palette and, without one, against its reading of the source."""
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    network = SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4,
            decoder_hidden_size=8, id2label=names, label2id={v: k for k, v in names.items()},
        )
    )  # fmt: skip
    network.save_pretrained(tmp_path / "segmenter")
    _save_preprocessing(tmp_path / "segmenter")
    scores = {"resamples": 200, "features": None, "segmenter": str(tmp_path / "segmenter")}
    data = {"condition": "segmentation", "source": {"kind": "toybox", "train": 2, "val": 3}}
    path = config_file(tmp_path, data=data, scores=scores)
    config = load_config(path, ControlRun)
    pipeline.prepare(config)
    pipeline.train(config)
    pipeline.generate(config)
    card, _ = pipeline.score(config)
    assert card.reader == "segmenter"
    assert set(card.models[0].measures) == {"miou", "macc", "aacc"}
    assert card.models[0].measures["aacc"].mean < 100
    # The same images as a folder without a palette.
    folder = tmp_path / "run/2-images/_control/segmentation/val"
    source = {"kind": "imagefolder", "folder": str(folder), "val": 2}
    other = tmp_path / "other"
    other.mkdir()
    path = config_file(other, data={"condition": "segmentation", "source": source}, scores=scores)
    config = load_config(path, ControlRun)
    for step in (pipeline.prepare, pipeline.train, pipeline.generate):
        step(config)
    card, page = pipeline.score(config)
    assert card.models[0].measures["aacc"].mean == 100.0
    assert str(tmp_path) not in page.read_text()  # the page may be sent to anyone
    palette = other / "palette.json"
    palette.write_text(json.dumps([[1, 2, 3], [4, 5, 6]]))
    scoring = config.control.scores.model_copy(update={"palette": str(palette)})
    wrong = config.control.model_copy(update={"scores": scoring})
    with pytest.raises(DataError, match=f"{len(CLASSES)} classes"):
        pipeline.score(config.model_copy(update={"control": wrong}))


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="OFT and COFT alone"):
        ControlSettings.model_validate({"network": {"kind": "controlnet"}, "magnitudes": {}})
    with pytest.raises(ValueError, match="mirrored"):
        ControlSettings.model_validate({"training": {"flip": True}})
    lora = {"kind": "branch", "adapter": {"kind": "lora", "rank": 2}}
    config = load_config(config_file(tmp_path, network=lora), ControlRun)
    with pytest.raises(ConfigError, match="Table 4"):
        pipeline.compare(config, ["magnitudes"])
    coft = {"kind": "branch", "adapter": {"kind": "coft", "eps": 1e-5}}
    config = load_config(config_file(tmp_path, network=coft), ControlRun)
    with pytest.raises(ConfigError, match="both be called 'coft-r4'"):
        pipeline.compare(config, ["methods"])
    with pytest.raises(ConfigError, match="methods, blocks, magnitudes"):
        pipeline.tables_of(["speed"])
    # What would stop a comparison later stops it before anything is made.
    run = tmp_path / "run"
    late = load_config(config_file(tmp_path, tables={"blocks": [2, 5]}), ControlRun)
    with pytest.raises(ConfigError, match="oft-r5"):
        pipeline.compare(late, ["blocks"])
    late = load_config(
        config_file(tmp_path, scores={"features": "inception"}, tables=FEW), ControlRun
    )
    if find_spec("torch_fidelity") is None:
        with pytest.raises(ModelError, match="torch-fidelity"):
            pipeline.compare(late, ["blocks"])
    assert not run.exists()
    (tmp_path / "celeba" / "celeba-hq-img").mkdir(parents=True)
    celeba = {"kind": "released", "folder": str(tmp_path / "celeba")}
    late = load_config(
        config_file(tmp_path, data={"source": celeba}, tables={"conditions": ["depth"]}), ControlRun
    )
    with pytest.raises(ConfigError, match="depth"):
        pipeline.compare(late, ["methods"])
    assert not (run / "3-experts").exists()
    odd = {"kind": "branch", "adapter": {"kind": "oft", "blocks": 5}}
    with pytest.raises(ConfigError, match="oft-r5"):
        pipeline.prepare(load_config(config_file(tmp_path, network=odd), ControlRun))


def test_ddim_replaces_the_bases_sampler(tmp_path):
    from selma.applications.control.generating import sampled
    from selma.applications.control.settings import ControlGeneration

    model = tiny.load("sd1")
    before = model.pipe.scheduler
    assert (ControlGeneration().steps, ControlGeneration().guidance) == (50, 9.0)  # as released
    with sampled(model, ControlGeneration()):
        config = model.pipe.scheduler.config
        assert config._class_name == "DDIMScheduler" and not config.clip_sample
        assert config.beta_end == before.config.beta_end
        (ddim,) = model.generate(["a cat"], seeds=[0], steps=4, guidance=1.0, batch_size=1)
    assert model.pipe.scheduler is before
    (own,) = model.generate(["a cat"], seeds=[0], steps=4, guidance=1.0, batch_size=1)
    assert not np.array_equal(np.array(ddim), np.array(own))
    assert isinstance(own, Image.Image)
