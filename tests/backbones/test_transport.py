"""Replies of any size, redirects and waits of servers, and what is private in their addresses."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack
from scripted import Act, Script, completion, fails, hangs_up, says, send, sends, serving

from selma.backbones.exchange import _LONGEST_WAIT_S, _seconds
from selma.backbones.language.model import Sampling
from selma.backbones.language.served import ServedModel
from selma.backbones.served import Requests
from selma.backbones.server_address import Address
from selma.backbones.transport import MOST_BYTES
from selma.config.networks import ServedLLM
from selma.errors import BackendError, ConfigError
from selma.texts import without_secrets

ROW = "servers: hostile replies to a client"
MARK, QUERY = "pw-4711-private", "sk-0815-private"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,127.0.0.2,localhost")
    monkeypatch.setenv("SELMA_TEST_KEY", "sk-of-the-environment")


def model(url: str, notes: list[dict[str, Any]] | None = None, **settings: Any) -> ServedModel:
    given = {"base_url": url, "max_attempts": 2, "timeout_s": 10.0} | settings
    backend = ServedLLM(model="m", key_variable="SELMA_TEST_KEY", **given)
    journal = [] if notes is None else notes
    return ServedModel(backend, note=lambda **facts: journal.append(facts), first_wait_s=0.01)


def ask(served: ServedModel) -> str:
    return served.complete(["wish"], seeds=[0], sampling=Sampling(50))[0].text


def packed(body: bytes, how: Callable[[bytes], bytes], name: str) -> Act:
    return encoded(how(body), name)


def encoded(data: bytes, name: str) -> Act:
    headers = {"Content-Type": "application/json", "Content-Encoding": name}
    return lambda handler, _: send(handler, 200, data, headers=headers)


@cache
def bomb(megabytes: int) -> bytes:
    """A reply in OpenAI's form that is this large, packed."""
    head, tail = json.dumps(completion("X")).encode().split(b"X")
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packing.compress(head)]
    parts += [packing.compress(b"a" * (1 << 20)) for _ in range(megabytes)]
    return b"".join([*parts, packing.compress(tail), packing.flush()])


def flood(sent: list[int]) -> Act:
    """Bytes as fast as they are taken, as long as they are."""

    def act(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        with suppress(OSError):
            while sum(sent) < 40 * MOST_BYTES:
                handler.wfile.write(b" " * (1 << 20))
                sent.append(1 << 20)

    return act


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10


LARGE: dict[str, Callable[[], Act]] = {
    "plain": lambda: sends(b" " * (MOST_BYTES + 1)),
    "packed": lambda: encoded(bomb(400), "gzip"),
    "packed, called otherwise": lambda: encoded(bomb(400), "deflate"),
    "packed twice": lambda: encoded(gzip.compress(bomb(400)), "gzip"),
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
def test_a_reply_is_read_up_to_a_limit(large: Callable[[], Act], attack: Attack) -> None:
    with attack(ROW), serving(Script(large(), says("1. a dog"))) as script:
        assert ask(model(script.url)) == "1. a dog"  # what was before needs memory, too
        before = peak()
        script.asked.clear()
        assert ask(model(script.url)) == "1. a dog"
        assert peak() - before < 8 * MOST_BYTES


def test_a_server_that_never_ends_is_left() -> None:
    sent: list[int] = []
    with (
        serving(Script(flood(sent))) as script,
        pytest.raises(BackendError, match="more than 8 MiB"),
    ):
        ask(model(script.url, max_attempts=1))
    assert sum(sent) < 4 * MOST_BYTES


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, "X-GZip"),
        (zlib.compress, "deflate"),
        (lambda body: zlib.compress(body)[2:-4], "deflate"),
        (bytes, "identity"),
    ],
    ids=["gzip", "x-gzip", "zlib", "deflate", "identity"],
)
def test_a_packed_reply_of_a_fair_size_is_read(how: Callable[[bytes], bytes], name: str) -> None:
    body = json.dumps(completion("1. a dog")).encode()
    with serving(Script(packed(body, how, name))) as script:
        assert ask(model(script.url)) == "1. a dog"


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "\x1b[2J"])
def test_what_nobody_asked_to_be_packed_so_is_not_read(name: str) -> None:
    with (
        serving(Script(packed(b"{}", bytes, name))) as script,
        pytest.raises(BackendError, match="which was not asked for") as refused,
    ):
        ask(model(script.url))
    assert "\x1b" not in str(refused.value)


def redirects(status: int, to: str) -> Act:
    return lambda handler, _: send(handler, status, b"", headers={"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_is_refused_and_named(status: int, attack: Attack) -> None:
    attack.injects(ROW, 3)
    with serving(Script(says("stolen"))) as other, serving(Script()) as script:
        for to in (
            other.url,
            other.url.replace("127.0.0.1", "127.0.0.2"),
            f"//127.0.0.2{'/x' * 9}",
        ):
            script.acts = [redirects(status, to)]
            with pytest.raises(
                BackendError, match=r"redirects to .*prompts\.backend\.base_url"
            ) as e:
                ask(model(script.url))
            assert to.removeprefix("http:") in str(e.value)
        assert not other.asked
    attack.held(ROW, 3)


def test_a_redirect_within_a_server_is_followed_where_the_request_stays_one() -> None:
    with serving(Script(redirects(307, "/v2/chat/completions"), says("1. a dog"))) as script:
        assert ask(model(script.url)) == "1. a dog"
        assert script.asked[0] == script.asked[1]
    with serving(Script(redirects(302, "/v2"))) as script, pytest.raises(BackendError, match="/v2"):
        ask(model(script.url))
    with serving(Script(redirects(307, "/v1/chat/completions"))) as script:
        with pytest.raises(BackendError, match="redirect"):
            ask(model(script.url))
        assert len(script.asked) < 10


WAITS = [
    "1e400", "inf", "-inf", "nan", "-1", "", " ", "0x10", "9" * 5000, "1_0",
    f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359",
    "Sat, 01 Jan 0001 00:00:00 +2359", "Mon, 99 Foo 2020 99:99:99 GMT", "Mon, 01 Jan 2020",
    "\x00", "Mon, 01 Jan 2020 00:00:00 " + "+" * 500, "(" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("wait", WAITS, ids=[w[:20].encode().hex() for w in WAITS])
def test_no_wait_is_longer_than_ours_whatever_the_header_says(wait: str, attack: Attack) -> None:
    with attack(ROW), serving(Script(says(""))) as script:
        requests = Requests(ServedLLM(model="m", base_url=script.url), setting="s", parallel=1)
        assert 0 <= requests._wait(1, _seconds(wait)) <= _LONGEST_WAIT_S


def test_a_refusal_that_cannot_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    header = f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"
    with serving(Script(fails(429, Retry_After=header), says("1. a dog"))) as script:
        assert ask(model(script.url)) == "1. a dog"
    depth = b'{"error": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    odd: Act = lambda handler, _: send(handler, 500, depth)  # noqa: E731
    with serving(Script(odd, says("1. a dog"))) as script:
        assert ask(model(script.url)) == "1. a dog"


def test_a_page_that_opens_and_never_closes_takes_no_time() -> None:
    page = b"<html>" + b"<script" * 20_000
    started = time.process_time()
    with (
        serving(Script(lambda handler, _: send(handler, 400, page))) as script,
        pytest.raises(BackendError),
    ):
        ask(model(script.url))
    assert time.process_time() - started < 3


def marked(url: str) -> str:
    return url.replace("://", f"://me:{MARK}@") + f"?api_key={QUERY}&version=2#{QUERY}"


def echoes(status: int) -> Act:
    """A server that says what it was sent, headers and address."""

    def act(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        said = f"{handler.path} {handler.headers} {handler.requestline} {MARK} me:{MARK}"
        body = json.dumps({"error": {"message": said}}).encode()
        send(handler, status, body, headers={"Retry-After": "0"})

    return act


FAILURES: dict[str, Act] = {
    **{f"echo of {status}": echoes(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)},
    "no money": fails(429, code="insufficient_quota", message=MARK),
    "no JSON": sends(b"{"),
    "JSON of another kind": sends(json.dumps({"error": QUERY}).encode()),
    "gone": hangs_up,
    "too short": sends(b"{}", length=100),
    "large": sends(b" " * (MOST_BYTES + 1)),
    "elsewhere": redirects(307, f"http://me:{MARK}@127.0.0.2:9/v1?api_key={QUERY}"),
    "packed": packed(b"{}", bytes, MARK),
}


@pytest.mark.parametrize("act", FAILURES.values(), ids=FAILURES)
def test_no_failure_shows_what_is_private_in_the_address(
    act: Act, capfd: pytest.CaptureFixture[str], attack: Attack
) -> None:
    attack.injects("secrets: an address whose server fails")
    notes: list[dict[str, Any]] = []
    with serving(Script(act)) as script, pytest.raises(BackendError) as failed:
        ask(model(marked(script.url), notes))
    shown = [str(failed.value), repr(failed.value), json.dumps(notes), *capfd.readouterr()]
    basic = base64.b64encode(f"me:{MARK}".encode()).decode()
    for text in shown:
        assert not any(secret in text for secret in (MARK, QUERY, basic, "sk-of-the-environment"))
    attack.held("secrets: an address whose server fails")


KEY = "aB3dE5gH-PART-7jK9mN1p"


@pytest.mark.parametrize("said", ["{}", "your key {}... is wrong", "escaped"])
@pytest.mark.parametrize("part", [KEY[:8], KEY[3:14], KEY[-9:], MARK[:11]])
@pytest.mark.parametrize("status", [200, 401, 429])
def test_a_part_of_a_secret_is_hidden_as_well(
    said: str, part: str, status: int, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    monkeypatch.setenv("SELMA_TEST_KEY", KEY)
    escaped = "".join(f"\\u{ord(character):04x}" for character in part)
    text = escaped if said == "escaped" else said.format(part)
    body = f'{{"error": {{"message": "{text}"}}}}'
    act: Act = lambda handler, _: send(handler, status, body.encode())  # noqa: E731
    with (
        attack("secrets: an address whose server fails"),
        serving(Script(act)) as script,
        pytest.raises(BackendError) as failed,
    ):
        ask(model(marked(script.url)))
    shown = str(failed.value)
    assert part not in shown and "<key>" in shown


def test_where_a_redirect_leads_shows_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELMA_TEST_KEY", KEY)
    act = redirects(307, f"http://127.0.0.2:9/{KEY[:12]}/v1")
    with serving(Script(act)) as script, pytest.raises(BackendError, match="<key>/v1") as failed:
        ask(model(script.url))
    assert KEY[:12] not in str(failed.value)


@pytest.mark.parametrize(
    ("secret", "text", "hidden"),
    [
        ("EMPTY", "it is EMPTY, not EMPT", "it is <key>, not EMPT"),
        ("sk-no-key-required", "a model is required", "a model is required"),
        ("sk-no-key-required", "o-key-required!", "<key>!"),
        ("aB3dE5gH7j", "B3dE5gH7 and 3dE5gH7", "<key> and 3dE5gH7"),
        ("aB3dE5gH7j", "in capitals B3DE5GH7", "in capitals <key>"),
    ],
)
def test_parts_of_keys_that_are_words_may_be_said(secret: str, text: str, hidden: str) -> None:
    assert without_secrets(text, [secret]) == hidden


@pytest.mark.parametrize("secret", [MARK, QUERY, "sk-of-the-environment", KEY[2:12]])
def test_a_reply_that_repeats_a_secret_is_not_kept(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret in KEY:
        monkeypatch.setenv("SELMA_TEST_KEY", KEY)
    with serving(Script(says(f"1. a sign that says {secret}"), says("1. a dog"))) as script:
        assert ask(model(marked(script.url))) == "1. a dog"
    with (
        serving(Script(says(f"1. a sign that says {secret}"))) as script,
        pytest.raises(BackendError, match="repeats the key") as failed,
    ):
        ask(model(marked(script.url)))
    assert secret not in str(failed.value)


def test_a_key_that_is_a_plain_word_may_be_in_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELMA_TEST_KEY", "dog")
    with serving(Script(says("1. a dog"))) as script:
        assert ask(model(script.url)) == "1. a dog"


def test_a_login_and_a_query_reach_the_server_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    paths: list[str] = []

    def act(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        paths.append(handler.path)
        says("1. a dog")(handler, asked)

    with serving(Script(act)) as script:
        assert ask(model(marked(script.url))) == "1. a dog"
    assert paths == [f"/v1/chat/completions?api_key={QUERY}&version=2"]
    assert script.keys == ["Basic " + base64.b64encode(f"me:{MARK}".encode()).decode()]
    assert MARK not in caplog.text and QUERY not in caplog.text
    with serving(Script(act)) as script:
        ask(model(script.url))
    assert script.keys == ["Bearer sk-of-the-environment"]


def test_the_librarys_own_variable_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Script(echoes(400))) as script:
        monkeypatch.setenv("OPENAI_BASE_URL", marked(script.url))
        with pytest.raises(BackendError) as failed:
            ask(model(script.url, base_url=None))
        assert script.asked
    assert MARK not in str(failed.value) and QUERY not in str(failed.value)


@pytest.mark.parametrize(
    "address",
    [
        *(f"http://me:{MARK}@[host", f"http://me:{MARK}/x@host", f"http://h:99999/{MARK}"),
        *("", "http://", f"localhost:8000/{MARK}", f"me:{MARK}@127.0.0.1:9/v1", "http://a b/v1"),
        *("ftp://h/v1", "http:///v1", "http://:80/v1"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(ConfigError, match="must be a server's address") as refused:
        model(address)
    assert MARK not in str(refused.value)


def test_the_parts_of_an_address() -> None:
    address = Address.of("https://a%40b:p%3Aw@h:1/v1?k=v1v")
    assert address.bare == "https://h:1/v1"
    assert (address.login, address.query) == ("a@b:p:w", "k=v1v")
    assert {"p:w", "v1v"} <= set(address.secrets)
    assert Address.of("http://h/v1").secrets == () and Address.of(None).bare is None


def test_proxies_of_the_environment_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Script(says("1. a dog"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert ask(model("http://nowhere.invalid/v1")) == "1. a dog"
    assert os.environ["http_proxy"] and threading.active_count()


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://x:99999999/v1", "ftp://user:hidden@x/v1", "http://a b:x/v1"]
)
def test_check_finds_what_is_no_address_without_showing_it(address: str, tmp_path: Path) -> None:
    from selma.config import RunConfig
    from selma.preflight import every_mistake
    from selma.workspace import STAGES

    backend = {"kind": "openai", "model": "m", "base_url": address}
    raw = {
        "name": "a",
        "folder": str(tmp_path),
        "prompts": {"skills": ["coco"], "backend": backend},
    }
    mistakes = list(every_mistake(RunConfig.model_validate(raw), STAGES))
    assert any(m.startswith("prompts.backend.base_url: must be a server's") for m in mistakes)
    assert "hidden" not in " ".join(mistakes)
