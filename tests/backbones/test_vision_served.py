"""A judge behind a real HTTP server: what it is sent, what is made of replies, what it survives."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import pytest
from PIL import Image
from scripted import Act, Script, completion, fails, says, send, serving

from selma.backbones.judges.loading import load_judge
from selma.backbones.judges.served import ServedVqaJudge
from selma.backbones.judges.wordings import MultipleChoice
from selma.config.scores import ServedJudge
from selma.errors import BackendError, ConfigError, ModelError

RED, BLUE = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")


def settings(script: Script, **different: Any) -> ServedJudge:
    how = {"model": "m", "key_variable": "SELMA_TEST_KEY", "timeout_s": 5.0, "max_attempts": 3}
    return ServedJudge(base_url=script.url, **how | different)


def judge(script: Script, **different: Any) -> ServedVqaJudge:
    return ServedVqaJudge(settings(script, **different), first_wait_s=0.01)


def shown(asked: dict[str, Any]) -> Image.Image:
    """The picture in a request."""
    address = asked["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def wish(asked: dict[str, Any]) -> str:
    return str(asked["messages"][0]["content"][1]["text"])


def sees_red(handler: Any, asked: dict[str, Any]) -> None:
    """Answers by the picture that really came, with probabilities."""
    red = shown(asked).getpixel((0, 0)) == (255, 0, 0)
    likely = [("Yes", 0.6), ("yes", 0.2), ("No", 0.1), ("Maybe", 0.1)]
    if not red:
        likely = [("No", 0.75), ("Yes", 0.25)]
    first = likely[0][0]
    body = completion(f"{first}.")
    if asked.get("logprobs"):
        tokens = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in likely]
        start = {"token": "\n", "logprob": 0.0, "bytes": None, "top_logprobs": []}
        one = tokens[0] | {"top_logprobs": tokens}
        body["choices"][0]["logprobs"] = {"content": [start, one], "refusal": None}
    send(handler, 200, json.dumps(body).encode())


def no_logprobs(handler: Any, asked: dict[str, Any]) -> None:
    refuse: Act = fails(400, message="'logprobs' is not supported with this model.")
    (refuse if "logprobs" in asked else sees_red)(handler, asked)


def test_each_question_is_asked_with_its_image() -> None:
    with serving(Script(sees_red)) as script:
        one = judge(script)
        found = one.answer([RED, BLUE], [["Is it red?", "Is it warm?"], ["Is it red?"]])
    assert found == [[("Yes.", round(0.8 / 0.9, 4))] * 2, [("No.", 0.25)]]
    assert {wish(asked) for asked in script.asked} == {
        "Is it red? Please answer yes or no.",
        "Is it warm? Please answer yes or no.",
    }
    assert all(asked["temperature"] == 0 and asked["max_tokens"] == 30 for asked in script.asked)


def test_a_server_without_probabilities_is_asked_without() -> None:
    with serving(Script(no_logprobs)) as script:
        found = judge(script, parallel=1).answer([RED], [["Is it red?", "Is it?"]])
    assert found == [[("Yes.", None)] * 2]
    assert ["logprobs" in asked for asked in script.asked] == [True, False, False]
    with serving(Script(sees_red)) as script:
        assert judge(script, logprobs=False).answer([RED], [["Is it?"]]) == [[("Yes.", None)]]


def test_other_words_give_no_probability() -> None:
    with serving(Script(says("Perhaps."))) as script:
        assert judge(script).answer([RED], [["Is it?"]]) == [[("Perhaps.", None)]]


def test_choices_are_put_as_worded() -> None:
    with serving(Script(says(" red "))) as script:
        question = MultipleChoice("What colour is it?", ("red", "blue"))
        assert judge(script).choose([RED], [[question]], words="selma") == [["red"]]
    assert [wish(a) for a in script.asked] == [
        "Question: What colour is it? Options: red, blue Answer:"
    ]
    assert "logprobs" not in script.asked[0]


def test_what_may_pass_is_tried_again_and_what_cannot_is_not() -> None:
    with serving(Script(fails(503), fails(429), sees_red)) as script:
        assert judge(script).answer([BLUE], [["Is it red?"]]) == [[("No.", 0.25)]]
        assert len(script.asked) == 3
    with serving(Script(fails(401, message="Incorrect API key"))) as script:
        with pytest.raises(BackendError, match="for good"):
            judge(script).answer([BLUE], [["Is it red?"]])
        assert len(script.asked) == 1


def test_a_limit_on_cost_names_the_judges_own_setting() -> None:
    with serving(Script(sees_red)) as script:
        one = judge(script, max_cost=0.001, price_per_million_input=1.0)
        with pytest.raises(BackendError, match=r"scores\.judge\.max_cost allows 0\.001"):
            one.answer([RED], [["Is it?"]])
        assert script.asked == []


def test_openais_own_server_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELMA_TEST_KEY", raising=False)
    one = ServedJudge(model="m", key_variable="SELMA_TEST_KEY")
    with pytest.raises(ConfigError, match=r"SELMA_TEST_KEY.*scores\.judge\.base_url"):
        load_judge(one)
    monkeypatch.setenv("SELMA_TEST_KEY", "secret")
    assert load_judge(one).name == "m"


def test_the_fingerprint_knows_what_can_be_known() -> None:
    script = Script()
    script.url = "http://user:key@localhost:1/v1?key=x"
    mine = judge(script).fingerprint
    for same in ({"timeout_s": 9.0}, {"parallel": 1}, {"max_cost": 3.0}, {"key_variable": "B"}):
        assert judge(script, **same).fingerprint == mine
    others = ({"model": "n"}, {"prompt": "bare"}, {"temperature": 0.5}, {"max_new_tokens": 9},
              {"logprobs": False})  # fmt: skip
    found = {judge(script, **other).fingerprint for other in others}
    assert len(found | {mine}) == 6
    script.url = "http://localhost:1/v1"
    assert judge(script).fingerprint == mine
    script.url = "http://elsewhere:1/v1"
    assert judge(script).fingerprint != mine


def tells(told: Any) -> Act:
    """Says yes, with this for a log-probability."""

    def act(handler: Any, asked: dict[str, Any]) -> None:
        body = completion("Yes")
        tokens = [{"token": "Yes", "logprob": told, "bytes": None},
                  {"token": "No", "logprob": -5.0, "bytes": None}]  # fmt: skip
        body["choices"][0]["logprobs"] = {"content": [tokens[0] | {"top_logprobs": tokens}]}
        send(handler, 200, json.dumps(body).encode())

    return act


@pytest.mark.parametrize("told", [1e9, 3.0, math.nan, "likely"])
def test_an_impossible_probability_of_yes_is_the_servers_mistake(told: Any) -> None:
    with serving(Script(tells(told))) as script, pytest.raises(ModelError, match="logprobs to fal"):
        judge(script).answer([RED], [["Is it?"]])


def test_a_probability_of_yes_that_is_not_told_is_none() -> None:
    with serving(Script(tells(None))) as script:
        assert judge(script).answer([RED], [["Is it?"]]) == [[("Yes", None)]]
    with serving(Script(tells(1e-6))) as script:
        assert judge(script).answer([RED], [["Is it?"]]) == [[("Yes", 0.9933)]]
