"""Subjects as they lie on disk: DreamBooth's layout, any folder, and what is refused."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image
from pydantic import ValidationError

from selma.applications.subjects.images import (
    class_pairs,
    image_prompts,
    instance_pairs,
    read_subjects,
)
from selma.applications.subjects.prompts import (
    LIVE_PROMPTS,
    OBJECT_PROMPTS,
    read_prompt_text,
    worded,
)
from selma.applications.subjects.settings import Prior, SubjectData, SubjectSettings
from selma.errors import DataError
from selma.toybox import subjects as toybox
from selma.workspace import Workspace

TEXT = """Classes
=======
subject_name,class
backpack_dog,backpack
dog,dog
wolf_plushie,stuffed animal

Prompts

Object Prompts
prompt_list = [
'a {0} {1} in a cave'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts
prompt_list = [
"a {0} {1} with a chef's hat".format(unique_token, class_token),
]
"""


def noise(seed, size=(20, 16)):
    numbers = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(numbers)


def dataset(root, *, text=TEXT, names=("backpack_dog", "dog", "wolf_plushie")):
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for n in range(index + 1):
            noise(10 * index + n).save(root / name / f"{n:02d}.jpg")
    if text is not None:
        (root / "prompts_and_classes.txt").write_text(text)
    return root


def read(root, tmp_path, **settings):
    data = SubjectData(folder=str(root), **settings)
    return read_subjects(data, Workspace(tmp_path / "run"), base_px=32)


def test_the_datasets_layout_is_read_as_it_is(tmp_path):
    root = dataset(tmp_path / "dataset")
    (root / "references_and_licenses.txt").write_text("x")
    (root / "dog" / "notes.txt").write_text("x")
    subjects = read(root, tmp_path)
    assert [(s.name, s.kind, len(s.images)) for s in subjects] == [
        ("backpack_dog", "backpack", 1),
        ("dog", "dog", 2),
        ("wolf_plushie", "stuffed animal", 3),
    ]
    # "dog" is told from "backpack_dog" letter by letter.
    assert read(root, tmp_path, subjects=("dog",)) == [subjects[1]]
    assert subjects[0].prompts == ("a {token} {class} in a cave", "a red {token} {class}")
    assert subjects[1].prompts == ("a {token} {class} with a chef's hat",)  # it lives
    before = {path: path.stat().st_mtime_ns for s in subjects for path in s.images}
    assert read(root, tmp_path) == subjects
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_toybox_reads_like_its_own_folder(tmp_path):
    generated = read_subjects(SubjectData(), Workspace(tmp_path / "generated"), base_px=64)
    root = toybox.write_subjects(tmp_path / "data")
    files = read_subjects(SubjectData(folder=str(root)), Workspace(tmp_path / "run"), base_px=64)
    for a, b in zip(generated, files, strict=True):
        assert (a.name, a.kind, a.prompts) == (b.name, b.kind, b.prompts)
        assert [p.read_bytes() for p in a.images] == [p.read_bytes() for p in b.images]
    assert len(generated) >= 6 and {len(s.prompts) for s in generated} == {25}
    lives = {s.kind for s in generated if "a sleeping {token} {class} at night" in s.prompts}
    assert lives == {"cat", "dog", "fish"}


def test_any_folder_of_images_is_one_subject(tmp_path):
    (tmp_path / "my mug").mkdir()
    noise(0).save(tmp_path / "my mug" / "a.png")
    (only,) = read(tmp_path / "my mug", tmp_path, classes={"my mug": "cup"})
    assert (only.name, only.kind, only.prompts) == ("my mug", "cup", OBJECT_PROMPTS)
    (cat,) = read(tmp_path / "my mug", tmp_path, classes={"my mug": "cat"})
    assert cat.prompts == LIVE_PROMPTS
    assert read(tmp_path / "my mug", tmp_path, classes={"my mug": "cup"},
                prompts=("{token} {class}",))[0].prompts == ("{token} {class}",)  # fmt: skip


def test_large_and_sideways_images_are_fitted(tmp_path):
    root = tmp_path / "data" / "mug"
    root.mkdir(parents=True)
    image = Image.new("RGB", (60, 40), "white")
    image.paste((255, 0, 0), (0, 0, 60, 8))  # red along the upper side
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    image.save(root / "a.jpg", exif=exif, quality=95)
    (mug,) = read(tmp_path / "data", tmp_path, classes={"mug": "cup"}, image_px=20)
    with Image.open(mug.images[0]) as fitted:
        assert fitted.size == (20, 30) and fitted.format == "PNG"
        pixels = np.asarray(fitted.convert("RGB")).astype(int)
    assert pixels[15, 18, 1] < 60 and pixels[15, 2, 1] > 200  # red is now at the right


def test_what_cannot_be_meant_is_refused(tmp_path):
    with pytest.raises(DataError, match="not there"):
        read(tmp_path / "nothing", tmp_path)
    root = dataset(tmp_path / "a", text=None)
    with pytest.raises(DataError, match="'backpack_dog' needs a class word"):
        read(root, tmp_path)
    with pytest.raises(DataError, match="'backpack' came"):
        read(root, tmp_path, subjects=("backpack",))
    classes = dict.fromkeys(("backpack_dog", "dog", "wolf_plushie"), "dog")
    (root / "dog" / "01.jpg").write_bytes((root / "dog" / "01.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"dog/01\.jpg: The image cannot be decoded"):
        read(root, tmp_path, classes=classes)
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty must hold images"):
        read(root, tmp_path, classes=classes | {"empty": "dog"}, subjects=("empty",))
    with pytest.raises(DataError, match="two classes: 'dog' and 'cat'"):
        read_prompt_text("subject_name,class\nrex,dog\nrex,cat\n", of="it")
    # No prompt is quietly left out.
    with pytest.raises(DataError, match=r"needs \{0\} for the token .* 'a \{1\} in a cave'"):
        read_prompt_text(TEXT.replace("a {0} {1} in a cave", "a {1} in a cave"), of="it")
    assert read_prompt_text("Object Prompts\n'my {1}, {0}'\n", of="it").object_prompts == (
        "my {class}, {token}",
    )
    long = tmp_path / "b" / "mug"
    long.mkdir(parents=True)
    noise(0, size=(400, 16)).save(long / "a.png")
    with pytest.raises(DataError, match="too long for a square"):
        read(tmp_path / "b", tmp_path, classes={"mug": "cup"}, image_px=16)


def test_both_lists_have_twenty_five_prompts_of_their_own():
    assert len(set(OBJECT_PROMPTS)) == len(set(LIVE_PROMPTS)) == 25
    assert all(t.count("{token} {class}") == 1 for t in OBJECT_PROMPTS + LIVE_PROMPTS)


def test_words_with_token_and_without():
    assert worded("a {token} {class} here", token="qwe", kind="apple") == "a qwe apple here"
    assert worded("a {token} {class} here", token=None, kind="apple") == "an apple here"
    assert worded("A {token} {class} on a box", token=None, kind="cat") == "A cat on a box"
    assert worded("an apple and a {token} {class}", token=None, kind="cup") == "an apple and a cup"


def test_ids_of_images_and_of_the_curves_are_the_same(tmp_path):
    root = dataset(tmp_path / "dataset")
    (subject,) = read(root, tmp_path, subjects=("dog",), prompts=OBJECT_PROMPTS)
    data = SubjectData(folder=str(root))
    prompts = image_prompts(subject, data, images=3)
    few = image_prompts(subject, data, images=3, curve=4)
    assert len(prompts) == 75 and len({p.id for p in prompts}) == 75 and len(few) == 4
    assert all(p in prompts and p.id.endswith("-0") for p in few)
    assert prompts[3].text == "a qwe dog standing in deep snow" and prompts[3].id == "01-0"
    assert len(image_prompts(subject, data, images=1, curve=99)) == 25


def test_class_images_are_shared_resumed_and_left_out_without_a_weight(tmp_path):
    root = dataset(tmp_path / "dataset", names=("backpack", "backpack_dog"))
    classes = {"backpack": "old bag", "backpack_dog": "old bag"}
    config = SubjectSettings(
        data=SubjectData(folder=str(root), classes=classes),
        prior=Prior(images=3, steps=2, guidance=1.0),
    )
    folder = Workspace(tmp_path / "run")
    subjects = read_subjects(config.data, folder, base_px=16)
    model = tiny.load("sd1")

    def generated(settings=config, model=model, seed=0):
        return class_pairs(subjects, settings, folder, base=tiny.base("sd1"), seed=seed,
                           batch_size=2, model=lambda: model)  # fmt: skip

    class_images = generated()
    backpacks = class_images["backpack"]
    assert backpacks == class_images["backpack_dog"] and len(backpacks) == 3
    assert {pair.prompt.text for pair in backpacks} == {"a photo of old bag"}
    assert len({pair.seed for pair in backpacks}) == 3
    before = [pair.image.read_bytes() for pair in backpacks]
    assert len(set(before)) == 3
    backpacks[1].image.unlink()
    assert [pair.image.read_bytes() for pair in generated()["backpack"]] == before
    assert generated(model=None) == class_images  # finished: no model is needed
    # A class may be called like the parent folder.
    odd = [subjects[0].model_copy(update={"kind": ".."})]
    (only,) = class_pairs(
        odd, config.model_copy(update={"prior": Prior(images=1, steps=1, guidance=1.0)}), folder,
        base=tiny.base("sd1"), seed=0, batch_size=1, model=lambda: model,
    ).values()  # fmt: skip
    assert only[0].image.parent.parent == folder.root / "2-images" / "_class" / "%2E%2E"
    assert generated(model=None) == class_images  # all else is where it was
    none = config.model_copy(update={"prior": Prior(weight=0)})
    assert generated(none) == {}
    pairs = instance_pairs(subjects[0], config.data)
    assert [p.image for p in pairs] == list(subjects[0].images)
    assert pairs[0].prompt.text == "a photo of qwe old bag"


def test_every_image_that_pillow_reads_is_used_and_others_are_named(tmp_path, capsys):
    folder = tmp_path / "in" / "mug"
    folder.mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.JPG", "c.jfif", "d.avif", "e.tiff", "f.bmp", "g.webp"]):
        noise(n).save(folder / name)
    for name in ("h.heic", "notes.txt", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    (subject,) = read(tmp_path / "in", tmp_path, classes={"mug": "cup"})
    assert len(subject.images) == 7
    manifest = json.loads((subject.images[0].parents[1] / "manifest.json").read_text())
    assert manifest["summary"]["left_out"] == {
        ".DS_Store": "hidden",
        "h.heic": "Pillow reads no .heic without the package pillow-heif",
        "notes.txt": "a text",
    }
    assert "subject mug: 7 used, 3 left out: h.heic" in capsys.readouterr().err


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("#204060", (32, 64, 96))])
def test_hidden_colours_are_not_trained_on(tmp_path, background, value):
    (tmp_path / "in" / "mug").mkdir(parents=True)
    Image.new("RGBA", (32, 32), (255, 0, 255, 0)).save(tmp_path / "in" / "mug" / "a.png")
    settings = {"classes": {"mug": "cup"}, "background": background}
    (subject,) = read(tmp_path / "in", tmp_path, **settings)
    with Image.open(subject.images[0]) as image:
        assert (np.asarray(image) == value).all()
    with pytest.raises(ValidationError, match="rose of no garden"):
        SubjectData(background="rose of no garden")


def test_classes_may_begin_with_a_byte_order_mark(tmp_path):
    root = dataset(tmp_path / "dataset", text=None)
    (root / "prompts_and_classes.txt").write_text(TEXT, "utf-8-sig")
    assert [s.kind for s in read(root, tmp_path)] == ["backpack", "dog", "stuffed animal"]
