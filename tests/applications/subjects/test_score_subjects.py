"""Subjects' scores: every pair counts, and tables are exact."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from selma.applications.subjects import scorecard
from selma.applications.subjects.records import Subject
from selma.applications.subjects.scoring import Networks, RealImages, score_generated
from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt
from selma.workspace import SCORES, Workspace


def colour(rgb, px=8):
    return Image.new("RGB", (px, px), rgb)


def mean_colour(images):
    rows = torch.tensor(np.stack([np.asarray(p, dtype=np.float32).mean((0, 1)) for p in images]))
    return torch.nn.functional.normalize(rows + 1e-6, dim=1)


class Colours:
    """A network that can be computed by hand: the mean colour, and colour words."""

    name, label, fingerprint = "colours", "DINO", "c"

    def of_images(self, images):
        return mean_colour(images)

    def of_texts(self, texts):
        return torch.tensor(
            [[float(w in text) for w in ("red", "green", "blue")] for text in texts]
        )


NETWORKS = Networks(Colours(), Colours(), Colours())
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def real(tmp_path):
    paths = []
    for n, rgb in enumerate((RED, GREEN)):
        paths.append(tmp_path / f"real-{n}.png")
        colour(rgb, 20).save(paths[-1])
    return RealImages(
        Subject(name="dog", kind="dog", images=tuple(paths), prompts=("x",)), NETWORKS
    )


def generated(folder, **images):
    """A finished item with these images by id."""
    item = folder.item(SCORES, "images", "x", recipe={"n": sorted(images)})
    path = item.begin()
    for name, rgb in images.items():
        colour(rgb).save(path / f"{name.replace('_', '-').lstrip('p')}.png")
    item.finish(list(path.glob("*.png")), {})
    return item.path


def prompts(*ids):
    return [BenchmarkPrompt(id=i, text="a qwe dog", group="dog", questions=()) for i in ids]


TEXTS = {"00": "a red dog", "01": "a blue dog"}


def test_every_pair_counts(tmp_path, real):
    folder = Workspace(tmp_path / "run")
    images = generated(folder, p00_0=RED, p00_1=BLUE, p01_0=BLUE, p01_1=BLUE)
    ids = ("00-0", "00-1", "01-0", "01-1")
    rows = score_generated(real, prompts(*ids), TEXTS, images, folder, name=("oft", "dog", "9"))
    first, second = rows
    # Red meets red and green, blue meets neither: one of four pairs.
    assert first["dino"] == first["clip_i"] == pytest.approx(0.25)
    assert first["clip_t"] == pytest.approx(0.5) and second["clip_t"] == pytest.approx(1.0)
    assert first["pairs"] == 4 and first["text"] == "a red dog"
    # Squared distances of unit vectors: 0 to itself, 2 to another colour.
    assert first["lpips_real"] == pytest.approx((0 + 2 + 2 + 2) / 4)
    assert first["lpips_diversity"] == pytest.approx(2) and second["lpips_diversity"] == 0
    assert [image["dino"] for image in first["each"]] == pytest.approx([0.5, 0.0])
    assert [image["image"] for image in second["each"]] == ["01-0", "01-1"]
    path = folder.root / SCORES / "_subjects" / "oft" / "dog" / "9" / "rows.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    before = path.stat().st_mtime_ns
    again = score_generated(real, prompts(*ids), TEXTS, images, folder, name=("oft", "dog", "9"))
    assert again == rows
    assert path.stat().st_mtime_ns == before


def test_a_single_image_has_no_diversity_and_real_ones_meet_only_others(tmp_path, real):
    folder = Workspace(tmp_path / "run")
    images = generated(folder, p00_0=RED)
    (row,) = score_generated(real, prompts("00-0"), TEXTS, images, folder, name=("o", "dog", "9"))
    assert "lpips_diversity" not in row
    assert real.among_themselves(8) == {"dino": 0.0, "clip_i": 0.0, "lpips_real": 2.0}
    single = real.subject.model_copy(update={"images": real.subject.images[:1]})
    assert RealImages(single, NETWORKS).among_themselves(8) == {}


def test_unfinished_and_missing_images_are_errors(tmp_path, real):
    folder = Workspace(tmp_path / "run")
    images, name = generated(folder, p00_0=RED), ("o", "dog", "9")
    with pytest.raises(DataError, match="no such file"):
        score_generated(real, prompts("00-0", "00-1"), TEXTS, images, folder, name=name)
    (images / "manifest.json").unlink()
    with pytest.raises(DataError, match="selma subjects generate"):
        score_generated(real, prompts("00-0"), TEXTS, images, folder, name=("o", "dog", "8"))


def rows(*values, pairs=1):
    return [
        {"prompt": f"{n:02d}", "dino": v, "pairs": pairs, "each": [{"dino": v}]}
        for n, v in enumerate(values)
    ]


BOOTSTRAP = {"seed": 0, "resamples": 200}


def test_a_row_weighs_subjects_alike_and_says_the_released_mean():
    row = scorecard.method_row(
        "oft",
        {"dog": rows(0.2, 0.4, pairs=1), "cat": rows(0.8, 0.8, pairs=3)},
        ["dino", "clip_t"],
        parameters=7,
        **BOOTSTRAP,
    )
    assert row.values["dino"].mean == pytest.approx(0.55) and row.values["dino"].n == 4
    assert row.values.keys() == {"dino"}  # a measure that no row has is no column
    assert row.released["dino"] == pytest.approx((0.6 + 3 * 1.6) / 8)
    assert row.subjects == {"dog": {"dino": 0.3}, "cat": {"dino": 0.8}}


def test_comparisons_are_paired_and_of_every_two():
    by_method = {
        "a": {"dog": rows(0.1, 0.9), "cat": rows(0.5, 0.5)},
        "b": {"dog": rows(0.2, 1.0), "cat": rows(0.6, 0.6)},
        "c": {"dog": rows(0.1, 0.9), "cat": rows(0.5, 0.5)},
    }
    pairs = scorecard.comparisons(by_method, ["dino"], **BOOTSTRAP)
    assert [(c.model, c.against) for c in pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs[0].difference.mean == pytest.approx(0.1)
    # The same for every prompt: certain, however much prompts differ.
    assert pairs[0].difference.low == pytest.approx(0.1) and pairs[0].over_subjects.n == 2
    assert pairs[1].difference.mean == 0 and pairs[2].difference.mean == pytest.approx(-0.1)


def test_curves_take_the_first_image_of_the_shared_prompts():
    by_subject = {"dog": rows(0.0, 1.0, 0.5), "cat": rows(0.2, 0.0, 0.9)}
    by_subject["dog"][0]["each"].append({"dino": 99.0})
    shared = dict.fromkeys(by_subject, ("00", "02"))
    point = scorecard.curve_point(10, by_subject, ["dino", "clip_t"], shared)
    assert point.step == 10 and point.values == {"dino": pytest.approx((0 + 0.5 + 0.2 + 0.9) / 4)}
    # A subject with another number of prompts has curve prompts of its own.
    own = {"dog": {"00", "02"}, "cat": {"01"}}
    point = scorecard.curve_point(10, by_subject, ["dino"], own)
    assert point.values == {"dino": pytest.approx((0 + 0.5 + 0.0) / 3, abs=1e-6)}
