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

from selma.applications.study.plan import Images, Pair, Study, plan_study, showings
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
    benchmark_prompts = little_run(tmp_path, prompts=10)
    study = plan_study(tmp_path, benchmark_prompts, models=MODELS, prompts=5, seed=0)
    assert [pair.id for pair in study.pairs] == [
        prompt.id for prompt in evenly(benchmark_prompts, 5)
    ]
    assert len({pair.group for pair in study.pairs}) == 5
    assert (
        len(plan_study(tmp_path, benchmark_prompts, models=MODELS, prompts=200, seed=0).pairs) == 10
    )


def test_models_without_finished_pictures_are_refused(tmp_path: Path) -> None:
    benchmark_prompts = little_run(tmp_path, prompts=5)
    with pytest.raises(WorkspaceError, match="Finished are: base, merged, okapi, quagga"):
        plan_study(tmp_path, benchmark_prompts, models=("base", "zebra"), prompts=5, seed=0)
    with pytest.raises(ConfigError, match="came twice"):
        plan_study(tmp_path, benchmark_prompts, models=("base", "base"), prompts=5, seed=0)
    with pytest.raises(DataError, match="leads out"):
        plan_study(
            tmp_path, benchmark_prompts, models=("base", "../../../../etc"), prompts=5, seed=0
        )
    other = [prompt.model_copy(update={"id": "never-drawn"}) for prompt in benchmark_prompts]
    with pytest.raises(WorkspaceError, match="never-drawn by base"):
        plan_study(tmp_path, other, models=MODELS, prompts=5, seed=0)


def test_a_picture_that_changed_is_never_shown(tmp_path: Path) -> None:
    study = little_study(tmp_path, prompts=5)
    first = study.pairs[0].id
    images = Images(tmp_path, study)
    images.verify()
    assert images.png(first, 0) != images.png(first, 1)
    path = tmp_path / SCORES / "images" / "quagga" / f"{study.pairs[1].id}.png"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="has changed"):
        images.png(study.pairs[1].id, 1)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        images.verify()


def with_more(path: Path, how: str) -> None:
    """Puts the model's name into a picture's file, beside its pixels."""
    with Image.open(path) as image:
        image.load()
        if how == "text":
            said = PngImagePlugin.PngInfo()
            said.add_text("Software", "drawn by quagga")
            image.save(path, pnginfo=said)
        elif how == "exif":
            exif = image.getexif()
            exif[0x0131] = "drawn by quagga"
            image.save(path, exif=exif)
        elif how == "comment":  # of another format, whatever the name says
            image.save(path, format="GIF", comment=b"drawn by quagga")
        else:
            path.write_bytes(path.read_bytes() + b"drawn by quagga")


@pytest.mark.parametrize("how", ["text", "exif", "comment", "after the end"])
def test_a_picture_tells_nothing_but_its_pixels(tmp_path: Path, how: str) -> None:
    benchmark_prompts = little_run(tmp_path, prompts=5)
    folder = tmp_path / SCORES / "images" / "quagga"
    path = folder / f"{benchmark_prompts[0].id}.png"
    with_more(path, how)
    assert b"quagga" in path.read_bytes()
    with Image.open(path) as image:
        before = image.convert("RGB")
    # As a stage would have left it.
    entry = json.loads((folder / "manifest.json").read_text())
    entry["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(entry))
    study = plan_study(tmp_path, benchmark_prompts, models=("okapi", "quagga"), prompts=5, seed=0)
    images = Images(tmp_path, study)
    shown = images.png(benchmark_prompts[0].id, 1)
    assert b"quagga" not in shown
    with Image.open(io.BytesIO(shown)) as image:
        assert image.format == "PNG"
        assert image.convert("RGB").tobytes() == before.tobytes()
    # A plain file is passed on as it is, without the time that encoding takes.
    plain = folder / f"{benchmark_prompts[1].id}.png"
    assert images.png(benchmark_prompts[1].id, 1) == plain.read_bytes()
