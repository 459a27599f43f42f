"""A base on a server: what it must show first, what of its replies counts, and what is sent."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny
from attacks import Attack
from image_server import Act, Asked, ImageServer, drawing, noise_png, once
from scripted import send

from selma.adapters.applying import applied
from selma.backbones import served_base
from selma.backbones.base_files import base_fingerprint
from selma.backbones.drawing import load_any_text_to_image
from selma.backbones.image_servers import DIALECTS
from selma.backbones.served_base import PROBE, ServedTextToImage
from selma.config.networks import ServedBase
from selma.errors import AdapterError, BackendError, ConfigError, SelmaError
from selma.records.adapters import AppliedAdapter

ROW = "servers: images that fail, lie or ignore what is asked"
KEY = "sk-of-the-environment"
FIRST = "a cat"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SELMA_TEST_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with drawing(ImageServer(tiny.load("sd1"))) as running:
        yield running


def base(server: ImageServer, dialect: str = "vllm-omni", **settings: Any) -> ServedBase:
    given = {"max_attempts": 3, "timeout_s": 20.0, "image_px": 16, "parallel": 2} | settings
    return ServedBase(
        model="m", dialect=dialect, base_url=server.url, key_variable="SELMA_TEST_KEY", **given
    )


def served(settings: ServedBase, notes: list[dict[str, Any]] | None = None) -> ServedTextToImage:
    journal = [] if notes is None else notes
    return ServedTextToImage(
        settings, note=lambda **facts: journal.append(facts), first_wait_s=0.01
    )


def images(
    model: Any, texts: list[str] | None = None, *, steps: int = 2, guidance: float = 3.0
) -> list[bytes]:
    asked = [FIRST, "a dog", "a red car"] if texts is None else texts
    seeds = [2**40 + number for number in range(len(asked))]
    drawn = model.generate(asked, seeds=seeds, steps=steps, guidance=guidance, batch_size=8)
    return [image.tobytes() for image in drawn]


def test_a_server_draws_what_the_same_model_draws_here(server: ImageServer) -> None:
    notes: list[dict[str, Any]] = []
    assert images(served(base(server, "selma"), notes)) == images(tiny.load("sd1"))
    assert sorted(server.texts) == [FIRST, "a dog", "a red car"]
    assert [note["event"] for note in notes].count("request") == len(server.asked) == 3 + 5
    assert {"event": "probe", "model": "m", "same_seed_same_image": True} in notes
    assert KEY not in json.dumps(notes) and set(server.keys) == {f"Bearer {KEY}"}


def test_a_server_is_tried_once(server: ImageServer) -> None:
    model = served(base(server))
    first = images(model, [FIRST])
    tried = len(server.asked)
    assert images(model, [FIRST]) == first and len(server.asked) == tried + 1
    images(model, [FIRST], guidance=5.0)
    assert len(server.asked) > tried + 2, "with another guidance another image is to be expected"


PLAIN = {"model": "m", "prompt": FIRST, "n": 1, "size": "16x16", "response_format": "b64_json"}
SAMPLING = {"seed": 2**40, "num_inference_steps": 2, "guidance_scale": 3.0}
BODIES: dict[str, dict[str, Any]] = {
    "selma": PLAIN | SAMPLING,
    "vllm-omni": PLAIN | SAMPLING | {"output_format": "png", "generator_device": "cpu"},
    "sglang": PLAIN | SAMPLING | {"seed": 0, "output_format": "png", "generator_device": "cpu"},
    "xinference": PLAIN
    | {
        "size": "16*16",
        "kwargs": '{"seed": 0, "num_inference_steps": 2, "guidance_scale": 3.0}',
    },
    "aquiles": PLAIN | {"output_format": "png"},
    "openai": PLAIN,
}
SETTLED = {"/v1/configs": {"steps": 2, "guidance_scale": 3.0, "versions": {"aquiles_image": "1"}}}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_program_is_asked_as_it_documents(server: ImageServer, dialect: str) -> None:
    server.tells |= SETTLED
    deterministic = DIALECTS[dialect].seeds is not None
    images(served(base(server, dialect, deterministic=deterministic)), [FIRST])
    assert server.asked[-1] == BODIES[dialect]


def test_openai_itself_is_sent_nothing_that_it_refuses() -> None:
    settings = ServedBase(model="gpt-image-2", dialect="openai", image_px=1024, deterministic=False)
    from selma.backbones.image_servers.dialect import Wish

    assert DIALECTS["openai"].body(Wish(settings, FIRST, 1, 2, 3.0)) == {
        "model": "gpt-image-2",
        "prompt": FIRST,
        "n": 1,
        "size": "1024x1024",
        "output_format": "png",
    }


def test_guidance_and_negative_prompt_go_as_the_settings_say(server: ImageServer) -> None:
    named = base(server, guidance_as="true_cfg_scale", negative_prompt="blurred")
    images(served(named), [FIRST])
    assert server.asked[-1]["true_cfg_scale"] == 3.0 and "guidance_scale" not in server.asked[-1]
    assert server.asked[-1]["negative_prompt"] == "blurred"
    images(served(base(server, guidance_as=None)), [FIRST])
    assert not {"true_cfg_scale", "guidance_scale"} & server.asked[-1].keys()


@pytest.mark.parametrize(
    ("ignored", "says"),
    [
        ("same", "other images when it is asked for the same"),
        ("seed", "ignores what it is asked.*dialect"),
        ("steps", "same image for other steps"),
        ("guidance", "same image for other guidance.*guidance_as"),
        ("size", "asked for 16x16 pixels, but sent 32x32"),
    ],
)
def test_a_server_that_ignores_what_it_is_asked_is_refused(
    server: ImageServer, ignored: str, says: str, attack: Attack
) -> None:
    server.ignores = frozenset({ignored})
    with attack(ROW):
        with pytest.raises(BackendError, match=f"(?s){says}"):
            images(served(base(server)))
        assert not server.texts, "before the first image"


def test_chance_is_allowed_where_the_settings_say_so_and_recorded(server: ImageServer) -> None:
    server.ignores = frozenset({"same"})
    notes: list[dict[str, Any]] = []
    by_chance = base(server, deterministic=False)
    assert len(images(served(by_chance, notes))) == 3
    assert {"event": "probe", "model": "m", "same_seed_same_image": False} in notes
    assert base_fingerprint(by_chance) != base_fingerprint(base(server))


def test_a_program_without_steps_of_a_request_must_have_those_that_are_wanted(
    server: ImageServer,
) -> None:
    server.tells |= SETTLED
    with pytest.raises(BackendError, match="num_inference_steps 2 whatever it is asked, but 7"):
        images(served(base(server, "aquiles", deterministic=False)), steps=7)
    server.tells["/v1/configs"] = {"versions": 5}
    served_base._VERSIONS.clear()
    with pytest.raises(BackendError, match="num_inference_steps 30 whatever"):
        images(served(base(server, "aquiles", deterministic=False)))
    server.tells.clear()
    served_base._VERSIONS.clear()
    with pytest.raises(BackendError, match="does not tell at /v1/configs"):
        images(served(base(server, "aquiles", deterministic=False)))


# What is wrong once and passes: each is tried again, and the images are the right ones.


def status(number: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: send(handler, number, b'{"error": {"message": "no"}}', headers=named)


def body(data: bytes, **how: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, 200, data, **how)


def reply(**data: Any) -> bytes:
    return json.dumps({"created": 0, "data": [data]}).encode()


def after(count: int, act: Callable[[BaseHTTPRequestHandler], None]) -> Act:
    """The act, for every request after so many."""
    seen: list[Asked] = []

    def acts(handler: BaseHTTPRequestHandler, asked: Asked) -> bool:
        seen.append(asked)
        if len(seen) <= count:
            return False
        act(handler)
        return True

    return acts


PASSING = {
    "429": status(429, Retry_After="0"),
    "500": status(500),
    "503": status(503, Retry_After="0.01"),
    "hangs up": lambda handler: handler.connection.close(),
    "half JSON": body(b'{"created": 0, "data": [{"b64_'),
    "cut off": body(b'{"created": 0', length=1000),
    "HTML": body(b"<html>Loading</html>", headers={"Content-Type": "text/html"}),
    "no image": body(b'{"created": 0, "data": []}'),
    "a list": body(b"[]"),
    "no base64": body(reply(b64_json="%%%")),
    "no PNG": body(reply(b64_json="aGVsbG8=")),
    "huge": body(b'{"data": "' + b"a" * (9 << 20) + b'"}'),
}


@pytest.mark.parametrize("wrong", PASSING)
def test_what_is_wrong_once_is_asked_again(server: ImageServer, wrong: str, attack: Attack) -> None:
    server.acts = [once(6, PASSING[wrong])]  # the first after the five by which it is tried
    with attack(ROW):
        assert images(served(base(server, "selma", parallel=1))) == images(tiny.load("sd1"))
        assert server.texts == [FIRST, FIRST, "a dog", "a red car"]


def test_a_slow_reply_is_asked_for_again(server: ImageServer) -> None:
    server.acts = [once(6, lambda handler: time.sleep(1.5))]
    model = served(base(server, "selma", parallel=1, timeout_s=1.0))
    assert images(model) == images(tiny.load("sd1"))


def test_retry_after_is_waited_for(server: ImageServer) -> None:
    server.acts = [once(6, status(429, Retry_After="0.7"))]
    began = time.monotonic()
    images(served(base(server, parallel=1)), [FIRST])
    assert time.monotonic() - began > 0.7


ENDING = {
    "400": (status(400), "status 400.*dialect"),
    "401": (status(401), "Check the key in SELMA_TEST_KEY"),
    "404": (status(404), "base.model and base.base_url.*images/generations"),
    "a url": (body(reply(url="http://127.0.0.1:1/x.png")), "address of an image"),
    "wrong size": (
        lambda handler: send(
            handler, 200, reply(b64_json=base64.b64encode(noise_png(24)).decode())
        ),
        "asked for 16x16 pixels, but sent 24x24",
    ),
}


@pytest.mark.parametrize("wrong", ENDING)
def test_what_no_attempt_would_change_ends_at_once(
    server: ImageServer, wrong: str, attack: Attack
) -> None:
    act, says = ENDING[wrong]
    server.acts = [once(7, act)]
    drawn = served(base(server, parallel=1)).generate(
        [FIRST, "a dog", "a red car"], seeds=[1, 2, 3], steps=2, guidance=3.0, batch_size=1
    )
    next(drawn)
    with attack(ROW):
        with pytest.raises(BackendError, match=f"(?s){says}"):
            next(drawn)
        assert server.texts == [FIRST, "a dog"]


def test_a_url_is_never_fetched(server: ImageServer) -> None:
    elsewhere = ImageServer(tiny.load("sd1"))
    with drawing(elsewhere):
        server.acts = [once(1, body(reply(url=elsewhere.url)))]
        with pytest.raises(BackendError, match="which is not fetched"):
            images(served(base(server, parallel=1)))
        assert not elsewhere.asked and not elsewhere.keys


@pytest.mark.parametrize(
    "says", [{"seed": 5}, {"size": "32x32"}, {"num_inference_steps": 50}, {"guidance_scale": 1.0}]
)
def test_a_server_that_says_it_used_something_else_is_refused(
    server: ImageServer, says: dict[str, Any], attack: Attack
) -> None:
    server.says = says
    with attack(ROW), pytest.raises(BackendError, match="but says that it used"):
        images(served(base(server)))


def test_what_a_server_says_is_kept(server: ImageServer) -> None:
    server.says = {"size": "16x16", "revised_prompt": "another text", "created": 5}
    notes: list[dict[str, Any]] = []
    images(served(base(server), notes), [FIRST])
    assert notes[-1]["told"] == {"size": "16x16", "revised": True}


def test_money_ends(server: ImageServer) -> None:
    notes: list[dict[str, Any]] = []
    model = served(base(server, price_per_image=0.1, max_cost=0.65, parallel=1), notes)
    with pytest.raises(BackendError, match=r"max_cost allows 0\.65"):
        images(model)
    assert len(server.texts) == 1 and notes[-1]["cost"] == 0.1


def test_replies_that_are_of_no_use_are_paid_for(server: ImageServer) -> None:
    """As replies without an image that come again and again: the limit on cost holds over them."""
    notes: list[dict[str, Any]] = []
    server.acts = [after(5, body(reply(b64_json="aGVsbG8=")))]
    model = served(base(server, price_per_image=0.1, max_cost=0.75, parallel=1), notes)
    with pytest.raises(BackendError, match=r"max_cost allows 0\.75; 0\.7 is spent"):
        images(model, [FIRST])
    assert len(server.texts) == 2
    assert sum(note.get("cost", 0) for note in notes) == pytest.approx(0.7)


def test_an_error_that_comes_as_success_is_told_in_the_servers_words(server: ImageServer) -> None:
    error = json.dumps({"error": {"message": "the queue is full of secret-key-1234"}}).encode()
    server.acts = [after(5, body(error))]
    with pytest.raises(BackendError, match="holds no image: the queue is full"):
        images(served(base(server, parallel=1, max_attempts=2)), [FIRST])


def test_never_more_is_asked_ahead_than_runs_side_by_side(server: ImageServer) -> None:
    texts = [f"{number} cats" for number in range(8)]
    drawn = served(base(server, parallel=3)).generate(
        texts, seeds=range(8), steps=2, guidance=3.0, batch_size=8
    )
    list(islice(drawn, 2))
    time.sleep(0.5)
    assert len(server.texts) <= 2 + 3
    drawn.close()
    time.sleep(0.2)
    assert len(server.texts) <= 2 + 3


# What tells a server from another.

VERSIONS: dict[str, tuple[str, Any, str]] = {
    "vllm-omni": ("/version", {"version": "0.20.0"}, "0.20.0"),
    "sglang": (
        "/v1/models",
        {"data": [{"id": "m", "pipeline_class": "FluxPipeline", "dit_precision": "bf16"}]},
        "m FluxPipeline bf16",
    ),
    "xinference": (
        "/v1/cluster/version",
        {"version": "3.2.1", "full-revisionid": "7ecec16b"},
        "3.2.1 7ecec16b",
    ),
    "aquiles": (
        "/v1/configs",
        {"versions": {"aquiles_image": "0.7.7", "diffusers": "0.40.0", "torch": "2"}},
        "aquiles_image 0.7.7 diffusers 0.40.0",
    ),
    "selma": (
        "/v1/models",
        {"data": [{"id": "other", "fingerprint": "b"}, {"id": "m", "fingerprint": "a"}]},
        "a",
    ),
}


@pytest.mark.parametrize("dialect", VERSIONS)
def test_the_version_is_where_the_program_tells_it(server: ImageServer, dialect: str) -> None:
    path, told, version = VERSIONS[dialect]
    untold = base_fingerprint(base(server, dialect))
    served_base._VERSIONS.clear()
    server.tells[path] = told
    own = base_fingerprint(base(server, dialect))
    assert own != untold
    assert own == base_fingerprint(base(server, dialect, revision=version))
    served_base._VERSIONS.clear()
    server.tells[path] = ["nonsense"]
    assert base_fingerprint(base(server, dialect)) == untold


def test_the_fingerprint_changes_with_all_that_images_depend_on(server: ImageServer) -> None:
    own = base_fingerprint(base(server))
    others = [
        base(server, "selma"),
        base(server).model_copy(update={"model": "n"}),
        base(server, image_px=32),
        base(server, guidance_as=None),
        base(server, negative_prompt="x"),
        base(server, revision="1"),
    ]
    assert len({own, *map(base_fingerprint, others)}) == 1 + len(others)
    same = [base(server, parallel=7, timeout_s=3.0, max_cost=1.0, price_per_image=1.0)]
    assert {base_fingerprint(each) for each in same} == {own}


def test_another_version_is_refused(server: ImageServer) -> None:
    server.tells["/version"] = {"version": "1"}
    with pytest.raises(BackendError, match="wants version 2 of the server, but it says that it is"):
        images(served(base(server, revision="2")))
    model = served(base(server))
    images(model, [FIRST])
    server.tells["/version"] = {"version": "2"}
    with pytest.raises(BackendError, match="not of the version any more"):
        images(model, [FIRST])


def test_without_the_server_what_it_last_said_is_taken() -> None:
    with drawing(ImageServer(tiny.load("sd1"))) as server:
        server.tells["/version"] = {"version": "1"}
        settings = base(server)
        own = base_fingerprint(settings)
    served_base._VERSIONS.clear()
    assert base_fingerprint(settings) == own
    with pytest.raises(BackendError, match="cannot be asked what it is"):
        images(served(settings))
    with pytest.raises(BackendError, match=r"cannot be asked what it is.*base\.revision"):
        base_fingerprint(settings.model_copy(update={"model": "n"}))


def test_keys_and_addresses_stay_private(server: ImageServer) -> None:
    private = server.url.replace("//", "//me:pw-4711-private@") + "?key=sk-0815-private"
    settings = base(server, max_attempts=1).model_copy(update={"base_url": private})
    notes: list[dict[str, Any]] = []
    server.acts = [
        lambda handler, _: bool(send(handler, 500, b"sk-0815-private pw-4711-private")) or True
    ]
    with pytest.raises(BackendError) as failed:
        images(served(settings, notes))
    for text in (str(failed.value), json.dumps(notes)):
        assert "private@" not in text and "4711" not in text and "0815" not in text


# Adapters.


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA for the tiny SD 1 that changes something."""
    return tiny.lora(tmp_path / "adapter")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.mark.parametrize("dialect", ["vllm-omni", "sglang"])
def test_an_adapter_is_sent_as_the_program_takes_it(
    server: ImageServer, adapter: Path, shared: Path, dialect: str
) -> None:
    model = served(base(server, dialect, adapter_folder=str(shared)))
    with applied(model, [AppliedAdapter(path=adapter, strength=0.5)]):
        drawn = images(model)
    seeds = [(2**40 + number) % (DIALECTS[dialect].seeds or 1) for number in range(3)]
    here = tiny.load("sd1")
    with applied(here, [AppliedAdapter(path=adapter, strength=0.5)]):
        asked = [FIRST, "a dog", "a red car"]
        expected = here.generate(asked, seeds=seeds, steps=2, guidance=3.0, batch_size=8)
        assert drawn == [image.tobytes() for image in expected]
    (folder,) = shared.iterdir()
    if dialect == "vllm-omni":
        sent = {"name": folder.name, "path": str(folder), "scale": 0.5}
        assert server.asked[-1]["lora"] == sent and "lora" not in server.asked[0]
        assert {file.name for file in folder.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    else:
        sent = {
            "lora_nickname": folder.name,
            "lora_path": str(folder / "pytorch_lora_weights.safetensors"),
            "target": "all",
            "strength": 0.5,
        }
        assert server.posted == [
            ("/v1/set_lora", sent),
            ("/v1/unmerge_lora_weights", {"target": "all"}),
        ]
    plain = images(model)
    assert plain != drawn and "lora" not in server.asked[-1] and not server.active
    with applied(model, [AppliedAdapter(path=adapter, strength=0.5)]):
        assert images(model) == drawn


@pytest.mark.parametrize("dialect", ["vllm-omni", "sglang"])
def test_an_adapter_without_effect_is_refused(
    server: ImageServer, adapter: Path, shared: Path, dialect: str
) -> None:
    server.ignores = frozenset({"adapter"})
    model = served(base(server, dialect, adapter_folder=str(shared)))
    with (
        pytest.raises(AdapterError, match=r"draws the same with .* as without"),
        applied(model, [AppliedAdapter(path=adapter)]),
    ):
        images(model)
    assert not server.texts and not server.active


def test_an_adapter_that_a_server_lost_ends_the_work(
    server: ImageServer, adapter: Path, shared: Path
) -> None:
    model = served(base(server, "sglang", adapter_folder=str(shared), parallel=1))
    with (
        pytest.raises(BackendError, match=r"was to draw with the adapter .* but has no adapter"),
        applied(model, [AppliedAdapter(path=adapter)]),
    ):
        drawn = model.generate([FIRST] * 3, seeds=[1, 2, 3], steps=2, guidance=3.0, batch_size=1)
        next(drawn)
        server.active.clear()  # as after it was started anew
        next(drawn)


def test_an_adapter_that_was_left_is_taken_back_and_one_of_others_is_not(
    server: ImageServer,
) -> None:
    server.active = [{"lora_nickname": "selma-0123-diffusers", "lora_path": "/x"}]
    model = served(base(server, "sglang"))
    assert len(images(model)) == 3 and not server.active
    server.active = [{"lora_nickname": "theirs", "lora_path": "/x"}]
    with pytest.raises(BackendError, match="'theirs' set, by somebody else"):
        images(model)


def test_adapters_that_cannot_be_sent(server: ImageServer, adapter: Path, shared: Path) -> None:
    one = AppliedAdapter(path=adapter)
    refusals: list[tuple[ServedBase, list[AppliedAdapter], type[SelmaError], str]] = [
        (base(server), [one], ConfigError, "adapter_folder must name a folder"),
        (base(server, "xinference"), [one], ConfigError, "takes no adapter while it runs"),
        (base(server, adapter_folder=str(shared)), [one, one], AdapterError, "one adapter, but 2"),
    ]
    for settings, adapters, kind, says in refusals:
        with pytest.raises(kind, match=says), applied(served(settings), adapters):
            raise AssertionError("it is refused")
    assert not list(shared.iterdir())


def test_a_guide_needs_a_base_that_is_loaded_here(server: ImageServer) -> None:
    import selma
    from selma.config.guides import guide_of

    with pytest.raises(ConfigError, match="only a base that is loaded here can be guided"):
        selma.generate("a red car", base=base(server), guide=guide_of("syngen"))


def test_the_probe_is_the_same_text_for_all(server: ImageServer) -> None:
    images(load_any_text_to_image(base(server)), [FIRST])
    assert [asked["prompt"] for asked in server.asked] == [PROBE] * 5 + [FIRST]
