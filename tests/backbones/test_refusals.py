"""Servers that refuse: their reason in any body's form, and parameters that they do not take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image
from scripted import Act, Script, completion, says, send, serving

from selma.backbones.judges.served import ServedVqaJudge
from selma.backbones.language.loading import model_identity
from selma.backbones.language.model import Reply, Sampling
from selma.backbones.language.served import ServedModel
from selma.backbones.refusals import reason, refused_parameter
from selma.config.networks import ServedLLM
from selma.config.scores import ServedJudge
from selma.errors import BackendError


def told(status: int, body: Any, kind: str = "application/json") -> Act:
    """A server's answer with this body: JSON, or text as it is."""
    data = body if isinstance(body, str) else json.dumps(body)
    return lambda handler, _: send(handler, status, data.encode(), headers={"Content-Type": kind})


def model(
    script: Script, notes: list[dict[str, Any]] | None = None, **settings: Any
) -> ServedModel:
    backend = ServedLLM(
        model="m",
        base_url=script.url,
        **{"key_variable": "SELMA_TEST_KEY", "max_attempts": 2, "timeout_s": 5.0} | settings,
    )
    journal = [] if notes is None else notes
    return ServedModel(backend, note=lambda **facts: journal.append(facts), first_wait_s=0.01)


def ask(served: ServedModel, **sampling: Any) -> Reply:
    how = {"max_new_tokens": 50, "temperature": 0.7} | sampling
    return served.complete(["a wish"], seeds=[1], sampling=Sampling(**how))[0]


NO = "the beginning of the end"
BODIES: dict[str, tuple[Any, str]] = {
    "OpenAI": ({"error": {"message": NO, "type": "x", "param": None, "code": None}}, NO),
    "FastAPI, a string": ({"detail": NO}, NO),
    "FastAPI, a list": (
        {"detail": [{"loc": ["body", "user"], "msg": NO, "type": "value_error.extra"}]},
        f"body.user: {NO}",
    ),
    "Mistral": (
        {
            "object": "error",
            "message": {"detail": [{"type": "x", "loc": ["body", "user"], "msg": NO}]},
            "type": "invalid_request_error",
        },
        f"body.user: {NO}",
    ),
    "vLLM": ({"object": "error", "message": NO, "type": "BadRequestError", "code": 400}, NO),
    "TGI": ({"error": NO, "error_type": "validation"}, NO),
    "LM Studio": ({"error": NO}, NO),
    "Anthropic": ({"type": "error", "error": {"type": "invalid_request_error", "message": NO}}, NO),
    "Google": ([{"error": {"code": 400, "message": NO, "status": "INVALID_ARGUMENT"}}], NO),
    "a server behind it": (
        {"error": {"message": "Provider error", "metadata": {"raw": json.dumps({"detail": NO})}}},
        f"Provider error; {NO}",
    ),
    "problem details": ({"type": "about:blank", "title": NO, "status": 400}, NO),
    "errors": ({"errors": [{"message": NO}, {"message": "and more"}]}, f"{NO}; and more"),
    "a string": (f'"{NO}"', NO),
    "text": (f"{NO}\n", NO),
    "HTML": (f"<html><head><title>Oh</title></head><body><h1>{NO} &amp; so on</h1></body></html>",
             f"Oh {NO} & so on"),
    "other JSON": ({"status": 400, "ok": False}, '{"status": 400, "ok": false}'),
    "colours of a terminal": (f"\x1b[31m{NO}\x1b[0m", f"[31m{NO} [0m"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES.keys())
def test_the_servers_reason_is_shown_and_noted(body, words):
    notes: list[dict[str, Any]] = []
    with serving(Script(told(400, body))) as script, pytest.raises(BackendError) as caught:
        ask(model(script, notes))
    assert f"(status 400): {words}" in str(caught.value)
    assert words in notes[0]["problem"]


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES.keys())
def test_the_reason_of_a_failing_server_is_shown_and_noted(body, words):
    notes: list[dict[str, Any]] = []
    with serving(Script(told(503, body))) as script, pytest.raises(BackendError) as caught:
        ask(model(script, notes))
    assert f"status 503: {words}" in str(caught.value) and "own log" in str(caught.value)
    assert [words in note["problem"] for note in notes] == [True, True]


def test_a_long_reason_is_cut():
    assert reason("word " * 1000) == ("word " * 60)[:299] + "…"
    assert reason(json.dumps({"detail": "w" * 300})) == "w" * 300
    assert reason("") == ""


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "Check the key in SELMA_TEST_KEY"),
        (403, "Check the key in SELMA_TEST_KEY"),
        (404, "prompts.backend.model and prompts.backend.base_url"),
        (400, "prompts.backend.omit"),
        (422, "prompts.backend.omit"),
        (402, "account"),
    ],
)
def test_advice_fits_the_status(status, hint, monkeypatch):
    monkeypatch.setenv("SELMA_TEST_KEY", "sk-planted")
    with (
        serving(Script(told(status, {"detail": "no"}))) as script,
        pytest.raises(BackendError) as caught,
    ):
        ask(model(script))
    assert hint in str(caught.value)
    assert ("key" in str(caught.value)) == (status in (401, 402, 403))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Model unloaded or crashed", "crashed. Load the model again"),
        ("No models loaded. Please load one!", "one! Load the model again"),
        ("The model has crashed (Exit code: 6).", "6). Load the model again"),
        ("CUDA out of memory: exceeds the maximum", "maximum. Load the model again"),
        ("Failed to load model. Error: insufficient memory", "memory. Load the model again"),
        ("The model `m` does not exist", "exist. Check prompts.backend.model"),
        ("Is there an unknown model?", "model? Check prompts.backend.model"),
        ("max_tokens is too large", "large. Change the setting"),
        ("extra fields not permitted", "permitted. A parameter"),
    ],
)
def test_advice_fits_what_the_server_says(words, hint):
    with (
        serving(Script(told(400, {"error": words}))) as script,
        pytest.raises(BackendError) as caught,
    ):
        ask(model(script))
    assert hint in str(caught.value)
    assert ("omit" in str(caught.value)) == ("extra" in words)


def test_a_key_that_is_not_set_is_asked_for(monkeypatch):
    monkeypatch.delenv("SELMA_TEST_KEY", raising=False)
    no_key = pytest.raises(BackendError, match="No key is set in SELMA_TEST_KEY")
    with serving(Script(told(401, {"detail": "no"}))) as script, no_key:
        ask(model(script))


def test_no_part_of_the_key_is_in_a_reason_that_is_cut(monkeypatch):
    key = "sk-planted-0123456789"
    monkeypatch.setenv("SELMA_TEST_KEY", key)
    body = {"detail": "x" * 285 + key}
    with serving(Script(told(400, body))) as script, pytest.raises(BackendError) as caught:
        ask(model(script))
    assert "sk-planted" not in str(caught.value)


def unsupported(name: str) -> dict[str, tuple[int, Any]]:
    """Refusals of one parameter in the forms of many servers."""
    words = f"Unsupported parameter: '{name}' is not supported with this model."
    return {
        "OpenAI": (400, {"error": {"message": words, "type": "x", "param": name, "code": "y"}}),
        "no param": (400, {"error": {"message": words}}),
        "FastAPI": (
            422,
            {"detail": [{"loc": ["body", name], "msg": "extra fields not permitted"}]},
        ),
        "Mistral": (
            422,
            {
                "object": "error",
                "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", name]}]},
            },
        ),
        "TGI": (422, {"error": f"unknown field `{name}`", "error_type": "validation"}),
        "LM Studio": (400, {"error": f"Unrecognized key(s) in object: '{name}'"}),
        "Google": (
            400,
            [{"error": {"message": f'Invalid JSON. Unknown name "{name}": Cannot find field.'}}],
        ),
        "detail": (400, {"detail": words}),
        "text": (400, f"Bad request: unknown field {name}"),
        "HTML": (400, f"<html><body><p>unknown field {name}</p></body></html>"),
    }


def refuses(name: str, status: int, body: Any) -> Act:
    return lambda handler, asked: (told(status, body) if name in asked else says("4. a dog"))(
        handler, asked
    )


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed"])
@pytest.mark.parametrize("form", unsupported("x"))
def test_what_a_server_does_not_take_is_left_out_from_then_on(name, form, capsys):
    notes: list[dict[str, Any]] = []
    with serving(Script(refuses(name, *unsupported(name)[form]))) as script:
        served = model(script, notes)
        first, second = ask(served, top_p=0.9), ask(served, top_p=0.9)
        again = ask(model(script), top_p=0.9)  # the same process has learnt it
    assert [reply.text for reply in (first, second, again)] == ["4. a dog"] * 3
    assert [name in asked for asked in script.asked] == [True, False, False, False]
    others = {"temperature", "top_p", "seed", "max_tokens"} - {name}
    assert all(others <= set(asked) for asked in script.asked)
    assert first.left_out == second.left_out == again.left_out == (name,)
    assert [n["parameter"] for n in notes if n["event"] == "left out"] == [name]
    said = capsys.readouterr().err
    assert said.count("does not take") == 1 and f"does not take {name}" in said
    assert "prompts.backend.omit" in said


@pytest.mark.parametrize("form", unsupported("x"))
@pytest.mark.parametrize("hint", ["", " Use 'max_completion_tokens' instead."])
def test_the_limit_on_tokens_has_another_name(form, hint, capsys):
    status, body = unsupported("max_tokens")[form]
    text = json.dumps(body).replace("with this model.", f"with this model.{hint}")
    with serving(Script(refuses("max_tokens", status, json.loads(text)))) as script:
        reply = ask(model(script))
    assert reply.text == "4. a dog" and reply.left_out == ()
    assert [asked.get("max_tokens") for asked in script.asked] == [50, None]
    assert script.asked[1]["max_completion_tokens"] == 50
    assert capsys.readouterr().err == ""


def test_a_limit_on_tokens_under_no_name_is_left_out_and_said(capsys):
    def act(handler: Any, asked: dict[str, Any]) -> None:
        named = {"max_tokens", "max_completion_tokens"} & set(asked)
        body = {"error": f"unknown field {''.join(named)}"}
        (told(400, body) if named else says("4. a dog"))(handler, asked)

    with serving(Script(act)) as script:
        assert ask(model(script)).left_out == ("max_completion_tokens",)
        assert "only the server bounds the length" in capsys.readouterr().err
        script.asked.clear()
    refused = pytest.raises(BackendError, match="max_completion_tokens")
    with serving(Script(act)) as script, refused:
        ask(model(script, max_cost=1.0))  # which no limit on tokens would bound


def test_of_two_that_exclude_each_other_one_is_left_out():
    words = (
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    )

    def act(handler: Any, asked: dict[str, Any]) -> None:
        both = {"temperature", "top_p"} <= set(asked)
        (told(400, {"error": {"message": words}}) if both else says("x"))(handler, asked)

    with serving(Script(act)) as script:
        assert ask(model(script), top_p=0.9).left_out == ("top_p",)
        assert script.asked[-1]["temperature"] == 0.7


def test_one_after_another_is_left_out():
    def act(handler: Any, asked: dict[str, Any]) -> None:
        if asked.get("temperature", 1) != 1:
            words = "'temperature' does not support 0.7 with this model. Only the default (1) is."
            told(400, {"error": {"message": words, "param": "temperature"}})(handler, asked)
        elif "seed" in asked:
            told(422, {"detail": [{"loc": ["body", "seed"], "msg": "extra"}]})(handler, asked)
        elif "max_tokens" in asked:
            told(400, {"detail": "Use 'max_completion_tokens' instead."})(handler, asked)
        else:
            says("x")(handler, asked)

    with serving(Script(act)) as script:
        assert ask(model(script)).left_out == ("seed", "temperature")
        assert set(script.asked[-1]) == {"model", "messages", "max_completion_tokens"}


VALUES = {
    "context": "This model's maximum context length is 2048 tokens. However, you requested 2600 "
    "tokens (552 in the messages, 2048 in the completion).",
    "max_tokens too large": "max_tokens is too large: 5000. This model supports at most 4096",
    "max_tokens of TGI": "`inputs` tokens + `max_new_tokens` must be <= 4096",
    "temperature too large": "temperature must be between 0 and 2",
    "another matter": "Model unloaded or crashed",
    "an unknown model": "The model `m` does not exist",
    "words": "Please stop sending requests",
}


@pytest.mark.parametrize("words", VALUES.values(), ids=VALUES.keys())
def test_a_value_out_of_range_is_no_parameter_to_leave_out(words):
    sent = {"temperature", "top_p", "seed", "stop", "max_tokens"}
    assert refused_parameter(json.dumps({"error": {"message": words}}), sent) is None


def test_top_p_of_one_is_not_sent():
    with serving(Script(says("x"))) as script:
        ask(model(script))
        ask(model(script), top_p=0.5)
    assert [asked.get("top_p") for asked in script.asked] == [None, 0.5]


def test_settings_omit_from_the_start(capsys):
    with serving(Script(says("x"))) as script:
        omit = ("temperature", "seed", "max_tokens")
        reply = ask(model(script, omit=omit))
        assert set(script.asked[0]) == {"model", "messages"}
        assert reply.left_out == () and capsys.readouterr().err == ""
        plain = model_identity(ServedLLM(model="m", base_url=script.url))
        omitting = model_identity(ServedLLM(model="m", base_url=script.url, omit=omit))
    assert "omit" not in plain and omitting != plain
    with pytest.raises(ValueError, match="max_tokens"):
        ServedLLM(model="m", omit=("max_tokens",), max_cost=1.0)


@pytest.mark.parametrize("name", ["temperature", "seed", "logprobs"])
def test_a_judge_leaves_out_what_is_not_taken(name):
    with serving(Script(refuses(name, *unsupported(name)["Mistral"]))) as script:
        judge = ServedVqaJudge(ServedJudge(model="m", base_url=script.url), first_wait_s=0.01)
        (answers,) = judge.answer([Image.new("RGB", (4, 4))], [["Is it?", "Is it red?"]])
    assert answers == [("4. a dog", None)] * 2
    assert name not in script.asked[-1]


def test_a_judge_that_thinks_is_read_without_its_thought():
    with serving(Script(says("<think>Yes? It is blue.</think>\nno"))) as script:
        judge = ServedVqaJudge(ServedJudge(model="m", base_url=script.url), first_wait_s=0.01)
        assert judge.answer([Image.new("RGB", (4, 4))], [["Is it?"]]) == [[("no", None)]]


def message(**fields: Any) -> Act:
    body = completion("x", finish=fields.pop("finish", "stop"))
    body["choices"][0]["message"] = {"role": "assistant"} | fields
    return told(200, body)


SILENCES: dict[str, tuple[Act, str, str]] = {
    "empty": (message(content=""), "", ""),
    "null": (message(content=None), "", "null"),
    "no content": (message(), "", "null"),
    "reasoning": (message(content="", reasoning="1. Dogs"), "", "thought"),
    "reasoning_content": (message(content=None, reasoning_content="1. Dogs"), "", "thought"),
    "refusal": (message(content=None, refusal="I cannot"), "", "refusal"),
    "filter": (message(content="", finish="content_filter"), "", "filtered"),
    "tool": (message(content=None, tool_calls=[{"id": "1"}]), "", "tool_call"),
    "parts": (
        message(content=[{"type": "text", "text": "4. a "}, {"type": "text", "text": "dog"}]),
        "4. a dog",
        "",
    ),
    "a thought in parts": (
        message(
            content=[
                {"type": "thinking", "thinking": [{"type": "text", "text": "Dogs?"}]},
                {"type": "text", "text": "4. a dog"},
            ]
        ),
        "4. a dog",
        "",
    ),
    "only a thought in parts": (
        message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Do"}]}]),
        "",
        "thought",
    ),
}


@pytest.mark.parametrize(("act", "text", "silence"), SILENCES.values(), ids=SILENCES.keys())
def test_a_reply_says_why_it_has_no_text(act, text, silence):
    with serving(Script(act)) as script:
        reply = ask(model(script))
    assert (reply.text, reply.silence) == (text, silence)
    assert Reply(**json.loads(json.dumps(reply.record()))) == reply


def test_a_page_in_place_of_a_reply_is_named():
    page = "<!doctype html><html><body>Open WebUI</body></html>"
    named = pytest.raises(BackendError, match="no chat completion: Open WebUI")
    with serving(Script(told(200, page, "text/html"))) as script, named:
        ask(model(script))


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": []}]},
        {"choices": {"message": {"content": "a dog"}}},
    ],
)
def test_an_answer_of_another_shape_is_told_of_in_our_words(answer):
    named = pytest.raises(BackendError, match="shape of a chat completion")
    with serving(Script(told(200, answer))) as script, named as caught:
        ask(model(script))
    assert "Error" not in str(caught.value) and "object" not in str(caught.value)


@pytest.mark.parametrize("tokens", ['"many"', "-5", "1e999", "[1]", str(10**30), "true"])
def test_a_reply_is_kept_whatever_its_tokens_are_said_to_be(tokens):
    usage = f'{{"prompt_tokens": {tokens}, "completion_tokens": 3}}'
    answer = f'{{"choices": [{{"message": {{"content": "a dog"}}}}], "usage": {usage}}}'
    with serving(Script(told(200, answer, "application/json"))) as script:
        reply = ask(model(script))
    assert reply.text == "a dog" and reply.reply_tokens == 3
    assert reply.prompt_tokens == (1 if tokens == "true" else 0)
