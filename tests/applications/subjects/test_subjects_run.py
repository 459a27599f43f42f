"""`selma subjects` from its config to the page: each command by itself, resumed, and its errors."""

import json
import re

import pytest
import tiny
import yaml
from PIL import Image
from typer.testing import CliRunner

from selma import cli
from selma.applications.subjects.settings import METHODS, SubjectSettings, SubjectsRun
from selma.config import RunConfig, load_config
from selma.errors import ConfigError
from selma.finished import NotFinished
from selma.report.pages import read_pages
from selma.workspace import Workspace

METHOD = {
    "lora": {"adapter": {"kind": "lora", "rank": 2}, "learning_rate": 0.01},
    "full": {"adapter": {"kind": "full"}, "learning_rate": 0.001},
    "oft": {"adapter": {"kind": "oft", "blocks": 4}},
    "coft": {"adapter": {"kind": "coft", "blocks": 4}},
}


def config_file(
    tmp_path, *, shape="sd1", methods=("lora", "oft"), subjects=("cat_hat",), **changes
):
    raw = {
        "folder": str(tmp_path / "run"),
        "base": {"model": shape if shape == "toybox" else str(tiny.folder(shape)), "device": "cpu"},
        "subjects": {
            "data": {"subjects": list(subjects),
                     "prompts": ["a {token} {class} on the grass", "a red {token} {class}"]},
            "prior": {"images": 2, "steps": 2, "guidance": 1.0},
            "training": {"steps": 2, "batch_size": 2, "checkpoint_every": 1,
                         "learning_rate": 0.01},
            "methods": {name: METHOD[name] for name in methods},
            "generation": {"images": 2, "steps": 2, "guidance": 1.0, "curve_prompts": 1},
            "scores": {"resamples": 50},
        } | changes,
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def run(*words):
    result = CliRunner().invoke(cli.app, ["subjects", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def bytes_of(folder, pattern):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob(pattern)}


def test_train_generate_and_score(tmp_path):
    config = config_file(tmp_path, methods=tuple(METHOD))
    root = tmp_path / "run"
    with pytest.raises(NotFinished, match="selma subjects train"):
        run("generate", config)
    out = run("train", config)
    assert all(f"{method} cat_hat" in out for method in METHOD)
    with pytest.raises(NotFinished, match="selma subjects generate"):
        run("score", config)
    run("generate", config)
    images = root / "5-scores" / "images" / "_subjects"
    names = {"00-0.png", "00-1.png", "01-0.png", "01-1.png"}
    base = bytes_of(images / "base" / "cat_hat" / "0", "*.png")
    assert {path.name for path in base} == names
    for method in METHOD:
        last = bytes_of(images / method / "cat_hat" / "2", "*.png")
        assert last.keys() == base.keys() and last != base
        assert len(bytes_of(images / method / "cat_hat" / "1", "*.png")) == 1
    out = run("score", config, "--json", tmp_path / "card.json")
    card = json.loads((tmp_path / "card.json").read_text())
    assert [row["model"] for row in card["rows"]] == ["real", "base", *METHOD]
    assert card["rows"][2]["parameters"] < card["rows"][3]["parameters"]
    assert len(card["comparisons"]) == 6 * 5 and len(card["curves"]["oft"]) == 3
    assert card["measures"][0]["label"] == "Encoders"  # toybox has no DINO
    assert "oft minus lora" in out
    page = root / "6-report" / "_subjects" / "index.html"
    (section,) = read_pages(Workspace(root))
    assert section.file == "_subjects/index.html" and set(section.about) == {"base"}
    assert [row[0] for row in section.tables[1].rows] == list(METHOD)[1:]
    html = page.read_text()
    assert html.count("<polyline") == 4 * 4 and html.count("data:image/png") > 20
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', html)
    assert loaded and all(link.startswith("data:image/png;base64,") for link in loaded)
    assert json.loads((page.parent / "card.json").read_text()) == card
    # Everything again changes no byte.
    before = bytes_of(root, "*.*")
    for command in ("train", "generate", "score"):
        run(command, config)
    after = bytes_of(root, "*.*")
    assert {p for p in before if before[p] != after[p]} <= {next(root.glob("*.jsonl")).name} | {
        path for path in before if path.name == "journal.jsonl"
    }


def test_lost_images_are_generated_again_to_the_bit(tmp_path):
    config = config_file(tmp_path, methods=("oft",))
    run("train", config)
    run("generate", config)
    folder = tmp_path / "run" / "5-scores" / "images" / "_subjects" / "oft" / "cat_hat" / "2"
    before = bytes_of(folder, "*.png")
    (folder / "01-0.png").unlink()
    run("generate", config)
    assert bytes_of(folder, "*.png") == before


def test_on_toybox_with_two_subjects_and_without_a_prior(tmp_path):
    config = config_file(tmp_path, shape="toybox", methods=("oft",),
                         subjects=("apple_banded", "dog_spots"), prior={"weight": 0.0})  # fmt: skip
    run("train", config)
    assert not (tmp_path / "run" / "2-images" / "_class").exists()
    run("generate", config)
    out = run("score", config)
    assert "oft on 2 subjects" in out
    html = (tmp_path / "run" / "6-report" / "_subjects" / "index.html").read_text()
    assert "apple_banded" in html and "dog_spots" in html and "Minus" not in html


def test_toybox_writes_its_subjects(tmp_path):
    result = CliRunner().invoke(cli.app, ["toybox", "subjects", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "data" / "cat_hat" / "00.png") as image:
        assert image.size == (64, 64)


def test_generate_takes_a_fully_trained_unet(tmp_path):
    config = config_file(tmp_path, methods=("full",))
    run("train", config)
    words = ["generate", "a qwe cat", "--base", str(tiny.folder("sd1")), "--steps", "2"]
    adapter = tmp_path / "run" / "3-experts" / "_subjects" / "full" / "cat_hat"
    for name, options in (("a", []), ("b", ["--adapter", str(adapter)])):
        result = CliRunner().invoke(
            cli.app, [*words, *options, "--out", str(tmp_path / f"{name}.png")]
        )
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


BROKEN = {
    "methods: {}": "methods",
    "methods: {base: {adapter: {kind: oft}}}": "no method may be called 'base'",
    "methods: {A/b: {adapter: {kind: oft}}}": "methods",
    "methods: {oft: {adapter: {kind: magic}}}": "adapter",
    "data: {instance_prompt: a photo}": "needs {token} and {class}",
    "data: {prompts: ['a {class}']}": "needs {token} and {class}",
    "data: {class_prompt: 'a {token} {class}'}": "class_prompt needs {class} and no {token}",
    "prior: {weight: -1}": "prior.weight",
}


@pytest.mark.parametrize(("text", "says"), BROKEN.items(), ids=BROKEN)
def test_a_broken_section_says_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "some.yaml"
    path.write_text(f"subjects: {{{text}}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, SubjectsRun)
    assert says in str(error.value)


def test_mistakes_are_found_before_a_model_is_loaded(tmp_path):
    path = config_file(tmp_path, methods=("full",))
    raw = yaml.safe_load(path.read_text())
    raw["base"]["precision"] = "bf16"
    raw["subjects"]["data"]["folder"] = "nowhere"
    raw["subjects"]["methods"]["oft"] = {"adapter": {"kind": "oft", "blocks": 7}}
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ConfigError) as error:
        run("train", path)
    for setting in ("subjects.data.folder", "subjects.methods.full", "subjects.methods.oft"):
        assert setting in str(error.value)


def test_paths_and_defaults(tmp_path):
    (tmp_path / "dino").mkdir()
    scores = {"dino": {"model": "dino"}, "clip": {"model": "openai/clip"}, "lpips": None}
    path = config_file(tmp_path, data={"folder": "dreambooth"}, scores=scores)
    settings = load_config(path, SubjectsRun).subjects
    assert settings.data.folder == str(tmp_path / "dreambooth")
    assert settings.scores.dino.model == str(tmp_path / "dino")
    assert settings.scores.clip.model == "openai/clip" and settings.scores.lpips is None
    assert not hasattr(RunConfig(name="plain"), "subjects")
    assert SubjectSettings().methods == METHODS and list(METHODS) == ["lora", "full", "oft", "coft"]
