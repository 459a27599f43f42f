"""What is compared and who sees what where: fair, fixed, and bound to the pictures' bytes."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from applications.study.little import little_run, little_study
from PIL import Image, PngImagePlugin

from selma.applications.study.plan import Pair, Pictures, Study, plan_study, showings
from selma.errors import ConfigError, DataError, WorkspaceError
from selma.records.benchmarks import evenly
from selma.workspace import SCORES

MODELS = ("base", "merged")


def some_study(pairs: int, seed: int = 0) -> Study:
    made = (Pair(id=f"p{i}", text=f"text {i}", group="g", sha256=("a", "b")) for i in range(pairs))
    return Study(models=MODELS, seed=seed, pairs=tuple(made))


@pytest.mark.parametrize("pairs", [1, 2, 7, 200])
def test_everyone_sees_every_pair_once_and_each_model_half_the_time_at_left(pairs: int) -> None:
    study = some_study(pairs)
    for name in ("ada", "ben", "cleo"):
        way = showings(study, name)
        assert sorted(one.pair.id for one in way) == sorted(pair.id for pair in study.pairs)
        at_left = Counter(one.left for one in way)
        assert abs(at_left[0] - at_left[1]) <= pairs % 2


def test_the_order_depends_on_seed_and_annotator_alone() -> None:
    study = some_study(40)
    assert showings(study, "ada") == showings(some_study(40), "ada")
    ways = [showings(study, "ada"), showings(study, "ben"), showings(some_study(40, 1), "ada")]
    assert len({tuple(one.pair.id for one in way) for way in ways}) == 3
    assert len({tuple(one.left for one in way) for way in ways}) == 3


def test_sides_tell_nothing_of_the_order() -> None:
    study = some_study(20)
    ways = [showings(study, f"annotator {i}") for i in range(400)]
    for step in (0, 1, 10, 19):
        # Four standard errors of 400 fair coins round 200.
        assert 160 <= sum(way[step].left for way in ways) <= 240


def test_prompts_are_taken_evenly_from_the_runs_exam(tmp_path: Path) -> None:
    exam = little_run(tmp_path, prompts=10)
    study = plan_study(tmp_path, exam, models=MODELS, prompts=5, seed=0)
    assert [pair.id for pair in study.pairs] == [prompt.id for prompt in evenly(exam, 5)]
    assert len({pair.group for pair in study.pairs}) == 5
    assert len(plan_study(tmp_path, exam, models=MODELS, prompts=200, seed=0).pairs) == 10


def test_models_without_finished_pictures_are_refused(tmp_path: Path) -> None:
    exam = little_run(tmp_path, prompts=5)
    with pytest.raises(WorkspaceError, match="Finished are: base, merged, okapi, quagga"):
        plan_study(tmp_path, exam, models=("base", "zebra"), prompts=5, seed=0)
    with pytest.raises(ConfigError, match="came twice"):
        plan_study(tmp_path, exam, models=("base", "base"), prompts=5, seed=0)
    with pytest.raises(DataError, match="leads out"):
        plan_study(tmp_path, exam, models=("base", "../../../../etc"), prompts=5, seed=0)
    other = [prompt.model_copy(update={"id": "never-drawn"}) for prompt in exam]
    with pytest.raises(WorkspaceError, match="never-drawn by base"):
        plan_study(tmp_path, other, models=MODELS, prompts=5, seed=0)


def test_a_picture_that_changed_is_never_shown(tmp_path: Path) -> None:
    study = little_study(tmp_path, prompts=5)
    first = study.pairs[0].id
    pictures = Pictures(tmp_path, study)
    pictures.verify()
    assert pictures.png(first, 0) != pictures.png(first, 1)
    path = tmp_path / SCORES / "pictures" / "quagga" / f"{study.pairs[1].id}.png"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="has changed"):
        pictures.png(study.pairs[1].id, 1)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pictures.verify()


def with_more(path: Path, how: str) -> None:
    """Puts the model's name into a picture's file, beside its pixels."""
    with Image.open(path) as picture:
        picture.load()
        if how == "text":
            said = PngImagePlugin.PngInfo()
            said.add_text("Software", "drawn by quagga")
            picture.save(path, pnginfo=said)
        elif how == "exif":
            exif = picture.getexif()
            exif[0x0131] = "drawn by quagga"
            picture.save(path, exif=exif)
        elif how == "comment":  # of another format, whatever the name says
            picture.save(path, format="GIF", comment=b"drawn by quagga")
        else:
            path.write_bytes(path.read_bytes() + b"drawn by quagga")


@pytest.mark.parametrize("how", ["text", "exif", "comment", "after the end"])
def test_a_picture_tells_nothing_but_its_pixels(tmp_path: Path, how: str) -> None:
    exam = little_run(tmp_path, prompts=5)
    folder = tmp_path / SCORES / "pictures" / "quagga"
    path = folder / f"{exam[0].id}.png"
    with_more(path, how)
    assert b"quagga" in path.read_bytes()
    with Image.open(path) as picture:
        before = picture.convert("RGB")
    # As a stage would have left it.
    entry = json.loads((folder / "manifest.json").read_text())
    entry["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(entry))
    study = plan_study(tmp_path, exam, models=("okapi", "quagga"), prompts=5, seed=0)
    pictures = Pictures(tmp_path, study)
    shown = pictures.png(exam[0].id, 1)
    assert b"quagga" not in shown
    with Image.open(io.BytesIO(shown)) as picture:
        assert picture.format == "PNG"
        assert picture.convert("RGB").tobytes() == before.tobytes()
    # A plain file is passed on as it is, without the time that encoding takes.
    plain = folder / f"{exam[1].id}.png"
    assert pictures.png(exam[1].id, 1) == plain.read_bytes()
