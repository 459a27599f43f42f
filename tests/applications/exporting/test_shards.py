"""Shards hold a run's pairs, as the programs read them that they are for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from selma import image_places
from selma.applications.exporting.shards import export_shards
from selma.cli import app
from selma.errors import ConfigError, DataError, WorkspaceError
from selma.image_places import make_folders, places
from selma.images.pairs import METADATA, write_metadata
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import IMAGES, Workspace

COUNT = 7


def a_run(root: Path, skills: tuple[str, ...] = ("coco", "count")) -> Path:
    """A run with finished pairs whose images' first pixel is their number."""
    for skill in skills:
        item = Workspace(root).item(IMAGES, skill, recipe={"skill": skill})
        train = item.begin() / "train"
        prompts = [
            Prompt(id=prompt_id(skill, str(n)), skill=skill, text=f"{skill} {n}: ein Café")
            for n in range(COUNT)
        ]
        files = places(train, (f"{prompt.id}.png" for prompt in prompts))
        make_folders(files)
        pairs = [
            Pair(prompt=prompt, image=file, seed=n)
            for n, (prompt, file) in enumerate(zip(prompts, files, strict=True))
        ]
        for pair in pairs:
            Image.new("RGB", (8, 8), (pair.seed or 0, 1, 2)).save(pair.image)
        write_metadata(train / METADATA, pairs)
        item.finish([*files, train / METADATA], {"images": COUNT})
    return root


def test_shards_hold_the_pairs_in_order(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    shards = export_shards(run, tmp_path / "out", per_shard=3)
    assert [path.name for path in shards] == [
        f"{skill}-{number:06d}.tar" for skill in ("coco", "count") for number in range(3)
    ]
    seen = []
    for path in shards[:3]:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if member.name.endswith(".json"):
                    seen.append(json.load(content))
    assert [row["seed"] for row in seen] == list(range(COUNT))
    assert {row["skill"] for row in seen} == {"coco"}


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    each = [
        export_shards(a_run(tmp_path / name), tmp_path / f"{name}-out", per_shard=4)
        for name in ("one", "two")
    ]
    first, second = ([path.read_bytes() for path in shards] for shards in each)
    assert first == second


@pytest.mark.parametrize("flat", [100, 2])
def test_datasets_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat: int) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(image_places, "FLAT", flat)  # in sub-folders, too
    shards = export_shards(a_run(tmp_path / "run"), tmp_path / "out", per_shard=3)
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(path) for path in shards]},
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    told = [(row["png"].getpixel((0, 0))[0], row["txt"], row["json"]["seed"]) for row in rows]
    assert told == [
        (n, f"{skill} {n}: ein Café", n) for skill in ("coco", "count") for n in range(COUNT)
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = export_shards(a_run(tmp_path / "run"), tmp_path / "out", per_shard=3)
    urls = [str(path) for path in shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 2 * COUNT
    for number, sample in enumerate(samples[:COUNT]):
        assert sample["png"].getpixel((0, 0)) == (number, 1, 2)
        assert sample["txt"] == f"coco {number}: ein Café"
        assert sample["json"]["prompt_id"] == sample["__key__"]


def test_a_damaged_image_is_no_part_of_any_shard(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    image = next((run / IMAGES / "count" / "train").rglob("*.png"))
    other = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(other, "PNG")
    image.write_bytes(other.getvalue())
    with pytest.raises(DataError, match="is damaged"):
        export_shards(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has coco, count and not vg\."):
        export_shards(run, tmp_path / "out", skills=["vg"])
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="must be a new folder"):
        export_shards(run, tmp_path / "there")
    with pytest.raises(ConfigError, match="has none"):
        export_shards(tmp_path / "no-run", tmp_path / "out")
    with pytest.raises(ConfigError, match="must lie outside the run"):
        export_shards(run, run / IMAGES / "shards")  # it would be taken for a skill
    (run / IMAGES / "coco" / "manifest.json").unlink()
    with pytest.raises(WorkspaceError, match="'coco' must be finished"):
        export_shards(run, tmp_path / "out")


def test_the_command(tmp_path: Path) -> None:
    run, out = a_run(tmp_path / "run"), tmp_path / "out"
    asked = ["export", str(run), "--webdataset", str(out), "--skill", "coco", "--per-shard", "4"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "2 shards" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["coco-000000.tar", "coco-000001.tar"]
