"""The judges and the scorer that the package carries."""

import json
import random

import pytest
import torch

from selma.toybox import WORLD, weights_folder
from selma.toybox.judges import VqaConfig, VqaModel, load_vqa
from selma.toybox.pretraining.judging import NAMES, _names_of_cells, accuracy, question_batch
from selma.toybox.questions import CATEGORIES
from selma.toybox.scenes import Group, Placed, Scene

JUDGES = ("judge-a", "judge-b")


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_is_right_on_held_out_renders_in_every_category(name):
    found = accuracy(load_vqa(weights_folder() / name), seed=12_345, images=1000)
    for category in CATEGORIES:
        assert found[f"clean/{category}"] >= 97, (category, found)
        assert found[f"degraded/{category}"] >= 90, (category, found)


@pytest.mark.parametrize("architecture", ["attention", "modulation"])
def test_a_picture_is_judged_alone(architecture):
    """Neither the batch nor other questions change an answer."""
    torch.manual_seed(0)
    vocabulary = ("is", "there", "a", "dog")
    model = VqaModel(VqaConfig(architecture=architecture, vocabulary=vocabulary, width=32)).eval()
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    asked = ["Is there a dog?", "Is there?", "dog", "zebra crossing"]
    with torch.no_grad():
        together = model.answer(model.encode(pixels), asked)
        alone = torch.cat(
            [model.answer(model.encode(pixels[i : i + 1]), [asked[i]]) for i in range(4)]
        )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_saving_and_loading_keeps_a_judge(tmp_path):
    model = VqaModel(VqaConfig(architecture="modulation", vocabulary=("dog",), width=32)).half()
    model.save(tmp_path)
    again = load_vqa(tmp_path)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value.float())


def test_an_examination_asks_about_each_picture_in_turn():
    batch = question_batch(random.Random(0), 3, degraded=True)
    assert batch.pixels.shape == (3, 3, 64, 64) and batch.pixels.abs().max() <= 1
    assert len(batch.questions) == len(batch.truth) == len(batch.categories) == 24


def test_cells_are_named_after_what_covers_them():
    scene = Scene((Group("dog", "red", 1, "still"),), background="sea")
    placed = [Placed("dog", "red", side_px=24, left_px=4, top_px=32)]
    names = _names_of_cells(scene, placed).unflatten(0, (8, 8))
    assert (names[..., NAMES.index("sea")] == 1).all()
    dogs = names[..., NAMES.index("dog")].nonzero().tolist()
    assert dogs == [[row, column] for row in (4, 5, 6) for column in (0, 1, 2)]
    assert (names[..., NAMES.index("red")] == names[..., NAMES.index("dog")]).all()


def test_the_weights_say_how_they_were_made():
    notes = json.loads((weights_folder() / "pretraining.json").read_text())
    for part in ("vae", "base", *JUDGES, "clip"):
        assert notes[part]["metrics"]["steps"] > 0
        assert {"seed", "data_version", "hardware", "versions"} <= notes[part].keys()
        assert notes[part]["data_version"] == WORLD


def test_the_weights_are_small_and_safe():
    files = [path for path in weights_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
