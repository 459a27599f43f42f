"""Questions for new prompts, against a real HTTP server that answers as it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Act, Script, fails, says, serving, writes
from typer.testing import CliRunner

from selma.applications.questions.settings import QuestionsConfig, backend_of, questions_config
from selma.applications.questions.writing import COLUMNS, write_questions
from selma.cli import app
from selma.errors import BackendError, ConfigError, DataError, NoProgress, WorkspaceError
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import read_benchmark
from selma.scores.faithfulness import dependency_faults
from selma.workspace import Workspace

KEY = "sk-planted-1a2b3c4d"
THINGS = ["dog", "cat", "boat", "tree", "star", "apple", "bird", "house", "cup", "fish", "lamp"]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def prompts(count: int = 7) -> list[BenchmarkPrompt]:
    return [
        BenchmarkPrompt(
            id=f"mine_{n}", text=f"a red {thing}, number {n}", group="mine", questions=()
        )
        for n, thing in enumerate(THINGS[:count])
    ]


def thing_of(asked: dict[str, Any]) -> tuple[str, str]:
    """What a request is about, and which step it is of."""
    wish = asked["messages"][0]["content"]
    given = wish.rpartition("nothing else.")[2].strip().split("\n")
    return given[1].split(",")[0].removeprefix("a red "), given[-1].rstrip(":")


def answers(asked: dict[str, Any]) -> str:
    """A good reply, in a shape of its own for each thing."""
    thing, step = thing_of(asked)
    bodies = {
        "Facts": [f"entity - whole ({thing})", f"attribute - color ({thing}, red)"],
        "Dependencies": ["0", "1"],
        "Questions": [f"Is there a {thing}?", f"Is the {thing} red?"],
    }[step]
    mark = ("{} | {}", "{}. {}", "**{}** | {}", "Fact {}: {}", "* {}) {}")[len(thing) % 5]
    lines = "\n".join(mark.format(n, body) for n, body in enumerate(bodies, 1))
    return f"Sure:\n```\n{lines}\n```" if len(thing) % 2 else lines


def choices(asked: dict[str, Any]) -> str:
    thing, _ = thing_of(asked)
    return (
        f"About {thing} (object):\nQ: is there a {thing}?\nChoices: yes, no\nA: yes\n"
        f"About red (color):\nQ: what color is it?\nChoices: A) red B) blue C) green\nA: A"
    )


def config(server: Script, *, backend: dict[str, Any] | None = None, **given: Any) -> Any:
    served = {"kind": "openai", "model": "m", "base_url": server.url, "max_attempts": 1}
    served |= {"price_per_million_input": 10.0, "price_per_million_output": 20.0}
    return QuestionsConfig.model_validate({"backend": served | (backend or {})} | given)


def results(folder: Path) -> dict[str, bytes]:
    """Every file but the journal, which holds times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name != "journal.jsonl"
    }


def test_prompts_become_a_file_that_the_scorers_read(tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.csv"
    with serving(Script(writes(answers))) as server:
        summary = write_questions(prompts(), config(server), out)
    benchmark_prompts = read_benchmark(out)
    assert [(p.id, p.text, p.group) for p in benchmark_prompts] == [
        (p.id, p.text, "mine") for p in prompts()
    ]
    first = benchmark_prompts[0].questions
    assert [(q.id, q.text, q.category, q.detail, q.parents) for q in first] == [
        ("1", "Is there a dog?", "entity", "whole", ()),
        ("2", "Is the dog red?", "attribute", "color", ("1",)),
    ]
    assert dependency_faults(benchmark_prompts) == {}
    assert out.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert summary["questions"] == 14 and summary["quarantined"] == 0
    # Each request cost 100 tokens read and 50 written.
    assert summary["requests"] == 21 and summary["cost"] == pytest.approx(21 * 0.002)
    ledger = list(Workspace(tmp_path / "new" / "mine.csv.work").read_journal())
    paid = [line for line in ledger if line.get("event") == "request"]
    assert len(paid) == 21 and sum(line["cost"] for line in paid) == pytest.approx(0.042)
    assert not any(KEY.encode() in data for data in results(tmp_path).values())


def test_multiple_choice_becomes_tifas_file(tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    with serving(Script(writes(choices))) as server:
        summary = write_questions(prompts(), config(server, style="tifa"), out)
    rows = json.loads(out.read_text())
    assert list(rows[0]) == [
        *("id", "caption", "element", "element_type", "question", "choices", "answer")
    ]
    benchmark_prompts = read_benchmark(out)
    assert summary["questions"] == len(rows) == 14
    color = benchmark_prompts[0].questions[1]
    assert (color.category, color.answer, set(color.choices)) == (
        "color",
        "red",
        {"red", "blue", "green"},
    )


def test_a_second_run_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    with serving(Script(writes(answers))) as server:
        write_questions(prompts(), config(server), out)
        before, asked = results(tmp_path), len(server.asked)
        write_questions(prompts(), config(server), out)
        assert results(tmp_path) == before and len(server.asked) == asked
        # More prompts cost only themselves.
        write_questions(prompts(9), config(server), out)
        assert len(server.asked) == asked + 6


@pytest.mark.parametrize("after", [1, 7, 11, 20])
def test_a_server_that_dies_costs_nothing_twice(tmp_path: Path, after: int) -> None:
    whole, out = tmp_path / "whole" / "mine.csv", tmp_path / "parts" / "mine.csv"
    with serving(Script(writes(answers))) as server:
        write_questions(prompts(), config(server), whole)
        good: list[Act] = [writes(answers)] * after
        server.acts = [*good, fails(401)]
        server.asked.clear()
        with pytest.raises(BackendError):
            write_questions(prompts(), config(server), out)
        assert not out.exists()
        server.acts = [writes(answers)]
        write_questions(prompts(), config(server), out)
        # A batch is kept as a whole: at most its four other requests are made again.
        assert len(server.asked) <= 21 + 1 + 2 * 4 + 1
    ours, theirs = results(out.parent), results(whole.parent)
    assert ours["mine.csv"] == theirs["mine.csv"]
    assert ours["mine.csv.work/summary.json"] == theirs["mine.csv.work/summary.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"temperature": 0.5},
        {"max_new_tokens": 100},
        {"backend": {"model": "other"}},
    ],
)
def test_what_matters_asks_again(tmp_path: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "mine.csv"
    with serving(Script(writes(answers))) as server:
        write_questions(prompts(2), config(server), out)
        write_questions(prompts(2), config(server, **change), out)
        assert len(server.asked) == 12


def test_what_does_not_matter_asks_nothing(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    with serving(Script(writes(answers))) as server:
        write_questions(prompts(2), config(server), out)
        for change in ({"patience": 3}, {"attempts": 5}, {"backend": {"max_cost": 9.0}}):
            write_questions(list(reversed(prompts(2))), config(server, **change), out)
        assert len(server.asked) == 6


def test_what_gives_nothing_is_put_aside_with_its_reason(tmp_path: Path) -> None:
    def some(asked: dict[str, Any]) -> str:
        thing, step = thing_of(asked)
        if thing == "cat":
            return "I'm sorry, but I can't help with that."
        if thing == "boat" and step == "Questions":
            return "1 | Is there a boat?\n2 | How red is it? \ud800"
        return answers(asked)

    out = tmp_path / "mine.csv"
    aside = tmp_path / "mine.quarantine.jsonl"
    with serving(Script(writes(some))) as server:
        summary = write_questions(prompts(4), config(server, attempts=2), out)
        # The reply that came at temperature 0 must not be asked for at 0 again.
        again = [a["temperature"] for a in server.asked if thing_of(a)[0] == "cat"]
        assert again == [0.0, 0.7]
        rows = [json.loads(line) for line in aside.read_text().splitlines()]
        assert [(row["id"], row["reason"]) for row in rows] == [
            ("mine_1", "no usable facts"),
            ("mine_2", "questions missing for 1 of 2 facts"),
        ]
        assert len(rows[1]["replies"]) == 4
        assert [p.id for p in read_benchmark(out)] == ["mine_0", "mine_3"]
        assert (summary["prompts"], summary["done"], summary["quarantined"]) == (4, 2, 2)
        assert summary["faults"]["tuples: refusal"] == 2
        assert summary["faults"]["questions: not yes or no"] == 2
        # A further attempt takes up where these ended, and a success leaves no quarantine.
        server.acts = [writes(answers)]
        before = len(server.asked)
        write_questions(prompts(4), config(server, attempts=3), out)
        assert len(server.asked) == before + 3 + 1
        assert not aside.exists() and len(read_benchmark(out)) == 4


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (says("", finish="length"), "9 replies without an answer (empty, cut at max_new_tokens)"),
        (says(None), "9 replies without an answer (null)"),
        (says("<think>Is it?</think>"), "9 replies without an answer (thought)"),
    ],
)
def test_replies_without_an_answer_are_named(act: Act, words: str, tmp_path: Path) -> None:
    with serving(Script(act)) as server, pytest.raises(NoProgress) as caught:
        write_questions(prompts(3), config(server), tmp_path / "mine.csv")
    assert words in str(caught.value)


def test_nothing_but_failures_ends_with_a_report(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    with serving(Script(says("There is nothing to say."))) as server:
        with pytest.raises(NoProgress, match="no usable facts"):
            write_questions(prompts(3), config(server), out)
        assert len(server.asked) == 9
        with pytest.raises(NoProgress, match="last 5 prompts"):
            write_questions(prompts(11), config(server, attempts=1, patience=5), out)
        # Of the eleven, no more were asked about than one batch, of which three were known.
        assert len(server.asked) == 9 + 2
    assert not out.exists()
    assert len((tmp_path / "mine.quarantine.jsonl").read_text().splitlines()) == 5


def test_the_limit_on_cost_holds_over_runs(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    limited = {"backend": {"max_cost": 0.2}, "max_new_tokens": 100}
    with serving(Script(writes(answers))) as server:
        for _ in range(3):
            with pytest.raises(BackendError, match="max_cost"):
                write_questions(prompts(11), config(server, **limited), out)
        lines = list(Workspace(tmp_path / "mine.csv.work").read_journal())
        assert sum(line.get("cost", 0) for line in lines) <= 0.2


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("precious")
    with serving(Script(writes(answers))) as server:
        with pytest.raises(DataError, match="not made by this command"):
            write_questions(prompts(1), config(server), out)
        assert out.read_text() == "precious" and not server.asked
        with pytest.raises(ConfigError, match=r"\.json file"):
            write_questions(prompts(1), config(server, style="tifa"), tmp_path / "x.csv")
        work = Workspace(tmp_path / "other.csv.work")
        with work.locked(), pytest.raises(WorkspaceError, match="in use"):
            write_questions(prompts(1), config(server), tmp_path / "other.csv")


def test_the_command(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("# mine\na red dog\n\na red cat, {curly}\n", "utf-8")
    out = tmp_path / "out.csv"
    with serving(Script(writes(answers))) as server:
        by_name = ["--model", "m", "--base-url", server.url]
        done = CliRunner().invoke(app, ["questions", str(texts), "--out", str(out), *by_name])
        assert done.exit_code == 0, done.output
        assert "4 questions about 2 prompts" in done.output and "6 requests" in done.output
        assert [p.text for p in read_benchmark(out)] == ["a red dog", "a red cat, {curly}"]
        settings = tmp_path / "llm.yaml"
        settings.write_text(f"kind: openai\nmodel: m\nbase_url: {server.url}\n")
        command = ["questions", str(texts), "--out", str(out), "--backend", str(settings)]
        assert CliRunner().invoke(app, command).exit_code == 0
        assert len(server.asked) == 6  # the same model, named in another way


def test_which_language_model_is_meant(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("prompts: {backend: {kind: local, model: owner/name, batch_size: 2}}")
    assert backend_of(str(run)).model == "owner/name"
    assert backend_of("smollm2").kind == "local"
    assert backend_of(None, model="m", base_url="http://x/v1").kind == "openai"
    for wrong in ({"backend": None}, {"backend": "a", "model": "b"}):
        with pytest.raises(ConfigError, match="One language model"):
            backend_of(**wrong)
    with pytest.raises(ConfigError, match="belongs to --model"):
        backend_of("smollm2", base_url="http://x/v1")
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: openai\nmodell: m\n")
    with pytest.raises(ConfigError, match="modell"):
        backend_of(str(bad))
    with pytest.raises(ConfigError, match="cannot be read"):
        backend_of(str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match="style"):
        questions_config(style="vqa")
