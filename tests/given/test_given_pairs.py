"""Given prompts and images: read from files and folders, and checked as written ones are."""

import json

import pytest
import tiny
from images.test_generating import files, never
from PIL import Image

from selma.config.given import Imagefolder, PromptFile, ToyboxPairs
from selma.config.images import ImagesConfig
from selma.config.prompts import Novelty, PromptsConfig
from selma.errors import DataError
from selma.given import GIVEN
from selma.image_files import open_image
from selma.images.given import take_pairs
from selma.prompts.writing import counts, write_prompts
from selma.records.prompts import Prompt, prompt_id
from selma.toybox.benchmark import benchmark_prompts, benchmark_texts, keyword_texts
from selma.toybox.parsing import parse_caption
from selma.workspace import Workspace, manifest

SKILLS = ("cats", "dogs")


def texts(source, skills=SKILLS, seed=0):
    row = GIVEN[source.kind]
    return {
        skill: list(found.texts) for skill, found in row.texts(source, skills, seed=seed).items()
    }


def image(path, colour="red", size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def layouts(tmp_path):
    """The same four captions in every layout that a file may have."""
    rows = [
        {"caption": "a cat", "which": "cats"},
        {"caption": "a dog", "which": "dogs"},
        {"caption": "a bird", "which": "birds"},
        {"caption": "two cats", "which": "cats"},
    ]
    lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "list.json").write_text(json.dumps(rows))
    table = "which,caption\n" + "".join(f"{row['which']},{row['caption']}\n" for row in rows)
    (tmp_path / "table.csv").write_text(table)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "cats.txt").write_text("a cat\n\n  two cats\n")
    lines(tmp_path / "folder" / "dogs.jsonl", [rows[1]])
    return tmp_path


@pytest.mark.parametrize("name", ["rows.jsonl", "list.json", "table.csv", "folder"])
def test_prompts_of_a_file_go_to_their_skills(layouts, name):
    source = PromptFile(path=str(layouts / name), text="caption", skill="which")
    assert texts(source) == {"cats": ["a cat", "two cats"], "dogs": ["a dog"]}


def test_a_file_without_skills_is_of_the_only_one(layouts):
    source = PromptFile(path=str(layouts / "folder" / "cats.txt"))
    assert texts(source, ["any"]) == {"any": ["a cat", "two cats"]}
    with pytest.raises(DataError, match="which of cats, dogs"):
        texts(source)


@pytest.mark.parametrize(
    "name, content, error",
    [
        ("a.txt", "\n\n", "but has nothing"),
        ("a.jsonl", '{"text": 7}\n', "row 1 needs a prompt"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y", "skill": "cats"}\n', "each row needs a skill"),
        ("a.csv", "caption\nx\n", "must have the columns text"),
        ("a.parquet", "x", "must end with"),
    ],
)
def test_what_is_no_file_of_prompts_is_refused(tmp_path, name, content, error):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=error):
        texts(PromptFile(path=str(tmp_path / name)), ["cats"])


def prompts_config(source, **settings):
    return PromptsConfig(skills=settings.pop("skills", SKILLS), source=source, **settings)


def test_given_prompts_pass_the_same_checks(tmp_path):
    (tmp_path / "cats.txt").write_text(
        "a red cat on the grass\na red cat on the grass\na red cat on the green grass\n"
        "what the benchmark asks\nsomething else\none more\n"
    )
    source = PromptFile(path=str(tmp_path / "cats.txt"))
    config = prompts_config(source, skills=["cats"], per_skill=2, novelty=Novelty(threshold=0.8))
    asked = {"seed": 0, "benchmark_texts": ["what the benchmark asks"]}
    folder = Workspace(tmp_path / "run")
    kept = write_prompts(config, folder, **asked)["cats"]
    assert [prompt.text for prompt in kept] == ["a red cat on the grass", "something else"]
    assert kept[0].id == prompt_id("cats", "a red cat on the grass")
    dropped = {"cats": {"contaminated": 1, "repeated": 1, "similar": 1}}
    assert counts("dropped", config, folder, **asked) == dropped
    first = files(tmp_path / "run")
    assert write_prompts(config, folder, **asked)["cats"] == kept
    assert files(tmp_path / "run") == first
    off = config.model_copy(update={"contamination_threshold": None, "per_skill": 9})
    assert len(write_prompts(off, folder, **asked)["cats"]) == 4


def test_another_text_makes_other_prompts(tmp_path):
    path = tmp_path / "cats.txt"
    source = prompts_config(PromptFile(path=str(path)), skills=["cats"])
    folder, asked = Workspace(tmp_path / "run"), {"seed": 0, "benchmark_texts": []}
    for text in ("a cat", "two dogs"):
        path.write_text(text)
        assert write_prompts(source, folder, **asked)["cats"][0].text == text
    assert len(list((tmp_path / "run/1-prompts").rglob("manifest.json"))) == 1


def paired(root, layout):
    """Captions with images, "a cat" twice, in this layout."""
    colours = {"a cat": "red", "two cats": "blue", "a dog": "green"}
    of = {"a cat": "cats", "two cats": "cats", "a dog": "dogs"}
    rows = []
    for number, (text, colour) in enumerate([*colours.items(), ("a cat", "white")]):
        skill = of[text]
        name = f"{number}.jpg" if colour == "blue" else f"{number}.png"
        if layout == "column":
            image(root / name, colour)
        elif layout == "kohya":
            folder = root / (f"10_{skill}" if skill == "cats" else skill)
            image(folder / name, colour)
            end = ".caption" if skill == "dogs" else ".txt"
            (folder / name).with_suffix(end).write_text(f"{text}\n")
        else:
            image(root / skill / "train" / name, colour)
        rows.append({"file_name": name, "text": text, "skill": skill})
    if layout == "column":
        lines(root / "metadata.jsonl", rows)
    if layout == "folders":
        for skill in SKILLS:
            own = [row for row in rows if row["skill"] == skill]
            lines(root / skill / "train" / "metadata.jsonl", own)
    return Imagefolder(folder=str(root))


@pytest.mark.parametrize("layout", ["column", "folders", "kohya"])
def test_pairs_are_read_from_every_layout(tmp_path, layout):
    source = paired(tmp_path / "pairs", layout)
    assert texts(source) == {"cats": ["a cat", "two cats"], "dogs": ["a dog"]}
    prompts = [Prompt(id=prompt_id("cats", t), skill="cats", text=t) for t in ("a cat", "two cats")]
    how = {"skills": SKILLS, "per_prompt": 2, "seed": 0}
    images = GIVEN["imagefolder"].images(source, prompts, **how)
    assert [len(images[prompt.id]) for prompt in prompts] == [2, 1]
    assert str(tmp_path) not in json.dumps([i.key for of in images.values() for i in of])


def test_nothing_is_read_outside_the_folder(tmp_path):
    image(tmp_path / "secret.png")
    root = tmp_path / "pairs"
    root.mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        lines(root / "metadata.jsonl", [{"file_name": name, "text": "a cat"}])
        with pytest.raises(DataError, match="inside"):
            texts(Imagefolder(folder=str(root)), ["cats"])
    (root / "metadata.jsonl").unlink()
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "link.txt").write_text("a cat")
    with pytest.raises(DataError, match="inside"):
        texts(Imagefolder(folder=str(root)), ["cats"])
    (root / "link.png").unlink()
    (root / "cats").symlink_to(tmp_path)
    with pytest.raises(DataError, match="inside"):
        texts(Imagefolder(folder=str(root)), ["cats"])


def test_an_image_without_its_caption_is_refused(tmp_path):
    image(tmp_path / "cats" / "1.png")
    with pytest.raises(DataError, match=r"1\.txt or 1\.caption beside it"):
        texts(Imagefolder(folder=str(tmp_path)), ["cats"])


def taken(folder, source, of, *, model=lambda: tiny.load("sd1"), per_prompt=1):
    config = ImagesConfig(source=source, per_prompt=per_prompt)
    prompts = {
        skill: [Prompt(id=prompt_id(skill, text), skill=skill, text=text) for text in found]
        for skill, found in of.items()
    }
    base = tiny.base("sd1")
    return take_pairs(prompts, config, Workspace(folder), base=base, seed=0, model=model)


def test_given_images_become_an_imagefolder_byte_for_byte(tmp_path):
    source = paired(tmp_path / "pairs", "kohya")
    of = {"cats": ["two cats", "a cat", "no cat"], "dogs": ["a dog"]}
    pairs = taken(tmp_path / "run", source, of)
    assert [pair.prompt.text for pair in pairs["cats"]] == ["two cats", "a cat"]
    originals = [tmp_path / "pairs/10_cats" / name for name in ("1.jpg", "0.png")]
    copies = [pair.image for pair in pairs["cats"]]
    assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in originals]
    assert [copy.suffix for copy in copies] == [".jpg", ".png"]
    told = manifest(tmp_path / "run/2-images/cats")["summary"]
    assert told == {"images": 2, "over_token_limit": 0, "without_image": 1}
    assert pairs["cats"][0].seed is None
    assert taken(tmp_path / "run", source, of, model=never) == pairs


def test_images_that_nobody_asked_for_and_broken_ones(tmp_path):
    source = paired(tmp_path / "pairs", "column")
    with pytest.raises(DataError, match="has none of 'no cat'"):
        taken(tmp_path / "run", source, {"cats": ["no cat"], "dogs": ["a dog"]})
    whole = (tmp_path / "pairs/0.png").read_bytes()
    (tmp_path / "pairs/0.png").write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"0\.png: The image cannot be decoded"):
        taken(tmp_path / "run", source, {"cats": ["a cat"], "dogs": ["a dog"]})


def test_toyboxs_own_captions_are_none_of_its_benchmark():
    skills = [f"toybox_{style}" for style in ("coco", "count", "tags", "narratives", "whoops")]
    found = GIVEN["toybox"].texts(ToyboxPairs(), skills, seed=0)
    for of_skill in found.values():
        captions = [text for text, _ in zip(of_skill.texts, range(50), strict=False)]
        assert len(set(captions)) == 50
        assert not {text.lower() for text in captions} & (benchmark_texts() | keyword_texts())
        for text in captions:
            parse_caption(text)
    with pytest.raises(DataError, match="but the skill 'cats' came"):
        GIVEN["toybox"].texts(ToyboxPairs(), ["cats"], seed=0)


def test_toybox_renders_what_a_caption_says(tmp_path):
    of = {"toybox_coco": ["two red cats on the grass", "no caption of toybox"]}
    pairs = taken(tmp_path / "run", ToyboxPairs(), of, per_prompt=2)["toybox_coco"]
    assert [pair.prompt.text for pair in pairs] == ["two red cats on the grass"] * 2
    first, second = (open_image(pair.image) for pair in pairs)
    assert first.size == (64, 64)
    assert first.tobytes() != second.tobytes()
    again = taken(tmp_path / "other", ToyboxPairs(), of, per_prompt=2)["toybox_coco"]
    assert [p.image.read_bytes() for p in again] == [p.image.read_bytes() for p in pairs]


def test_toyboxs_prompts_are_kept_off_the_benchmark_by_rouge_too(tmp_path):
    benchmark = [prompt.text for prompt in benchmark_prompts("test")]
    config = prompts_config(
        ToyboxPairs(), skills=["toybox_coco"], per_skill=20, contamination_threshold=0.93
    )
    folder = Workspace(tmp_path)
    prompts = write_prompts(config, folder, seed=0, benchmark_texts=benchmark)["toybox_coco"]
    assert len(prompts) == 20
