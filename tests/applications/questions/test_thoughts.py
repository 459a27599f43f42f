"""What a model thinks before or behind its rows gives no question, however it is marked.

Each shape is sent by a real HTTP server at each step; its thought holds rows that would be
accepted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Act, Script, completion, send, serving

from selma.applications.questions.settings import QuestionsConfig
from selma.applications.questions.writing import write_questions
from selma.errors import NoProgress
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import read_benchmark

PROMPT = BenchmarkPrompt(id="mine", text="a grey owl on a post", group="mine", questions=())
IDEAS = {
    "Facts": ["entity - whole (grey post)", "attribute - color (owl, white)"],
    "Dependencies": ["2", "0"],
    "Questions": ["Is an owl on the grey post?", "Is the owl white?"],
}
ANSWERS = {
    "Facts": ["entity - whole (owl)", "attribute - color (owl, grey)"],
    "Dependencies": ["0", "1"],
    "Questions": ["Is there an owl?", "Is the owl grey?"],
}
CHOICES = (
    "About owl (animal):\n{q}: is there an owl?\nChoices: yes, no\n{a}: yes\n"
    "About grey (color):\n{q}: what color is the owl?\nChoices: grey, white\n{a}: grey"
)
IDEA_OF_CHOICES = "About owl (animal):\nQ: is the owl white?\nChoices: yes, no\nA: no"
RIGHT = {
    "dsg": [("Is there an owl?", ()), ("Is the owl grey?", ("1",))],
    "tifa": [("is there an owl?", ()), ("what color is the owl?", ())],
}

# i is the thought, a the answer, h what the prompt calls the answer.
BEFORE = {
    "tags": "<think>\n{i}\n</think>\n\n{a}",
    "the closing tag alone": "Okay, an owl.\n{i}\n</think>\n\n{a}",
    "the answer on the closing tag's line": "{i}</think>{a}",
    "square brackets": "[THINK]{i}[/THINK]{a}",
    "a namespace": "<mm:think>\n{i}\n</mm:think>\n{a}",
    "an attribute": '<think duration="3s">\n{i}\n</think>\n{a}',
    "triangles": "◁think▷{i}◁/think▷{a}",
    "escaped tags": "&lt;think&gt;\n{i}\n&lt;/think&gt;\n{a}",
    "an escaped closing tag alone": "{i}\n&lt;/think&gt;\n{a}",
    "a tag of any name": "<plan>\n{i}\n</plan>\n{a}",
    "a tag of any name around a list": "<plan>\n1. the owl\n2. its post\n</plan>\n{a}",
    "a bracket of any name around bullets": "[sketch]\n- entity - whole (post)\n[/sketch]\n{a}",
    "an escaped tag of any name": "&lt;plan&gt;\n{i}\n&lt;/plan&gt;\n{a}",
    "two tags of any name": "<plan>\n{i}\n</plan>\n<critique>\n{i}\n</critique>\n{a}",
    "tags of thought and answer": "<think>{i}</think>\n<answer>\n{a}\n</answer>",
    "tags of the answer's own name": "<plan>\n{i}\n</plan>\n<{h}>\n{a}\n</{h}>",
    "channels": "<|channel|>analysis<|message|>{i}<|end|><|start|>assistant<|channel|>final"
    "<|message|>{a}",
    "a fold": '<details type="reasoning">\n<summary>Thought</summary>\n{i}\n</details>\n{a}',
    "a fence": "```thinking\n{i}\n```\n{a}",
    "headings": "Thinking Process:\n{i}\n\nFinal Answer:\n{a}",
    "a heading of the answer's own name": "Thinking Process:\n{i}\n\n{h}:\n{a}",
    "marked headings": "## Thinking\n{i}\n\n## {h}\n{a}",
    "bold headings": "**Reasoning:**\n{i}\n\n**{h}:**\n{a}",
    "a heading in a sentence": "My reasoning:\n{i}\n\nHere are the {h}:\n{a}",
    "a label": "Thought: I know the owl.\nFinal Answer:\n{a}",
    "a label on the answer's line": "Thought: I know the owl.\nFinal Answer: {a}",
}
BEHIND = {  # at the limit on tokens
    "a thought behind the answer": "{a}\n<think>\n{i}",
    "a thought on both sides": "<think>{i}</think>\n{a}\n\n<thinking>\nIs this right? 1 |",
}
NUMBERED = ("{} | {}", "{}. {}", "**{}**: {}")
SHAPES = [(shape, "stop") for shape in BEFORE.values()] + [(s, "length") for s in BEHIND.values()]
IDS = [*BEFORE, *BEHIND]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")


def step_of(asked: dict[str, Any]) -> str:
    return str(asked["messages"][0]["content"].rstrip().rpartition("\n")[2].rstrip(":"))


def replies(shape: str, idea: Any, answer: Any, **how: Any) -> Act:
    """The shape around what `idea` and `answer` give for the step that is asked for."""

    def act(handler: Any, asked: dict[str, Any]) -> None:
        step = step_of(asked)
        text = shape.format(i=idea(step), a=answer(step), h=step.lower())
        send(handler, 200, json.dumps(completion(text, **how)).encode())

    return act


def written(act: Act, style: str, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """The questions in the file, with their parents, and the summary."""
    with serving(Script(act)) as server:
        backend = {"kind": "openai", "model": "m", "base_url": server.url, "max_attempts": 1}
        settings = QuestionsConfig.model_validate({"backend": backend, "style": style})
        out = folder / {"dsg": "mine.csv", "tifa": "mine.json"}[style]
        summary = write_questions([PROMPT], settings, out)
    return [(q.text, q.parents) for q in read_benchmark(out)[0].questions], summary


@pytest.mark.parametrize("number", NUMBERED)
@pytest.mark.parametrize(("shape", "finish"), SHAPES, ids=IDS)
def test_thoughts_give_no_rows(shape: str, finish: str, number: str, tmp_path: Path) -> None:
    def numbered(bodies: dict[str, list[str]]) -> Any:
        return lambda step: "\n".join(number.format(n, b) for n, b in enumerate(bodies[step], 1))

    act = replies(shape, numbered(IDEAS), numbered(ANSWERS), finish=finish)
    questions, summary = written(act, "dsg", tmp_path)
    assert questions == RIGHT["dsg"]
    assert (summary["requests"], summary["faults"]) == (3, {})


@pytest.mark.parametrize(("q", "a"), [("Q", "A"), ("Question", "Answer")])
@pytest.mark.parametrize(("shape", "finish"), SHAPES, ids=IDS)
def test_thoughts_give_no_choices(shape: str, finish: str, q: str, a: str, tmp_path: Path) -> None:
    choices = CHOICES.format(q=q, a=a)
    act = replies(shape, lambda _: IDEA_OF_CHOICES, lambda _: choices, finish=finish)
    questions, summary = written(act, "tifa", tmp_path)
    assert questions == RIGHT["tifa"]
    assert (summary["requests"], summary["faults"]) == (1, {})


def test_one_row_behind_a_tag_of_any_name(tmp_path: Path) -> None:
    rows = {"Facts": "entity - whole (owl)", "Dependencies": "0", "Questions": "Is there an owl?"}
    act = replies("<plan>{i}</plan>\n1 | {a}", lambda step: f"1 | {IDEAS[step][0]}", rows.get)
    assert written(act, "dsg", tmp_path)[0] == RIGHT["dsg"][:1]


def of_a_field(name: str, thought: Any, content: Any) -> Act:
    def act(handler: Any, asked: dict[str, Any]) -> None:
        rows = "\n".join(f"{n} | {body}" for n, body in enumerate(ANSWERS[step_of(asked)], 1))
        body: dict[str, Any] = completion(content(rows))
        body["choices"][0]["message"][name] = thought
        send(handler, 200, json.dumps(body).encode())

    return act


@pytest.mark.parametrize(
    "act",
    [
        of_a_field("reasoning_content", "1 | entity - whole (post)", lambda rows: rows),
        of_a_field("reasoning", "1 | entity - whole (post)", lambda rows: rows),
        of_a_field(
            "role",
            "assistant",
            lambda rows: [
                {"type": "thinking", "thinking": "1 | entity - whole (post)"},
                {"type": "text", "text": rows},
            ],
        ),
    ],
    ids=["reasoning_content", "reasoning", "parts"],
)
def test_thoughts_in_a_field_of_their_own(act: Act, tmp_path: Path) -> None:
    assert written(act, "dsg", tmp_path)[0] == RIGHT["dsg"]


@pytest.mark.parametrize("opening", ["<think>\n", "[THINK]", "<|channel|>analysis<|message|>"])
@pytest.mark.parametrize(("style", "idea"), [("dsg", "1 | entity - whole (owl)"), ("tifa", None)])
def test_a_thought_that_never_closes_gives_none(
    opening: str, style: str, idea: str | None, tmp_path: Path
) -> None:
    act = replies(f"{opening}{{i}}", lambda _: idea or IDEA_OF_CHOICES, str, finish="length")
    with pytest.raises(NoProgress, match=r"3 replies without an answer \(thought, cut at max_new"):
        written(act, style, tmp_path)
    assert not (tmp_path / "mine.csv").exists() and not (tmp_path / "mine.json").exists()
