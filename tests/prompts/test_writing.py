"""Stage 1 against a real HTTP server that answers as it is told."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rapidfuzz.distance import LCSseq
from scripted import Act, Script, completion, fails, says, sends, serving, writes

from selma.config.networks import LocalLLM
from selma.config.prompts import PromptsConfig
from selma.errors import BackendError, ConfigError, NoProgress
from selma.prompts import writing
from selma.prompts.novelty import unicode_words
from selma.prompts.skills import load_skills
from selma.prompts.writing import write_prompts
from selma.records.prompts import Prompt
from selma.workspace import Workspace

NOUNS = ["dog", "cat", "boat", "tree", "star", "apple", "bird", "house", "cup", "fish", "lamp"]
DOINGS = ["sleeps", "waits", "turns", "leans", "floats", "shines", "hides", "stands"]
PLACES = ["garden", "harbour", "kitchen", "desert", "meadow", "street", "tunnel", "library"]
KEY = "sk-planted-9f8e7d6c"


def listing(asked: dict, *, count: int = 6) -> str:
    """Captions that depend on the request alone, so that equal requests get equal replies."""
    request = json.dumps([asked["messages"], asked["seed"]])
    pick = random.Random(hashlib.sha256(request.encode()).digest())
    lines = [
        f"a {pick.choice(NOUNS)} {pick.choice(DOINGS)} by a {pick.choice(NOUNS)} in the "
        f"{pick.choice(PLACES)} near the {pick.choice(PLACES)}"
        for _ in range(count)
    ]
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 4))


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("SELMA_TEST_KEY", KEY)


@pytest.fixture
def server():
    with serving(Script(writes(listing))) as script:
        yield script


def config(server: Script, *, backend: dict | None = None, **settings) -> PromptsConfig:
    served = {"kind": "openai", "model": "m", "base_url": server.url}
    served |= {"key_variable": "SELMA_TEST_KEY", "max_attempts": 1} | (backend or {})
    small = {"skills": ["coco"], "per_skill": 20, "asked_per_reply": 6, "patience": 4}
    return PromptsConfig.model_validate(small | {"backend": served} | settings)


def write(
    settings: PromptsConfig, root: Path, *, benchmark_prompts=(), seed=3
) -> dict[str, list[Prompt]]:
    return write_prompts(settings, Workspace(root), seed=seed, benchmark_texts=benchmark_prompts)


def counts(
    settings: PromptsConfig, root: Path, *, benchmark_prompts=(), seed=3
) -> dict[str, dict[str, int]]:
    folder = Workspace(root)
    return writing.counts("dropped", settings, folder, seed=seed, benchmark_texts=benchmark_prompts)


def outcomes(settings: PromptsConfig, root: Path) -> dict[str, dict[str, int]]:
    return writing.counts("replies", settings, Workspace(root), seed=3, benchmark_texts=[])


def artefacts(root: Path) -> dict[str, bytes]:
    """Every file but the journal, which holds times."""
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in files
        if file.name != "journal.jsonl"
    }


def f_measure(a, b):
    """ROUGE-L's F of two texts."""
    first, second = unicode_words(a), unicode_words(b)
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))


def test_writes_exactly_as_many_as_asked_for_and_no_two_alike(server, tmp_path):
    prompts = write(config(server, skills=["coco", "whoops"]), tmp_path)
    assert {skill: len(found) for skill, found in prompts.items()} == {"coco": 20, "whoops": 20}
    for skill, found in prompts.items():
        assert all(prompt.skill == skill and prompt.model == "m" for prompt in found)
        assert len({prompt.id for prompt in found}) == 20
        texts = [prompt.text for prompt in found]
        for index, text in enumerate(texts):
            assert all(f_measure(text, other) <= 0.8 for other in texts[:index])


def test_examples_come_from_seeds_and_what_is_kept(server, tmp_path):
    prompts = write(config(server, per_skill=40), tmp_path)["coco"]
    seeds = set(load_skills(["coco"])[0].seeds)
    known = {prompt.id: prompt.text for prompt in prompts} | {seed: seed for seed in seeds}
    for prompt in prompts:
        assert len(prompt.parents) == 3
        shown = [known[parent] for parent in prompt.parents]
        assert any(all(text in wish for text in shown) for wish in server.wishes)
    assert any(set(prompt.parents) - seeds for prompt in prompts)


def test_seeds_alone_can_be_the_examples(server, tmp_path):
    prompts = write(config(server, per_skill=40, example_pool="seeds"), tmp_path)["coco"]
    seeds = set(load_skills(["coco"])[0].seeds)
    assert all(set(prompt.parents) == seeds for prompt in prompts)


def test_every_drop_is_counted_with_its_reason(tmp_path):
    reply = "\n".join(
        [
            "4. a red kite above the old harbour",
            "5. A red kite above the old harbour!",
            "6. the exam asks for a green lamp",
            "7. " + "word " * 31,
            "8.",
            "9. I'm sorry, but I cannot write more.",
            "10. a 🐕 at the gate",
            "11. two spoons beside an open book",
            "12. a bell in a tower",
            "13. a drum on a cart",
        ]
    )
    benchmark_prompts = ["The exam asks for a green lamp."]
    with serving(Script(says(reply))) as server:
        settings = config(server, per_skill=4, asked_per_reply=10)
        prompts = write(settings, tmp_path, benchmark_prompts=benchmark_prompts)["coco"]
    assert [prompt.text for prompt in prompts] == [
        "a red kite above the old harbour",
        "a 🐕 at the gate",
        "two spoons beside an open book",
        "a bell in a tower",
    ]
    assert prompts[0].tokens == pytest.approx(150 / 8, abs=1e-3)
    assert counts(settings, tmp_path, benchmark_prompts=benchmark_prompts)["coco"] == {
        "blank": 1,
        "contaminated": 1,
        "refusal": 1,
        "similar": 1,
        "surplus": 1,
        "too_long": 1,
    }


def test_demands_of_a_skill_are_counted_by_their_names(tmp_path):
    skill = tmp_path / "mine.yaml"
    seeds = ["two cups on a tray", "three boats on a lake", "one lamp on a desk"]
    skill.write_text(
        "name: mine\ndescription: captions\nmax_words: 9\nmin_words: 3\nmust: number\n"
        f"pattern: ' on '\nseeds: {json.dumps(seeds)}\n"
    )
    reply = "4. two cats\n5. a bird on a fence\n6. four kites above hills\n7. two mugs on shelves"
    with serving(Script(says(reply))) as server:
        settings = config(server, skills=[str(skill)], per_skill=1, asked_per_reply=4)
        (prompt,) = write(settings, tmp_path / "run")["mine"]
    assert prompt.text == "two mugs on shelves"
    lacks = {"too_short": 1, "no_number": 1, "no_match": 1}
    assert counts(settings, tmp_path / "run")["mine"] == lacks


def test_count_limits_are_kept(tmp_path):
    with serving(Script(says("4. two cups\n5. nine dogs\n6. three red boats"))) as server:
        settings = config(server, skills=["countbench"], per_skill=2, asked_per_reply=3)
        prompts = write(settings, tmp_path)["countbench"]
    assert [prompt.text for prompt in prompts] == ["two cups", "three red boats"]
    assert counts(settings, tmp_path)["countbench"] == {"count_too_high": 1}


def test_a_finished_skill_asks_nobody(server, tmp_path, monkeypatch):
    first = write(config(server), tmp_path)
    asked = len(server.asked)
    monkeypatch.delenv("SELMA_TEST_KEY")
    assert write(config(server), tmp_path) == first
    assert len(server.asked) == asked


def test_another_setting_makes_another_result(server, tmp_path):
    first = write(config(server), tmp_path)
    second = write(config(server, temperature=0.5), tmp_path)
    assert len(list((tmp_path / "superseded").iterdir())) == 1
    assert first["coco"][0].model == second["coco"][0].model
    assert write(config(server), tmp_path, seed=4) != first


def test_no_progress_stops_and_can_go_on(tmp_path):
    same = says("4. a red kite above the old harbour\n5. two spoons beside an open book")
    with serving(Script(same)) as server:
        settings = config(server, per_skill=8, asked_per_reply=2, patience=4)
        with pytest.raises(NoProgress, match="has 2, which are kept"):
            write(settings, tmp_path)
        assert counts(settings, tmp_path) == {}
        before = len(server.asked)
        with pytest.raises(NoProgress):  # patience begins anew with each start
            write(settings, tmp_path)
        assert len(server.asked) > before
        server.acts = [writes(listing)]
        assert len(write(settings, tmp_path)["coco"]) == 8


def message(**fields) -> Act:
    body = completion("x", finish=fields.pop("finish", "stop"))
    body["choices"][0]["message"] = {"role": "assistant"} | fields
    return sends(json.dumps(body).encode())


BARREN = {
    "empty": (says(""), "8 empty.", "switch the model's thinking off"),
    "null": (says(None), "8 without content.", "switch the model's thinking off"),
    "empty, at the limit": (
        says("", finish="length"),
        "8 empty, cut at max_new_tokens.",
        "raise prompts.max_new_tokens (3072 now), or switch the model's thinking off",
    ),
    "a thought in its own field": (
        message(content="", reasoning="Dogs?", finish="length"),
        "8 with a thought but no answer, cut at max_new_tokens.",
        "raise prompts.max_new_tokens (3072 now), or switch the model's thinking off",
    ),
    "a thought that never ends": (
        says("<think>1. Dogs?\n2. Or ca", finish="length"),
        "8 with a thought but no answer, cut at max_new_tokens.",
        "raise prompts.max_new_tokens (3072 now), or switch the model's thinking off",
    ),
    "a thought and no answer": (
        says("<think>Dogs?</think>"),
        "8 with a thought but no answer.",
        "thinking off",
    ),
    "one item, cut": (
        says("4. a red ki", finish="length"),
        "8 without one whole caption, cut at max_new_tokens.",
        "raise prompts.max_new_tokens (3072 now), or switch the model's thinking off",
    ),
    "refusals": (says("I'm sorry, but I cannot."), "8 refused.", "description or seeds"),
    "a refusal in its own field": (message(content=None, refusal="No."), "8 refused.", "seeds"),
    "a filter": (message(content="", finish="content_filter"), "server's filter.", "seeds"),
    "a tool": (message(content=None, tool_calls=[{"id": "1"}]), "8 that call a tool.", "tools off"),
    "prose": (
        says("Once there was a dog. It was red."),
        "8 without a list of captions.",
        "replies.jsonl, and name a larger model",
    ),
    "only numbers": (says("4.\n5.\n6."), "8 without a word in their items.", "larger model"),
    "the same again": (
        says("4. a red kite above the old harbour"),
        "7 with captions but no new prompt; 1 with new prompts. Texts dropped: 7 similar.",
        "raise prompts.novelty.threshold",
    ),
    "too long": (
        says("4. " + "word " * 40),
        "8 with captions but no new prompt. Texts dropped: 8 too long.",
        "raise the skill's max_words",
    ),
}


@pytest.mark.parametrize(("act", "counted", "advice"), BARREN.values(), ids=BARREN.keys())
def test_replies_that_bring_nothing_are_named_with_advice_that_helps(
    act, counted, advice, tmp_path
):
    with serving(Script(act)) as server:
        settings = config(server, per_skill=8, asked_per_reply=2, patience=7, backend={})
        with pytest.raises(NoProgress) as caught:
            write(settings, tmp_path)
        assert f"{len(server.asked)} replies: " in str(caught.value)
    said = str(caught.value).lower()
    assert counted.lower() in said and advice in said
    for other in ("prompts.novelty", "prompts.max_new_tokens", "thinking off", "max_words"):
        assert other in advice or other not in said


def test_every_reply_has_one_outcome_on_record(tmp_path):
    acts = [
        says(""),
        says("I cannot."),
        says("<think>Dogs?", finish="length"),
        says("4. a red kite above the old harbour"),
        says("4. a red kite above the old harbour"),
        says("4. two spoons beside an open book\n5. a bell in a tower\n6. a drum on a cart"),
    ]
    with serving(Script(*acts)) as server:
        settings = config(server, per_skill=4, asked_per_reply=4, patience=9)
        write(settings, tmp_path)
        assert len(server.asked) == 6
    expected = {"empty": 1, "new": 2, "nothing_new": 1, "refusal": 1, "thought_at_limit": 1}
    assert outcomes(settings, tmp_path) == {"coco": expected}
    manifest = json.loads((tmp_path / "1-prompts/coco/manifest.json").read_text())
    assert manifest["summary"]["replies"] == expected
    assert "left_out" not in manifest["summary"]


def test_what_a_server_does_not_take_is_on_record(tmp_path):
    def act(handler, asked):
        refused = fails(400, message="Unsupported parameter: 'seed'")
        (refused if "seed" in asked else good)(handler, asked)

    lines = [f"{n}. a {noun} by the {PLACES[n - 4]}" for n, noun in enumerate(NOUNS[:6], 4)]
    good = says("\n".join(lines))
    with serving(Script(act)) as server:
        settings = config(server, per_skill=5)
        write(settings, tmp_path)
    manifest = json.loads((tmp_path / "1-prompts/coco/manifest.json").read_text())
    assert manifest["summary"]["left_out"] == ["seed"]
    (line,) = (tmp_path / "1-prompts/coco/replies.jsonl").read_text().splitlines()
    assert json.loads(line)["replies"][0]["left_out"] == ["seed"]
    journal = list(Workspace(tmp_path).read_journal())
    assert [n["parameter"] for n in journal if n.get("event") == "left out"] == ["seed"]


def test_a_failing_server_keeps_what_came(server, tmp_path):
    settings = config(server, per_skill=60)
    undisturbed = artefacts_of(settings, tmp_path / "whole")
    server.asked.clear()
    server.acts = [writes(listing)] * 6 + [fails(500)]
    with pytest.raises(BackendError, match="kept"):
        write(settings, tmp_path / "broken")
    assert (tmp_path / "broken/1-prompts/coco/prompts.jsonl").stat().st_size > 0
    server.acts = [writes(listing)]
    write(settings, tmp_path / "broken")
    assert artefacts(tmp_path / "broken") == undisturbed


def artefacts_of(settings: PromptsConfig, root: Path) -> dict[str, bytes]:
    write(settings, root)
    return artefacts(root)


@pytest.mark.parametrize("seed", range(8))
def test_any_cut_of_the_files_is_made_whole(server, tmp_path, seed):
    """A crash can leave any beginning of either file; only the torn batch is asked for again."""
    settings = config(server, per_skill=60)
    undisturbed = artefacts_of(settings, tmp_path)
    rng = random.Random(seed)
    folder = tmp_path / "1-prompts/coco"
    (folder / "manifest.json").unlink()
    for name in ("replies.jsonl", "prompts.jsonl"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: rng.randrange(len(data))])
    whole = [line for line in (folder / "replies.jsonl").read_bytes().split(b"\n")[:-1] if line]
    lines = [json.loads(line) for line in undisturbed["1-prompts/coco/replies.jsonl"].splitlines()]
    server.asked.clear()
    write(settings, tmp_path)
    assert artefacts(tmp_path) == undisturbed
    assert len(server.asked) == sum(len(line["replies"]) for line in lines[len(whole) :])


CHILD = """
import sys
from pathlib import Path
from selma.config.prompts import PromptsConfig
from selma.prompts.writing import write_prompts
from selma.workspace import Workspace
settings = PromptsConfig.model_validate_json(sys.argv[1])
write_prompts(settings, Workspace(Path(sys.argv[2])), seed=3, benchmark_texts=[])
"""


def test_killed_again_and_again_ends_with_the_same_bytes(server, tmp_path):
    settings = config(server, per_skill=60)
    undisturbed = artefacts_of(settings, tmp_path / "whole")
    command = [sys.executable, "-c", CHILD, settings.model_dump_json(), str(tmp_path / "killed")]
    child: list[subprocess.Popen] = []
    good = writes(listing)
    # In the first batch, in the second one, at the first request after a resume; then in peace.
    for fatal in (2, 8, 1, None):
        server.asked.clear()

        def act(handler, asked, fatal=fatal):
            if fatal is not None and len(server.asked) >= fatal:
                os.kill(child[-1].pid, signal.SIGKILL)
            good(handler, asked)

        server.acts = [act]
        child.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        assert child[-1].wait(timeout=240) == (0 if fatal is None else -signal.SIGKILL)
    assert artefacts(tmp_path / "killed") == undisturbed


def test_the_key_is_written_nowhere(server, tmp_path, caplog, capsys):
    caplog.set_level("DEBUG")
    write(config(server, backend={"base_url": server.url}), tmp_path)
    assert server.keys[0] == f"Bearer {KEY}"
    server.acts = [fails(401, code="invalid_api_key", message=f"Incorrect API key: {KEY}")]
    with pytest.raises(BackendError) as caught:
        write(config(server, skills=["whoops"]), tmp_path)
    shown = capsys.readouterr()
    everything = [str(caught.getrepr(style="long", showlocals=False)), shown.out, shown.err]
    everything += [record.getMessage() for record in caplog.records]
    everything += [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(KEY in text for text in everything)
    assert "401" in str(caught.value)


def test_addresses_are_recorded_without_what_may_be_a_key(server, tmp_path):
    hidden = server.url.replace("http://", f"http://user:{KEY}@")
    write(config(server, backend={"base_url": hidden}), tmp_path)
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_each_request_is_in_the_journal_with_its_cost(server, tmp_path):
    prices = {"price_per_million_input": 1000.0, "price_per_million_output": 2000.0}
    write(config(server, backend=prices), tmp_path)
    journal = list(Workspace(tmp_path).read_journal())
    requests = [line for line in journal if line.get("event") == "request"]
    assert len(requests) == len(server.asked)
    assert all(line["cost"] == pytest.approx(0.2) for line in requests)
    (total,) = [line for line in journal if "skill" in line]
    assert total["cost"] == pytest.approx(0.2 * len(requests))
    assert total["kept"] == 20


def test_the_limit_on_cost_holds_over_several_starts(server, tmp_path):
    prices = {"price_per_million_output": 1000.0, "max_cost": 0.5}
    settings = config(server, backend=prices, per_skill=200, max_new_tokens=100)
    for _ in range(3):
        with pytest.raises(BackendError, match="max_cost"):
            write(settings, tmp_path)
    assert 0 < len(server.asked) * 0.05 <= 0.5


def test_impossible_settings_are_refused_before_anything_is_asked(server, tmp_path):
    with pytest.raises(ConfigError, match=r"prompts\.examples"):
        write(config(server, examples=4), tmp_path)
    with pytest.raises(ConfigError, match=r"prompts\.lexicon"):
        write(config(server, lexicon="toybox"), tmp_path)
    assert server.asked == [] and not any(tmp_path.iterdir())


def test_importing_the_stage_loads_no_model_library():
    code = "import selma.prompts.writing, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "openai"} & set(loaded)
    assert LocalLLM().model == "smollm2"
