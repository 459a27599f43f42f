"""Stage 2: every prompt gets its picture, once, whatever happens in between."""

import json
from pathlib import Path

import pytest
import tiny

from selma.config.images import ImagesConfig
from selma.errors import DataError
from selma.images.generating import adapted_recipe, generate_benchmark, generate_pairs
from selma.randomness import seed_for
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt, Question, repeated
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

CONFIG = ImagesConfig(steps=2, guidance=3.0, batch_size=2)


def prompts(skill="cats", count=3):
    texts = [f"{n} cats" for n in range(count)]
    return [Prompt(id=prompt_id(skill, text), skill=skill, text=text) for text in texts]


def generated(folder, some, *, config=CONFIG, model=lambda: tiny.load("sd1"), seed=0):
    return generate_pairs(
        {"cats": some}, config, Workspace(folder), base=tiny.base("sd1"), seed=seed, model=model
    )["cats"]


def never():
    raise AssertionError("the model was loaded, though everything is there")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "journal.jsonl"
    }


def test_a_skill_becomes_an_imagefolder(tmp_path):
    some = [*prompts(), Prompt(id="f" * 16, skill="cats", text="long " * 30)]
    pairs = generated(tmp_path, some)
    assert [pair.prompt for pair in pairs] == some
    assert pairs[0].seed == seed_for(0, "image", some[0].id, 0)
    assert pairs[3].tokens_cut > 0
    train = tmp_path / "2-images" / "cats" / "train"
    rows = [json.loads(line) for line in (train / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"{prompt.id}.png" for prompt in some]
    assert rows[0].keys() == {"file_name", "text", "skill", "prompt_id", "seed", "tokens_cut"}
    manifest = json.loads((train.parent / "manifest.json").read_text())
    assert manifest["summary"] == {"images": 4, "over_token_limit": 1}


def test_what_is_there_is_read_back_without_the_model(tmp_path):
    first = generated(tmp_path, prompts())
    assert generated(tmp_path, prompts(), model=never) == first
    other_batches = CONFIG.model_copy(update={"batch_size": 7})
    assert generated(tmp_path, prompts(), config=other_batches, model=never) == first


class Killed(Exception):
    pass


class DiesAfter:
    """The real model, whose drawing stops after some pictures."""

    def __init__(self, images):
        self.model, self.left = tiny.load("sd1"), images

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, *args, **kwargs):
        for image in self.model.generate(*args, **kwargs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield image


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_resumed_drawing_ends_with_the_same_bytes(tmp_path, after):
    config = CONFIG.model_copy(update={"per_prompt": 2})
    generated(tmp_path / "whole", prompts(), config=config)
    dying = DiesAfter(after)
    with pytest.raises(Killed):
        generated(tmp_path / "torn", prompts(), config=config, model=lambda: dying)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "torn").rglob("train/*.png")}
    assert len(kept) == after
    pairs = generated(tmp_path / "torn", prompts(), config=config)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none was drawn again
    assert [pair.image.stem for pair in pairs[:2]] == [prompts()[0].id, f"{prompts()[0].id}-1"]


def test_another_seed_supersedes_and_never_mixes(tmp_path):
    first = generated(tmp_path, prompts())[0].image.read_bytes()
    second = generated(tmp_path, prompts(), seed=1)[0].image.read_bytes()
    assert first != second
    assert len(list((tmp_path / "superseded").iterdir())) == 1


def test_prompts_whose_files_would_collide_are_refused(tmp_path):
    a = Prompt(id="cat", skill="cats", text="a cat")
    with pytest.raises(DataError, match="id of its own"):
        generated(tmp_path, [a, Prompt(id="CAT", skill="cats", text="the cat")])


def benchmark_prompts(count=3):
    question = Question(id="1", text="Is there a cat?", category="entity")
    return [
        BenchmarkPrompt(id=f"e.{n}", text=f"{n} cats", group="g", questions=(question,))
        for n in range(count)
    ]


def generate_the_benchmark(folder, some, name="base", model=lambda: tiny.load("sd1"), adapter=None):
    return generate_benchmark(
        some,
        name=name,
        adapters=[AppliedAdapter(path=adapter, key=str(adapter))] if adapter else [],
        steps=2,
        guidance=3.0,
        batch_size=4,
        folder=Workspace(folder),
        base=tiny.base("sd1"),
        seed=0,
        model=model,
    )


def test_a_benchmark_has_an_image_for_each_prompt(tmp_path):
    folder = generate_the_benchmark(tmp_path, benchmark_prompts())
    assert folder == tmp_path / "5-scores" / "images" / "base"
    assert sorted(path.name for path in folder.glob("*.png")) == ["e.0.png", "e.1.png", "e.2.png"]
    assert generate_the_benchmark(tmp_path, benchmark_prompts(), model=never) == folder
    again = generate_the_benchmark(tmp_path, benchmark_prompts(), name="twin")
    for image in folder.glob("*.png"):  # every model starts from the same noise
        assert (again / image.name).read_bytes() == image.read_bytes()


def test_images_of_weights_that_were_rounded_otherwise_are_made_again():
    """Adapters were added in the base's own half precision; images without one stay."""
    one, other = (AppliedAdapter(path=Path(name), key=name) for name in "ab")
    full, half = (tiny.base("sd1").model_copy(update={"precision": p}) for p in ("fp32", "bf16"))
    assert adapted_recipe([], full) == adapted_recipe([], half) == {"adapter": None}
    assert adapted_recipe([one], full) == {"adapter": "a"}
    assert adapted_recipe([one, other], full) == {"adapter": ["a", "b"]}
    assert adapted_recipe([one], half) == {"adapter": "a", "summed": "fp32"}


def test_several_images_of_a_prompt_come_from_several_seeds(tmp_path):
    once = generate_the_benchmark(tmp_path / "once", benchmark_prompts(2))
    twice = generate_the_benchmark(tmp_path / "twice", repeated(benchmark_prompts(2), 2))
    assert sorted(path.name for path in twice.glob("*.png")) == [
        "e.0-1.png", "e.0.png", "e.1-1.png", "e.1.png"
    ]  # fmt: skip
    for image in once.glob("*.png"):  # the first stays what it is without others
        assert (twice / image.name).read_bytes() == image.read_bytes()
        other = twice / f"{image.stem}-1.png"
        assert other.read_bytes() != image.read_bytes()
    with pytest.raises(DataError, match="another id"):  # what the second picture is called
        rival = benchmark_prompts(1)[0].model_copy(update={"id": "e.0-1"})
        generate_the_benchmark(
            tmp_path / "rival", repeated([*benchmark_prompts(1), rival], 2), model=never
        )


@pytest.mark.parametrize("name", ["../out", "a/b", "a\\b", "/etc/x", "c:x"])
def test_a_benchmarks_ids_stay_inside(tmp_path, name):
    hostile = benchmark_prompts(1)[0].model_copy(update={"id": name})
    with pytest.raises(DataError):
        generate_the_benchmark(tmp_path / "run", [hostile], model=never)
