"""What matters to an answer is never answered from memory; what does not is never asked again.

A small world (two images, two questions each, a real tiny VQA model) is asked once; then one
thing is changed at a time, and some of the questions must, or must not, go to the judge.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges
from PIL import Image, PngImagePlugin
from scripted import Script, says, serving

from selma.applications.evaluation.dsg import PRESETS, rules_of
from selma.applications.evaluation.images import score_images
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.loading import load_judge
from selma.config.scores import LocalJudge, ServedJudge
from selma.scores.benchmarks import COLUMNS
from selma.scores.networks import Loaders

ROWS = (
    ("cat_1", "a cat", "1", "0", "entity", "whole", "Is there a cat?"),
    ("cat_1", "a cat", "2", "1", "attribute", "color", "Is the cat red?"),
    ("dog_2", "two dogs", "1", "0", "entity", "whole", "Is there a dog?"),
    ("dog_2", "two dogs", "2", "1", "other", "count", "Are there two dog?"),
)


class Counting:
    """A real judge; counts the questions that it is asked."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.name, self.fingerprint = judge, judge.name, judge.fingerprint
        self.asked = 0

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        self.asked += sum(map(len, questions))
        return self.judge.answer(images, questions)


@dataclass
class World:
    root: Path
    judge: dict[str, Any]
    rows: list[list[str]] = field(default_factory=lambda: [list(row) for row in ROWS])
    columns: tuple[str, ...] = COLUMNS
    benchmark: str = "benchmark.csv"
    images: str = "images"
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return Path(self.judge["model"])

    def image(self, name: str) -> Path:
        return self.root / self.images / name

    def ask(self, answers: str = "answers") -> tuple[int, dict[str, Any]]:
        """How many questions went to the judge, and every raw answer."""
        with (self.root / self.benchmark).open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.rows])
        served = "base_url" in self.judge
        settings = (ServedJudge if served else LocalJudge).model_validate(self.judge)
        judge = Counting(load_judge(settings))
        found = score_images(
            self.root / self.images,
            **{"benchmark": str(self.root / self.benchmark), "rules": PRESETS["default"],
               "resamples": 50, "answers": self.root / answers, **self.how},
            load=Loaders(judge=lambda *_, **__: judge),
        )  # fmt: skip
        return judge.asked, {key: found.get(key) for key in ("answers", "vqascore_per_prompt")}


Change = Callable[[World], Any]


def setting(**changed: Any) -> Change:
    return lambda world: world.judge.update(changed)


def how(**changed: Any) -> Change:
    return lambda world: world.how.update(changed)


def rules(preset: str = "default", **changed: str) -> Change:
    return how(rules=rules_of(preset, changed))


def cell(row: int, column: str, value: str) -> Change:
    return lambda world: world.rows[row].__setitem__(COLUMNS.index(column), value)


def everywhere(column: str, change: Callable[[str], str]) -> Change:
    def apply(world: World) -> None:
        for row in world.rows:
            row[COLUMNS.index(column)] = change(row[COLUMNS.index(column)])

    return apply


def regenerate(name: str, change: Callable[[Image.Image], Image.Image], **how: Any) -> Change:
    def apply(world: World) -> None:
        with Image.open(world.image(name)) as shown:
            changed = change(shown.copy())
        changed.save(world.image(name), **how)

    return apply


def dot(image: Image.Image) -> Image.Image:
    image.putpixel((3, 3), (1, 2, 3))
    return image


def in_json(file: str, **changed: Any) -> Change:
    def apply(world: World) -> None:
        path = world.weights / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return apply


def rebuild(shape: str, seed: int) -> Change:
    def apply(world: World) -> None:
        shutil.rmtree(world.weights)
        tiny_judges.build(shape, world.weights, seed=seed)

    return apply


def flip_a_byte(world: World) -> None:
    path = world.weights / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(data)


def move_weights(world: World) -> None:
    target = world.root / "elsewhere" / "another"
    shutil.copytree(world.weights, target)
    shutil.rmtree(world.weights)
    world.judge["model"] = str(target)


def rename_images(world: World) -> None:
    for old, new in (("cat_1", "whoops_7"), ("dog_2", "whoops_8")):
        world.image(f"{old}.png").rename(world.image(f"{new}.png"))
        everywhere("item_id", lambda id, old=old, new=new: new if id == old else id)(world)


def swap_images(world: World) -> None:
    cat, dog, aside = (world.image(name) for name in ("cat_1.png", "dog_2.png", "x"))
    cat.rename(aside)
    dog.rename(cat)
    aside.rename(dog)


def add_prompt(world: World) -> None:
    numbers = np.random.default_rng(9)
    Image.fromarray(numbers.integers(0, 256, (32, 32, 3), np.uint8)).save(world.image("new.png"))
    world.rows.append(["new", "a tree", "1", "0", "entity", "whole", "Is there a tree?"])


def add_columns(world: World) -> None:
    world.columns = (*COLUMNS, "keywords")
    for row in world.rows:
        row.append("words")


def rename_folder(world: World) -> None:
    world.image("").rename(world.root / "renamed")
    world.images = "renamed"


def touch(world: World) -> None:
    for path in [*world.image("").iterdir(), *world.weights.iterdir()]:
        os.utime(path, (1, 1))


def written(world: World) -> None:
    (world.weights / "README.md").write_text("words")
    (world.weights / "pytorch_model.bin").write_bytes(b"not read")


def noted(world: World) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("seed", "7")
    regenerate("cat_1.png", lambda image: image, pnginfo=note)(world)


MATTERS: dict[str, tuple[int, Change]] = {
    # the judge's weights and what reads for them
    "one byte of the weights": (4, flip_a_byte),
    "weights of another seed": (4, rebuild("blip", 1)),
    "another architecture": (4, rebuild("blip2-t5", 0)),
    "the model's config": (4, in_json("config.json", note="x")),
    "the tokenizer": (4, in_json("tokenizer_config.json", model_max_length=7)),
    "the preprocessing": (4, in_json("processor_config.json", note="x")),
    # wording
    "a named wording": (4, setting(prompt="yes_or_no")),
    "another named wording": (4, setting(prompt="short_answer")),
    "an own wording": (4, setting(prompt="Please: {question}")),
    "a blank in the wording": (4, setting(prompt=" {question}")),
    # decoding
    "beams": (4, setting(beams=2)),
    "more beams": (4, setting(beams=3)),
    "length penalty of beams": (4, setting(beams=2, length_penalty=2.0)),
    "length of answers": (4, setting(max_new_tokens=2)),
    "repetition penalty": (4, setting(repetition_penalty=1.3)),
    "precision": (4, setting(precision="bf16")),
    # questions
    "a question's word": (1, cell(1, "question_natural_language", "Is the cat blue?")),
    "a question's mark": (1, cell(0, "question_natural_language", "Is there a cat")),
    "a question's case": (1, cell(0, "question_natural_language", "is there a cat?")),
    "two questions": (
        2,
        everywhere("question_natural_language", lambda q: q.replace("there a", "it")),
    ),
    "every question": (4, everywhere("question_natural_language", lambda q: f"{q} Yes or no?")),
    "one more question": (1, lambda w: w.rows.append([*ROWS[2][:2], "3", "0", "e", "w", "Is it?"])),
    "one more prompt": (1, add_prompt),
    # images
    "a pixel": (2, regenerate("cat_1.png", dot)),
    "a size": (2, regenerate("cat_1.png", lambda image: image.resize((30, 30)))),
    "a mirror": (2, regenerate("dog_2.png", lambda image: image.transpose(Image.Transpose(0)))),
    "a lossy copy": (2, lambda w: (
        Image.open(w.image("cat_1.png")).save(w.image("cat_1.jpg"), quality=50),
        w.image("cat_1.png").unlink())),
    "images swapped": (4, swap_images),
    "both images": (4, lambda w: [regenerate(n, dot)(w) for n in ("cat_1.png", "dog_2.png")]),
    # further questions
    "the whole prompt": (2, how(vqascore="plain")),
    "the whole prompt, worded": (2, how(vqascore="Is it {text}?")),
}  # fmt: skip

DOES_NOT: dict[str, Change] = {
    "nothing": lambda world: None,
    # how the judge is run
    "batch size 1": setting(batch_size=1),
    "batch size 7": setting(batch_size=7),
    "device by name": setting(device="cpu"),
    "length penalty without beams": setting(length_penalty=3.0),
    "the default wording by name": setting(prompt="bare"),
    "the default wording in full": setting(prompt="{question}"),
    "a folder's revision": setting(revision="main"),
    "where the weights lie": move_weights,
    "a path with a dot": lambda w: w.judge.update(model=f"{w.weights.parent}/./{w.weights.name}/"),
    "files that are not read": written,
    "dates of all files": touch,
    # scoring
    "no zeroing": rules(zeroing="none"),
    "zeroing of one level": rules(zeroing="one_level"),
    "average over questions": rules(average="question"),
    "reading": rules(reading="exact"),
    "preset upstream": rules("upstream"),
    "preset selma-release": rules("selma-release"),
    "missing images": rules(missing="refuse"),
    "bootstrap seed": how(seed=5),
    "bootstrap resamples": how(resamples=60),
    # the benchmark around the questions
    "order of rows": lambda world: world.rows.reverse(),
    "order of prompts": lambda world: world.rows.append(world.rows.pop(0)),
    "a category": cell(0, "category_broad", "global"),
    "a finer category": cell(0, "category_detailed", "part"),
    "a dependency": cell(1, "dependency", "0"),
    "a broken dependency": cell(1, "dependency", "1, right"),
    "ids of questions": everywhere("proposition_id", lambda id: f"9{id}"),
    "the prompt's text": everywhere("text", lambda text: f"{text}, drawn"),
    "one question less": lambda world: world.rows.pop(1),
    "one prompt less": lambda world: world.rows.__delitem__(slice(2)),
    "the benchmark's name": lambda world: setattr(world, "benchmark", "other.csv"),
    "more columns": add_columns,
    "ids of prompts, with their files": rename_images,
    "a question that stands there twice": lambda w: w.rows.append([*ROWS[2][:2], "3", "0", "e", "w",
                                                            "Is there a dog?"]),
    # the images' files
    "the folder's name": rename_folder,
    "compression": regenerate("cat_1.png", lambda image: image, compress_level=0),
    "metadata": noted,
    "a foreign file": lambda world: world.image("notes.txt").write_text("x"),
    "an image of no prompt": lambda world: dot(Image.new("RGB", (9, 9))).save(
        world.image("other.png")),
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world after its questions were asked."""
    root = tmp_path_factory.mktemp("world")
    tiny_judges.build("blip", root / "judge")
    (root / "images").mkdir()
    numbers = np.random.default_rng(3)
    for name in ("cat_1", "dog_2"):
        generated = Image.fromarray(numbers.integers(0, 256, (32, 32, 3), np.uint8))
        generated.save(root / "images" / f"{name}.png")
    count, _ = world_in(root).ask()
    assert count == 4
    return root


def world_in(root: Path) -> World:
    return World(root, {"model": str(root / "judge"), "max_new_tokens": 3, "device": "auto"})


@pytest.fixture
def world(asked: Path, tmp_path: Path) -> World:
    shutil.copytree(asked, tmp_path / "world")
    return world_in(tmp_path / "world")


def test_there_are_enough_of_them() -> None:
    assert len(MATTERS) + len(DOES_NOT) >= 50


@pytest.mark.parametrize("what", MATTERS)
def test_what_matters_is_asked_again(world: World, what: str) -> None:
    expected, change = MATTERS[what]
    change(world)
    count, said = world.ask()
    assert count == expected
    assert said == world.ask(answers="none yet")[1]  # as if nothing had been known


@pytest.mark.parametrize("what", DOES_NOT)
def test_what_does_not_matter_is_not_asked_again(world: World, what: str) -> None:
    DOES_NOT[what](world)
    assert world.ask()[0] == 0


SERVED_MATTERS: dict[str, dict[str, Any]] = {
    "model": {"model": "n"},
    "server": {"base_url": "http://127.0.0.1:{port}/other/v1"},
    "wording": {"prompt": "bare"},
    "temperature": {"temperature": 0.2},
    "length": {"max_new_tokens": 4},
    "probabilities": {"logprobs": False},
}
SERVED_DOES_NOT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a user in the address": {"base_url": "http://user:pass@127.0.0.1:{port}/v1"},
    "whose key": {"key_variable": "OTHER_KEY"},
    "patience": {"timeout_s": 9.0, "max_attempts": 2},
    "limits": {"max_seconds": 900.0, "max_cost": 5.0},
    "prices": {"price_per_million_input": 0.1, "price_per_million_output": 0.2},
    "how many at once": {"parallel": 1},
    "the default wording by name": {"prompt": "yes_or_no"},
}


def test_a_served_judge_is_asked_again_only_where_it_matters(asked: Path, tmp_path: Path) -> None:
    with serving(Script(says("yes"))) as script:
        port = script.url.split(":")[2].split("/")[0]
        base = {"model": "m", "base_url": script.url, "key_variable": "SELMA_TEST_KEY"}
        shutil.copytree(asked, tmp_path / "world")
        assert World(tmp_path / "world", dict(base)).ask()[0] == 4
        for expected, changes in ((4, SERVED_MATTERS), (0, SERVED_DOES_NOT)):
            for what, changed in changes.items():
                filled = {key: value.format(port=port) if key == "base_url" else value
                          for key, value in changed.items()}  # fmt: skip
                before = len(script.asked)
                assert World(tmp_path / "world", base | filled).ask()[0] == expected, what
                assert len(script.asked) - before == expected, what
