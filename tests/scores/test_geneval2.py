"""GenEval 2: its lines, and Soft-TIFA by both counts, by hand and by a model's logits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_judges
import torch
from PIL import Image
from scripted import Act, Script, completion, send, serving

from selma.applications.evaluation.dsg import DsgRules
from selma.applications.evaluation.images import score_images
from selma.backbones.judges.judge import FirstToken, Spelled
from selma.backbones.judges.served import ServedVqaJudge
from selma.backbones.judges.vqa import VqaJudge
from selma.config.scores import LocalJudge, ServedJudge
from selma.errors import DataError, ModelError
from selma.records.benchmarks import Answer
from selma.scores.benchmarks import layout_of, read_benchmark
from selma.scores.benchmarks.geneval2 import GENEVAL2, YES
from selma.scores.faithfulness import verdicts_by_prompt
from selma.scores.networks import Loaders

LINES: list[dict[str, Any]] = [
    {
        "prompt": "four green jars",
        "atom_count": 3,
        "vqa_list": [
            ["How many jars are in the image?", "four"],
            ["Are the jars green?", "Yes"],
            ["Are there any jars in the image?", "Yes"],
        ],
        "skills": ["count", "attribute", "object"],
    },
    {
        "prompt": "a jar on a sled",
        "atom_count": 4,
        "vqa_list": [["Is the jar on the sled?", "Yes"], ["Are there any jars?", "Yes"]],
        "skills": ["position", "object"],
    },
]


def write(folder: Path, lines: Sequence[Any] = LINES) -> Path:
    path = folder / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_lines_become_prompts_with_spellings(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert layout_of(path) is GENEVAL2 and layout_of(tmp_path) is GENEVAL2
    first, second = read_benchmark(path)
    assert [first.id, second.id] == ["000", "001"]
    assert [first.group, second.group] == ["3 atoms", "4 atoms"]
    count = first.questions[0]
    assert count.text == "How many jars are in the image? Answer in one word."
    assert (count.category, count.answer) == ("count", "four")
    assert count.spellings == ("four", "Four", " four", " Four", "4", " 4")
    assert {question.spellings for question in second.questions} == {YES}


def test_a_brace_in_a_prompt_hides_no_layout(tmp_path: Path) -> None:
    row = LINES[0] | {"prompt": 'a "}" on a wall', "about": {"a": {}}}
    last = {"vqa_list": row.pop("vqa_list")}
    assert layout_of(write(tmp_path, [row | last])) is GENEVAL2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skills": ["count"]}, "prompt 0: each question must have a skill"),
        ({"vqa_list": [["How many?", "many"]], "skills": ["count"]}, "number from one to ten"),
        ({"vqa_list": [["Is it?", "No"]], "skills": ["object"]}, "must expect Yes"),
        ({"vqa_list": [["Is it?"]], "skills": ["object"]}, "prompt 0: vqa_list"),
        ({"prompt": " "}, "prompt 0: prompt must be a text, but is ' '"),
        ({"prompt": "\u200b"}, "prompt 0: prompt must be a text"),
        ({"vqa_list": [["", "Yes"]], "skills": ["object"]}, "prompt 0: question must be a text"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_benchmark(write(tmp_path, [LINES[0] | change]))


FIRST = {
    # "four" and "Four" are tokens; " 4" begins with a blank, as 5 and 6 do.
    ("000", "1"): [("four", 0.3), ("Four", 0.1), ("four", 0.3), ("Four", 0.1), ("4", 0.2),
                     ("", 0.25)],
    ("000", "2"): [("Yes", 0.5), ("yes", 0.25), ("yes", 0.25), ("Yes", 0.5)],
    ("000", "3"): [("Yes", 0.8), ("yes", 0.1), ("yes", 0.1), ("Yes", 0.8)],
    ("001", "1"): [("Yes", 0.0), ("yes", 0.0), ("yes", 0.0), ("Yes", 0.0)],
    ("001", "2"): [("Yes", 0.9), ("yes", 0.0), ("yes", 0.0), ("Yes", 0.9)],
}  # fmt: skip


def test_each_token_counts_once_and_twice_by_name(tmp_path: Path) -> None:
    prompts = read_benchmark(write(tmp_path))
    given = [
        Answer(prompt_id=p, question_id=q, text="four" if q == "1" else "Yes", first=tuple(first))
        for (p, q), first in FIRST.items()
    ]
    verdicts = verdicts_by_prompt(prompts, given, zeroing="none")
    assert verdicts == {"000": dict.fromkeys("123", "yes"), "001": {"1": "no", "2": "yes"}}
    sound, released = GENEVAL2.rules("sound"), GENEVAL2.rules("released")
    once = {"000": [0.6, 0.75, 0.9], "001": [0.0, 0.9]}
    twice = {"000": [1.25, 1.5, 1.8], "001": [0.0, 1.8]}
    for rules, each in ((sound, once), (released, twice)):
        means = {
            "GM": [math.prod(values) ** (1 / len(values)) for values in each.values()],
            "AM": [sum(values) / len(values) for values in each.values()],
        }
        for measure in (rules.measure, *rules.beside):
            points = measure.points(given, verdicts)
            for id, values in each.items():
                assert [*points[id].values()] == pytest.approx(values)
            expected = 100 * sum(means[measure.label[10:12]]) / 2
            assert measure.score(points, prompts) == pytest.approx(expected)


class Counter:
    """Knows how many green squares there are, and says so with certainty."""

    name = fingerprint = "counter"

    def answer(self, images: Any, questions: Any) -> Any:
        raise AssertionError("a benchmark of spellings asks for them")

    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        told = []
        for image, asked in zip(images, questions, strict=True):
            tone = image.convert("RGB").getpixel((0, 0))[1] / 255
            told.append([("yes", [(s.strip().lower(), tone) for s in q.spellings]) for q in asked])
        return told


def test_a_folder_of_images_is_scored_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    for id, tone in (("000", 255), ("001", 51)):
        Image.new("RGB", (8, 8), (0, tone, 0)).save(folder / f"{id}.png")
    judges: list[Any] = [Counter()]
    how: dict[str, Any] = {"rules": DsgRules(), "resamples": 100, "benchmark": str(path)}
    found = score_images(folder, load=Loaders(judge=lambda *_, **__: judges[0]), **how)
    # "four" and "4" are two tokens of this judge, both certain: no more than certain together.
    assert found["score"] == pytest.approx(100 * (1 + 0.2) / 2, abs=1e-3)
    assert found["beside"]["Soft-TIFA AM"]["score"] == pytest.approx(100 * (1 + 0.2) / 2, abs=1e-3)
    assert found["answers"]["001"]["1"]["first"] == [["yes", 0.2]] * 4
    assert found["groups"]["4 atoms"] == pytest.approx(20)
    judges[0] = type("Deaf", (Counter,), {"spell": lambda *_: pytest.fail("is kept")})()
    again = score_images(folder, load=Loaders(judge=lambda *_, **__: judges[0]), **how)
    assert again == found

    class Plain:
        name = fingerprint = "plain"

        def answer(self, images: Any, questions: Any) -> Any:
            return []

    judges[0] = Plain()
    with pytest.raises(ModelError, match="plain tells none"):
        score_images(folder, load=Loaders(judge=lambda *_, **__: judges[0]), **how)


@pytest.mark.parametrize("shape", ["blip", "qwen2-vl"])
def test_a_local_judge_tells_the_whole_vocabularys_probabilities(shape: str) -> None:
    folder = tiny_judges.folder(shape)
    judge = VqaJudge(LocalJudge(model=str(folder), max_new_tokens=2, device="cpu"))
    shown = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    spelled = Spelled("Is it red ?", ("yes", "Yes", " yes", "two dogs", "zebra"))
    told = judge.spell(shown, [[spelled, spelled], [spelled]])
    assert [len(row) for row in told] == [2, 1] and told[0][0] == told[0][1]
    for image, row in zip(shown, told, strict=True):
        inputs, _ = judge._family.inputs(judge._family.see([image]), [spelled.text])
        with torch.inference_mode():
            written = judge._family.generator.generate(**inputs, generation_config=judge._decoding)
        chances = written.logits[0][0].double().softmax(dim=0)
        tokenizer = judge._family.tokenizer
        (text, first), *_ = row
        names = [token for token, _ in first]
        # The tokenizer drops blanks, and knows no zebra, which tells nothing of the answer.
        assert names == ["yes", "Yes", "yes", "two", ""]
        for (_, p), word in zip(first, ("yes", "Yes", "yes", "two", "<unk>"), strict=True):
            assert p == pytest.approx(
                float(chances[tokenizer.convert_tokens_to_ids(word)]), rel=1e-3
            )
        assert text == judge._text(written.sequences[0][-len(written.logits) :].tolist())


def spells(handler: Any, asked: dict[str, Any]) -> None:
    likely = [("four", 0.5), ("Four", 0.2), ("f", 0.1), (" ", 0.05), ("4", 0.04)]
    body = completion("four")
    tokens = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in likely]
    if asked.get("logprobs"):
        body["choices"][0]["logprobs"] = {
            "content": [tokens[0] | {"top_logprobs": tokens}], "refusal": None
        }  # fmt: skip
    send(handler, 200, json.dumps(body).encode())


def silent(handler: Any, asked: dict[str, Any]) -> None:
    send(handler, 200, json.dumps(completion("four")).encode())


def test_a_served_judge_tells_what_its_server_lists() -> None:
    question = Spelled(
        "How many? Answer in one word.", ("four", "Four", " four", "fifty", "4", "five")
    )
    settings = {"model": "m", "timeout_s": 5.0, "max_attempts": 2}
    with serving(Script(spells)) as script:
        judge = ServedVqaJudge(ServedJudge(base_url=script.url, **settings), first_wait_s=0.01)
        ((told,),) = judge.spell([Image.new("RGB", (8, 8))], [[question]])
        sent = script.asked[0]["messages"][0]["content"][1]["text"]
    assert sent == question.text, "its wording of yes/no questions is not added"
    assert told[0] == "four"
    # " four" begins with the blank that is listed, which tells nothing; "fifty" with "f".
    assert told[1] == [("four", 0.5), ("Four", 0.2), ("", 0.0), ("f", 0.1), ("4", 0.04), ("f", 0.1)]
    with serving(Script(silent)) as script:
        judge = ServedVqaJudge(ServedJudge(base_url=script.url, **settings), first_wait_s=0.01)
        with pytest.raises(ModelError, match="tells no probability of its answer's first word"):
            judge.spell([Image.new("RGB", (8, 8))], [[question]])


def tells(content: Any, text: str = "four") -> Act:
    """A server with these first tokens: of each the text and the log-probability, likeliest first;
    or whatever else it has as `content`."""

    def act(handler: Any, asked: dict[str, Any]) -> None:
        body = completion(text)
        if asked.get("logprobs"):
            if content and isinstance(content[0], tuple):
                tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in content]
                told = [tokens[0] | {"top_logprobs": tokens}]
            else:
                told = content
            body["choices"][0]["logprobs"] = {"content": told, "refusal": None}
        send(handler, 200, json.dumps(body).encode())

    return act


FOUR = Spelled("How many? Answer in one word.", ("four", " four", "4", " 4"))


def told_by(act: Act) -> tuple[str, list[tuple[str, float]]]:
    settings = {"model": "m", "timeout_s": 5.0, "max_attempts": 2}
    with serving(Script(act)) as script:
        judge = ServedVqaJudge(ServedJudge(base_url=script.url, **settings), first_wait_s=0.01)
        ((told,),) = judge.spell([Image.new("RGB", (8, 8))], [[FOUR]])
    return told


def test_a_blank_before_a_digit_is_a_spellings_first_token_on_a_server_too() -> None:
    _, first = told_by(tells([("four", -0.7), (" ", -1.0)]))
    assert first == [("four", 0.4966), ("", 0.0), ("", 0.0), ("", 0.3679)]
    # " 4" as one token goes before the blank.
    assert told_by(tells([(" 4", -0.1), (" ", -3.0)], "4"))[1][3] == (" 4", 0.9048)


def test_probabilities_are_those_of_the_very_first_token() -> None:
    def token(text: str, likely: list[tuple[str, float]]) -> dict[str, Any]:
        listed = [{"token": t, "logprob": p, "bytes": None} for t, p in likely]
        return {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": listed}

    blank = token(" ", [(" ", -0.1), ("four", -3.0)])
    four = token("4", [("4", 0.0)])
    expected = [("four", 0.04979), ("", 0.0), ("", 0.0), ("", 0.9048)]
    assert told_by(tells([blank, four], " 4"))[1] == expected
    assert told_by(tells([blank], " ")) == ("", expected), "with nothing behind it"
    line = token("\n", [("\n", 0.0)])
    assert told_by(tells([line, four], "\n4"))[1][2] == ("4", 1.0), "the template's"


def test_an_answer_of_nothing_is_unreadable_and_ends_no_run() -> None:
    assert told_by(tells([], "")) == ("", [("", 0.0)] * 4)


@pytest.mark.parametrize("told", [1e9, 3.0, 0.1, math.nan, math.inf, "likely"])
def test_what_cannot_be_a_probability_is_the_servers_mistake(told: Any) -> None:
    with pytest.raises(ModelError, match=r"between 0 and 1, but .*127\.0\.0\.1.* tells the log-pr"):
        told_by(tells([("four", told), ("4", -2.0)]))


def test_probabilities_that_sum_to_more_than_one_are_the_servers_mistake() -> None:
    with pytest.raises(ModelError, match="sum to 2"):
        told_by(tells([("four", 0.0), ("4", 0.0)]))


def test_rounding_and_impossible_tokens_are_probabilities() -> None:
    shared = [("four", math.log(0.8)), ("4", math.log(0.24))]
    first = dict(told_by(tells(shared))[1])
    assert (first["four"], first["4"]) == (0.7692, 0.2308), "1.04 in sum are 1"
    with pytest.raises(ModelError, match=r"sum to 1\.06"):
        told_by(tells([("four", math.log(0.8)), ("4", math.log(0.26))]))
    assert told_by(tells([("four", 1e-6), ("4", -math.inf)]))[1][0] == ("four", 1.0)
    assert told_by(tells([("four", 1e-6), ("4", -9999.0)]))[1][2] == ("4", 0.0)


def test_a_probability_that_is_not_told_is_none() -> None:
    with pytest.raises(ModelError, match="tells no probability of its answer's first word"):
        told_by(tells([("four", None)]))
    with pytest.raises(ModelError, match="tells no probability of its answer's first word"):
        told_by(tells([{"token": None}, 5, "four"]))
