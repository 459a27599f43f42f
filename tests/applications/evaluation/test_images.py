"""`selma score images`: a folder of images and a judge that really looks at pixels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scores.colours import ColourJudge, benchmark_prompts, image, write_benchmark
from scores.test_choices_run import BENCHMARK as CHOICES_BENCHMARK
from scores.test_choices_run import Namer, nearest
from typer.testing import CliRunner

from selma.applications.evaluation.dsg import rules_of, score_dsg
from selma.applications.evaluation.images import judge_from, score_images
from selma.cli import app
from selma.config.scores import DetectorJudge, LocalJudge, ServedJudge
from selma.errors import ConfigError, DataError, ModelError
from selma.scores.networks import Loaders

BENCHMARK = benchmark_prompts(40)
REFUSE = rules_of("default", {"missing": "refuse"})


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    return str(write_benchmark(tmp_path / "benchmark.csv", BENCHMARK))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every second image shows both of its colours, the others the first alone."""
    place = tmp_path / "images"
    place.mkdir()
    for i, prompt in enumerate(BENCHMARK):
        colours = prompt.text.replace(",", "").split()[0:3:2]
        suffix = "png" if i % 3 else "jpg"
        generated = image(*colours[: 1 + i % 2])
        generated.paste((6 * i, 6 * i, 6 * i), (0, 0, 8, 8))  # no two are the same
        generated.save(
            place / f"{prompt.id}.{suffix}", **({"quality": 95} if suffix == "jpg" else {})
        )
    return place


def run(
    folder: Path, benchmark: str, judge: ColourJudge, *, matches: Any = None, **how: Any
) -> dict[str, Any]:
    settings = {"rules": REFUSE, "resamples": 200} | how
    load = Loaders(judge=lambda *_, **__: judge, matcher=lambda name: matches)
    return score_images(folder, benchmark=benchmark, load=load, **settings)


def test_scores_are_those_of_the_images(folder: Path, benchmark: str) -> None:
    found = run(folder, benchmark, ColourJudge("colours"), vqascore="Is there {text}?".replace(
        "{text}", "red, whatever {text} says: red"))  # fmt: skip
    assert (found["score"], found["prompts"], found["questions"]) == (75.0, 40, 80)
    assert found["categories"] == {"colour": 100.0, "second": 50.0}
    assert (found["judge"], found["judge_fingerprint"]) == ("colours", "colours-0.2")
    assert found["soft"]["n"] == 40 and 70 < found["soft"]["mean"] < 80
    assert found["soft"]["low"] < found["soft"]["mean"] < found["soft"]["high"]
    assert found["vqascore"]["n"] == 40 and set(found["vqascore_per_prompt"]) == {
        p.id for p in BENCHMARK
    }
    assert found["answers"]["p000"]["1"]["text"] == "yes"
    assert found["benchmark"] == "benchmark.csv"


def test_raw_answers_score_the_same_as_given_ones(
    folder: Path, benchmark: str, tmp_path: Path
) -> None:
    found = run(folder, benchmark, ColourJudge("colours"))
    path = tmp_path / "answers.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "question_id", "answer"])
        rows.writerows([p, q, s["text"]] for p, a in found["answers"].items() for q, s in a.items())
    given = score_dsg(Path(benchmark), path, rules=REFUSE, resamples=200)
    assert {key: given[key] for key in given if key in found} == {
        key: found[key] for key in given if key in found
    }


def test_nothing_is_asked_twice(folder: Path, benchmark: str) -> None:
    first = run(folder, benchmark, ColourJudge("colours"))
    idle = ColourJudge("colours")
    assert run(folder, benchmark, idle) == first and idle.seen == 0
    names = {path.name for path in folder.with_name("images-answers").glob("*.jsonl")}
    assert len(names) == 2 and "images.jsonl" in names, "one judge's answers"


def test_a_kept_probability_that_cannot_be_is_refused(folder: Path, benchmark: str) -> None:
    run(folder, benchmark, ColourJudge("colours"))
    answers = folder.with_name("images-answers")
    (kept,) = set(answers.glob("*.jsonl")) - {answers / "images.jsonl"}
    first, rest = kept.read_text("utf-8").split("\n", 1)
    kept.write_text(json.dumps(json.loads(first) | {"yes": 70.0}) + "\n" + rest, "utf-8")
    with pytest.raises(DataError, match=r"line 1 must have the shape .* at yes 70\.0 came"):
        run(folder, benchmark, ColourJudge("colours"))


def test_a_judge_of_impossible_probabilities_is_not_believed(folder: Path, benchmark: str) -> None:
    judge = ColourJudge("colours")
    answer = judge.answer
    judge.answer = lambda *asked: [[(t, 8.0) for t, _ in row] for row in answer(*asked)]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"colours.* between 0 and 1, but 8\.0 came"):
        run(folder, benchmark, judge)


@pytest.mark.parametrize("stopped_after", [0, 32])
def test_a_crash_costs_at_most_one_chunk(folder: Path, benchmark: str, stopped_after: int) -> None:
    stopped = ColourJudge("colours")
    stopped.stop_after = stopped_after
    with pytest.raises(KeyboardInterrupt):
        run(folder, benchmark, stopped)
    kept = folder.with_name("images-answers") / "colours-0.2.jsonl"
    if kept.exists():
        with kept.open("ab") as file:
            file.write(b'{"image": "tor')  # as a kill leaves it
    again = ColourJudge("colours")
    found = run(folder, benchmark, again)
    assert again.seen == 40 - stopped_after and found["score"] == 75.0


def test_missing_images_never_shrink_a_score_unnoticed(folder: Path, benchmark: str) -> None:
    for name in ("p001.png", "p002.png"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"2 of 40 are missing, p001\.png first"):
        run(folder, benchmark, ColourJudge("x"))
    left_out = run(folder, benchmark, ColourJudge("x"), rules=rules_of("default", {}))
    assert left_out["prompts"] == 38 and left_out["without_answers"] == ["p001", "p002"]
    zero = run(folder, benchmark, ColourJudge("x"), rules=rules_of("default", {"missing": "zero"}))
    assert zero["prompts"] == 40 and zero["score"] < left_out["score"]
    for file in folder.iterdir():
        file.unlink()
    for missing in ("zero", "left_out", "refuse"):
        with pytest.raises(
            DataError, match=r"40 of 40 are missing, p000\.png first.*Generate them\.$"
        ):
            run(
                folder, benchmark, ColourJudge("x"), rules=rules_of("default", {"missing": missing})
            )


def test_what_is_wrong_with_a_folder_is_named(folder: Path, benchmark: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "p001.jpg")
    with pytest.raises(DataError, match=r"several images of one prompt: p001\.jpg, p001\.png"):
        run(folder, benchmark, ColourJudge("x"))
    (folder / "p001.jpg").unlink()
    (folder / "p001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"p001\.png"):
        run(folder, benchmark, ColourJudge("x"))
    with pytest.raises(DataError, match="must be a folder of images"):
        run(tmp_path / "nowhere", benchmark, ColourJudge("x"))
    with pytest.raises(ConfigError, match="Only toybox has a dev split"):
        run(folder, benchmark, ColourJudge("x"), split="dev")
    with pytest.raises(ConfigError, match="dev or test"):
        run(folder, benchmark, ColourJudge("x"), split="train")


def test_a_judge_is_named_or_described(tmp_path: Path) -> None:
    assert judge_from("toybox-b") == "toybox-b"
    assert judge_from("owner/model") == LocalJudge(model="owner/model")
    path = tmp_path / "judge.yaml"
    path.write_text("{kind: openai, model: m, base_url: 'http://localhost:1/v1'}")
    assert judge_from(str(path)) == ServedJudge(model="m", base_url="http://localhost:1/v1")
    (tmp_path / "weights").mkdir()
    path.write_text("{kind: transformers, model: weights, beams: 5}")
    assert judge_from(str(path)) == LocalJudge(model=str(tmp_path / "weights"), beams=5)
    path.write_text("{kind: detector, model: weights}")
    assert judge_from(str(path)) == DetectorJudge(model=str(tmp_path / "weights"))
    for wrong, says in (
        ("{kind: transformers, model: m, beam: 5}", "beam"),
        ("{kind: other, model: m}", "must be toybox-a, toybox-b, .* or a mapping"),
        ("gpt", "toybox-a"),
        ("[", "judge.yaml must hold a judge's settings"),
        ("", "must hold a judge's settings, but: it is empty"),
        ("# nothing\n", "but: it is empty"),
        ("3", "settings, but: must be toybox-a"),
    ):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=says):
            judge_from(str(path))


def test_the_command_prints_and_writes(folder: Path, benchmark: str, tmp_path: Path) -> None:
    """With a real tiny model, from a YAML file."""
    import tiny_judges

    (tmp_path / "judge.yaml").write_text(
        json.dumps({"kind": "transformers", "model": str(tiny_judges.folder("blip")),
                    "max_new_tokens": 2, "device": "cpu"})
    )  # fmt: skip
    out = tmp_path / "out.json"
    arguments = ["score", "images", str(folder), "--benchmark", benchmark, "--judge",
                 str(tmp_path / "judge.yaml"), "--json", str(out), "--answers",
                 str(tmp_path / "kept"), "--vqascore", "vqascore"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    first = out.read_bytes()
    found = json.loads(first)
    assert (
        "Judge blip, of 40 images; fingerprint" in done.output
        and "Mean probability of yes" in done.output
    )
    assert "VQAScore" in done.output and found["unreadable"] > 0  # random weights say anything
    shutil.rmtree(tmp_path / "kept")
    assert CliRunner().invoke(app, arguments).exit_code == 0 and out.read_bytes() == first


def test_multiple_choice_is_asked_with_its_choices_and_kept(tmp_path: Path) -> None:
    """Images of red, green, blue twice, of which the last is wrong; the judge says "crimson",
    "Green." and "blue"."""
    rows = [
        {"id": p.id, "caption": p.text, "question": q.text, "choices": list(q.choices),
         "answer": q.answer, "element_type": q.category}
        for p in CHOICES_BENCHMARK for q in p.questions
    ]  # fmt: skip
    questions, folder = tmp_path / "tifa.json", tmp_path / "images"
    questions.write_text(json.dumps(rows))
    folder.mkdir()
    for number, prompt in enumerate(CHOICES_BENCHMARK):
        generated = image("red" if number == 5 else prompt.text.split()[1])
        generated.putpixel((0, 0), (number, 0, 0))
        generated.save(folder / f"{prompt.id}.png")
    judge = Namer("namer")
    found = run(folder, str(questions), judge, matcher="m", matches=nearest)
    assert (found["score"], found["categories"]) == (
        pytest.approx(100 * 5 / 6, abs=1e-3),
        {"color": pytest.approx(83.3333), "object": pytest.approx(83.3333)},
    )
    assert found["per_question"]["a_5"] == {"1": 0, "2": 0} and found["groups"].keys() == {"a"}
    assert found["answers"]["a_0"]["1"] == {"text": "crimson", "yes": None, "choice": "red"}
    assert (found["choices_prompt"], found["matcher"], judge.words) == ("selma", "m", "selma")
    seen = judge.seen
    without = run(folder, str(questions), judge)
    assert judge.seen == seen and without["unreadable"] == 3  # no one says what crimson is
    run(folder, str(questions), judge, choices_prompt="tifa")
    assert judge.seen == 2 * seen and judge.words == "tifa"
    with pytest.raises(ModelError, match="multiple-choice"):
        run(folder, str(questions), ColourJudge("colours"))


def test_sources_are_told_beside_groups(folder: Path, benchmark: str) -> None:
    found = run(folder, benchmark, ColourJudge("colours"))
    assert found["sources"] == {"all": found["score"]}


def test_released_rules_and_named_ones_agree_or_are_refused(
    folder: Path, benchmark: str, tmp_path: Path
) -> None:
    def released(**named: str) -> dict[str, Any]:
        rules = rules_of("default", named)
        return run(folder, benchmark, ColourJudge("x"), rules=rules, counting="released")

    with pytest.raises(ConfigError, match="zeroing must be one_level, or be left out"):
        released(zeroing="none")
    with pytest.raises(ConfigError, match="reading must be exact, or be left out"):
        released(reading="normalised")
    assert released(zeroing="one_level", reading="exact")["rules"]["zeroing"] == "one_level"
    assert released()["measure"] == "DSG, released"
    sound = run(folder, benchmark, ColourJudge("x"), rules=rules_of("default", {"zeroing": "none"}))
    assert sound["rules"]["zeroing"] == "none"
    asked = ["score", "images", str(folder), "--benchmark", benchmark, "--rules", "released"]
    for more in (["--preset", "upstream"], ["--zeroing", "none"]):
        told = CliRunner().invoke(app, [*asked, *more])
        assert told.exit_code == 1 and "left out" in str(told.exception)
    assert not list(tmp_path.glob("*-answers/x*")), "nothing was asked"
