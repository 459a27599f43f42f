"""Very many images of an item lie in sub-folders; few lie as they always did."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from selma import image_places
from selma.errors import DataError
from selma.image_places import image_of, image_place, make_folders, places, possible_places
from selma.images.pairs import METADATA, read_generated, write_metadata
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import inside, insider


def names(count: int) -> list[str]:
    return [f"{prompt_id('coco', str(n))}.png" for n in range(count)]


def test_few_images_lie_in_the_folder_itself(tmp_path: Path) -> None:
    few = names(image_places.FLAT)
    assert places(tmp_path, few) == [tmp_path / name for name in few]


@pytest.mark.parametrize("count", [8_001, 64_001])
def test_no_folder_has_more_than_ten_thousand_entries(tmp_path: Path, count: int) -> None:
    many = names(count)
    paths = places(tmp_path, many)
    assert [path.name for path in paths] == many
    entries = Counter(path.parent for path in paths)
    assert max(entries.values()) <= 10_000
    assert len(entries) <= 10_000
    assert all(folder.parent == tmp_path for folder in entries)


def test_a_million_images_lie_in_256_folders() -> None:
    digits = image_places._digits(1_000_000)
    entries = Counter(hashlib.sha256(b"%d.png" % n).hexdigest()[:digits] for n in range(1_000_000))
    assert digits == 2
    assert max(entries.values()) < 5_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_places, "FLAT", 3)
    monkeypatch.setattr(image_places, "_EACH", 2)


@pytest.mark.usefixtures("small")
def test_an_image_is_found_wherever_it_lies(tmp_path: Path) -> None:
    paths = places(tmp_path, names(30))
    make_folders(paths)
    for path in paths:
        path.write_bytes(b"image")
        assert image_place(tmp_path, path.name) == path
        assert image_of(tmp_path, path.stem) == path
    assert image_of(tmp_path, "none") == tmp_path / "none.png"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [3, 30])
def test_what_is_paid_for_is_known_wherever_it_may_lie(tmp_path: Path, count: int) -> None:
    many = names(count)
    possible = possible_places(many)
    assert {path.relative_to(tmp_path).as_posix() for path in places(tmp_path, many)} <= {*possible}
    assert {*many} <= {*possible}
    assert (possible == many) == (count <= image_places.FLAT)


@pytest.mark.usefixtures("small")
def test_images_that_lie_flat_already_stay(tmp_path: Path) -> None:
    many = names(30)
    (tmp_path / many[4]).write_bytes(b"of an earlier version")
    paths = places(tmp_path, many)
    assert paths[4] == tmp_path / many[4]
    assert all(path.parent != tmp_path for path in (*paths[:4], *paths[5:]))


@pytest.mark.usefixtures("small")
def test_pairs_in_sub_folders_are_read_back(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    prompts = [
        Prompt(id=prompt_id("coco", str(n)), skill="coco", text=f"prompt {n}") for n in range(20)
    ]
    train = tmp_path / "train"
    paths = places(train, (f"{prompt.id}.png" for prompt in prompts))
    make_folders(paths)
    pairs = [Pair(prompt=p, image=path, seed=1) for p, path in zip(prompts, paths, strict=True)]
    for number, pair in enumerate(pairs):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(pair.image)
    write_metadata(train / METADATA, pairs)
    assert read_generated(tmp_path, prompts) == pairs
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path))
    text_of = {row["image"].getpixel((0, 0))[0]: row["text"] for row in loaded["train"]}
    assert text_of == {n: f"prompt {n}" for n in range(20)}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.png",
            "b/a.png",
            "..",
            "../a",
            "b/../../a",
            "/etc/passwd",
            "c:a",
            "",
            "a\0",
            "x" * 999,
        ),
        *("out", "out/a", "loop", "b/..", " ", "b/", "./a.png", "in/a.png", "none/a.png"),
    ],
)
def test_very_many_names_are_held_to_what_one_is(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a.png").write_bytes(b"")
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "b")
    (root / "loop").symlink_to(root / "loop")
    try:
        expected = inside(root, name)
    except DataError as error:
        with pytest.raises(DataError) as raised:
            insider(root)(name)
        assert str(raised.value) == str(error)
    else:
        assert insider(root)(name) == expected
