"""`selma serve`: what it draws, what it refuses, and itself as the server of a run's images."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import tiny
from applications.study.browser import CHROMIUM, browser
from PIL import Image
from served_pages import Served, started
from starlette.testclient import TestClient
from warm_selma import warm_selma

import selma
from selma import pipeline
from selma.applications.serving.drawing import MOST_WAITING, Busy, Drawing, Order
from selma.applications.serving.server import application
from selma.config import RunConfig
from selma.pipeline import Stages
from selma.records.benchmarks import BenchmarkPrompt
from selma.workspace import STAGES, Workspace

SKILLS = ["toybox_coco", "toybox_tags"]
DRAWN = {"steps": 2, "guidance": 3.0}


def config(folder: Path, **rest: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "some",
            "folder": folder,
            "base": {"model": str(tiny.folder("sd1")), "device": "cpu"},
            "prompts": {"skills": SKILLS, "per_skill": 3, "source": {"kind": "toybox"}},
            "images": DRAWN,
            "experts": {
                "adapter": {"kind": "lora", "rank": 2},
                "steps": 4,
                "learning_rate": 0.05,
                "precision": "fp32",
            },
        }
        | rest
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first four stages are finished."""
    root = tmp_path_factory.mktemp("served") / "run"
    own = config(root)
    for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
        stage(own)
    return root


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with warm_selma(tmp_path_factory.mktemp("bin")) as program:
        yield program


def serving(program: Path, run: Path, *options: str) -> AbstractContextManager[Served]:
    """`selma serve` while the block runs."""
    return started("serve", str(run), *options, program=[str(program)])


@pytest.fixture(scope="module")
def server(program: Path, run: Path) -> Iterator[Served]:
    with serving(program, run) as served:
        yield served


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON (or text); `body` is sent as JSON unless it is bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    kind = {} if data is None else {"Content-Type": "application/json"}
    try:
        with urlopen(Request(url, data, kind | named), timeout=60) as reply:
            status, text = reply.status, reply.read()
    except HTTPError as error:
        with error:
            status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()


def draw(server: Served, **asked: Any) -> tuple[int, Any]:
    return ask(f"{server.url}/v1/images/generations", {"prompt": "a cat", **asked})


def pixels(reply: Any) -> bytes:
    data = base64.b64decode(reply["data"][0]["b64_json"])
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def test_every_model_draws_what_it_draws_without_the_server(server: Served, run: Path) -> None:
    status, models = ask(f"{server.url}/v1/models")
    assert status == 200
    assert [model["id"] for model in models["data"]] == ["base", *SKILLS, "merged"]
    assert len({model["fingerprint"] for model in models["data"]}) == 4
    adapters = {"base": (), "merged": run / "4-merged"}
    adapters |= {skill: run / "3-experts" / skill for skill in SKILLS}
    drawn = {}
    for name in [*adapters, "base"]:  # the base again, after adapters were on
        asked = {"seed": 2**64 - 1, "num_inference_steps": 3, "guidance_scale": 2.5}
        status, reply = draw(server, model=name, **asked, response_format="b64_json", n=1)
        assert status == 200, reply
        assert {key: reply[key] for key in asked} == asked and reply["size"] == "16x16"
        (image,) = selma.generate(
            "a cat",
            base=tiny.base("sd1"),
            adapter=adapters[name],
            seed=2**64 - 1,
            steps=3,
            guidance=2.5,
        )
        drawn[name] = pixels(reply)
        assert drawn[name] == image.tobytes(), name
    assert len(set(drawn.values())) == 4


def test_defaults_are_the_runs(server: Served) -> None:
    status, reply = draw(server)
    assert status == 200
    assert (reply["model"], reply["num_inference_steps"]) == ("merged", 2)
    assert reply["guidance_scale"] == 3.0
    again = draw(server, seed=reply["seed"])[1]
    assert pixels(again) == pixels(reply)


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "../../etc"}, 404, "does not exist; there are base"),
    ({"model": 5}, 404, "does not exist"),
    ({"prompt": ""}, 400, "prompt must be a text"),
    ({"prompt": "a" * 4001}, 400, "prompt must be a text"),
    ({"prompt": ["a"]}, 400, "prompt must be a text"),
    ({"size": "1024x1024"}, 400, "size can only be 16x16"),
    ({"n": 2}, 400, "n can only be 1"),
    ({"n": True}, 400, "n can only be 1"),
    ({"response_format": "url"}, 400, "response_format can only be 'b64_json'"),
    ({"seed": -1}, 400, "seed must be a whole number"),
    ({"seed": 2**64}, 400, "seed must be a whole number"),
    ({"seed": True}, 400, "seed must be a whole number"),
    ({"num_inference_steps": 1001}, 400, "from 1 to 1000"),
    ({"num_inference_steps": 2.0}, 400, "from 1 to 1000"),
    ({"guidance_scale": 101}, 400, "from 0 to 100"),
    ({"negative_prompt": "blurred"}, 400, "negative_prompt can only be"),
    ({"lora": {"path": "/x"}}, 400, "'lora' would have no effect"),
]


@pytest.mark.parametrize(("asked", "status", "says"), REFUSED)
def test_what_would_have_no_effect_is_refused(
    server: Served, asked: dict[str, Any], status: int, says: str
) -> None:
    got, reply = draw(server, **asked)
    assert got == status and says in reply["error"]["message"]


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "1e999", "-Infinity", "true", "null", '"3"', "[]"]
)
def test_numbers_that_are_none(server: Served, number: str) -> None:
    body = f'{{"prompt": "a cat", "guidance_scale": {number}}}'.encode()
    status, reply = ask(f"{server.url}/v1/images/generations", body)
    assert status == (200 if number == "null" else 400), reply


def test_bodies_that_are_none(server: Served) -> None:
    url = f"{server.url}/v1/images/generations"
    half = rb'{"prompt": "a \ud83d cat"}'
    for body in (b"", b"{", b"[]", b'"x"', b"[" * 20_000, b"\xff\xfe", half):
        assert ask(url, body)[0] == 422
    assert ask(url, b"x" * 60_000)[0] == 413
    assert ask(url, b'{"prompt": "a cat"}', Content_Type="text/plain")[0] == 415
    assert ask(url)[0] == 405


def test_other_sites_are_refused(server: Served) -> None:
    url = f"{server.url}/v1/images/generations"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Referer": "http://evil.example/page"},
    ):
        status, reply = ask(url, {"prompt": "a cat"}, **headers)
        assert status == 403 and "for this page and for programs alone" in reply
    assert ask(url, {"prompt": "a cat"}, Host="evil.example")[0] == 421
    assert ask(f"{server.url}/", Host="evil.example")[0] == 421
    own = server.url.removeprefix("http://")
    assert ask(url, {"prompt": "a cat"}, Origin=f"http://{own}")[0] == 200


def test_no_path_leads_to_a_file(server: Served) -> None:
    for path in (
        "/../pyproject.toml",
        "/serve.html",
        "/%2e%2e/run.json",
        "//etc/passwd",
        "/run.json",
    ):
        assert ask(server.url + path)[0] == 404


def test_headers_keep_scripts_of_others_out(server: Served) -> None:
    with urlopen(f"{server.url}/", timeout=60) as reply:
        policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and "img-src 'self' blob:" in policy


def test_requests_side_by_side_are_drawn_one_after_the_other(server: Served) -> None:
    names = ["base", "merged", *SKILLS] * 3
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda name: draw(server, model=name, seed=5), names))
    images = [pixels(reply) for _, reply in replies]
    assert images == images[:4] * 3 and len(set(images)) == 4


def test_more_than_wait_in_line_are_told_to_come_again() -> None:
    drawing = Drawing(tiny.load("sd1"), {"base": []}, fingerprints={"base": "x"}, **DRAWN)
    with drawing:
        orders = [Order("base", "a cat", seed, 2, 3.0) for seed in range(MOST_WAITING)]
        futures = [drawing.ask(order) for order in orders]
        with pytest.raises(Busy, match="wait already"):
            drawing.ask(orders[0])
        assert len({future.result() for future in futures}) == MOST_WAITING
        drawing.ask(orders[0]).result()


def test_the_longest_prompt_may_be_of_any_letters(server: Served) -> None:
    assert draw(server, prompt="\N{CAT FACE}" * 4000)[0] == 200
    assert draw(server, prompt="\N{CAT FACE}" * 4001)[0] == 400


def test_what_nobody_waits_for_is_not_drawn(server: Served) -> None:
    """One that is begun is drawn to its end; those behind it are not, if their clients left."""
    began = time.monotonic()
    assert draw(server, num_inference_steps=200)[0] == 200
    one = time.monotonic() - began
    body = json.dumps({"prompt": "a cat", "num_inference_steps": 200}).encode()
    _, _, port = server.url.rpartition(":")
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            head = (
                f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            client.sendall(f"POST /v1/images/generations HTTP/1.1\r\n{head}\r\n\r\n".encode())
            client.sendall(body)
            time.sleep(0.1)
    began = time.monotonic()
    assert draw(server)[0] == 200
    assert time.monotonic() - began < 4 * one


def test_an_error_of_any_kind_is_told_as_the_protocol_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.load("sd1")
    drawing = Drawing(model, {"base": []}, fingerprints={"base": "x"}, **DRAWN)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory in /home/me")

    monkeypatch.setattr(model, "generate", fails)
    with drawing:
        app = application(drawing, hosts=None)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        reply = client.post("/v1/images/generations", json={"prompt": "a cat", "model": "base"})
    assert reply.status_code == 500
    assert "terminal" in reply.json()["error"]["message"] and "/home" not in reply.text


def test_other_machines_need_the_key(program: Path, run: Path) -> None:
    with serving(program, run, "--host", "0.0.0.0") as open_to_all:
        assert "WARNING" in open_to_all.output
        root = open_to_all.url.rpartition("/")[0]
        assert ask(f"{root}/v1/models")[0] == 404
        assert ask(f"{open_to_all.url}/v1/models")[0] == 200
        assert draw(open_to_all, model="base")[0] == 200


def test_a_run_that_is_not_finished_is_not_served(program: Path, tmp_path: Path) -> None:
    own = config(tmp_path / "run")
    pipeline.prompts(own)
    command = [program, "serve", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "must be finished first" in done.stderr


# The way there and back: a run whose images this server draws.


def by(settings: RunConfig) -> dict[str, bytes]:
    this = Stages(settings, Workspace(settings.run_folder), make=STAGES)
    this.generate_pairs(this.write_prompts())
    prompts = [BenchmarkPrompt(id=f"p{n}", text=f"{n} cats", group="c", questions=()) for n in "12"]
    this.generate("base", prompts=prompts)
    return {
        str(path.relative_to(settings.run_folder)): path.read_bytes()
        for path in sorted(settings.run_folder.rglob("*.png"))
    }


def test_a_served_base_draws_the_same_bytes_as_the_local_one(
    server: Served, run: Path, tmp_path: Path
) -> None:
    there = {"kind": "served", "dialect": "selma", "base_url": f"{server.url}/v1", "image_px": 16}
    local = by(config(tmp_path / "local"))
    assert by(config(tmp_path / "base", base=there | {"model": "base"})) == local
    images = {"base": there | {"model": "merged"} | DRAWN}
    merged = by(config(tmp_path / "merged", images=DRAWN | images))
    own = DRAWN | {"adapter": str(run / "4-merged")}
    assert merged == by(config(tmp_path / "adapter", images=own)) != local


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_the_page_draws_both_from_one_seed(server: Served, tmp_path: Path) -> None:
    shown = (
        "(id => {{ const i = document.getElementById(id); if (i.hidden || !i.naturalWidth) return "
        "null; const c = document.createElement('canvas'); c.width = c.height = i.naturalWidth; "
        "const d = c.getContext('2d'); d.drawImage(i, 0, 0); "
        "return [...d.getImageData(0, 0, c.width, c.width).data].join() }})('{}')"
    )

    def rgb(page: Any, name: str) -> bytes:
        values = [int(value) for value in page.evaluate(shown.format(name)).split(",")]
        return bytes(value for number, value in enumerate(values) if number % 4 != 3)

    with browser(tmp_path / "profile") as chromium:
        page = chromium.open(f"{server.url}/")
        page.click("#prompt")
        page.write("a cat <script>alert(1)</script>")
        page.press("Enter")
        said = "document.getElementById('notice').textContent"
        page.wait(f"{said} === 'Seed 0'")
        asked = {"prompt": "a cat <script>alert(1)</script>", "seed": 0}
        for name, model in (("left", "base"), ("right", "merged")):
            assert rgb(page, name) == pixels(draw(server, model=model, **asked)[1])
        assert page.evaluate("document.getElementById('seed').value") == "1"
        page.evaluate(f"document.getElementById('model').value = '{SKILLS[0]}'")
        page.click("#draw")
        page.wait(f"{said} === 'Seed 1'")
        asked["seed"] = 1
        assert rgb(page, "right") == pixels(draw(server, model=SKILLS[0], **asked)[1])
        assert page.evaluate("document.getElementById('which').textContent") == SKILLS[0]
        for heading in ("document.querySelector('h1').textContent", "document.title"):
            assert page.evaluate(heading).startswith(f"Base and {SKILLS[0]}, ")
        page.evaluate("document.getElementById('steps').max = 5000")
        page.evaluate("document.getElementById('steps').value = 2000")
        page.click("#draw")
        page.wait(f"{said}.includes('from 1 to 1000')")
        page.size(390, 800, phone=True)
        page.wait("document.documentElement.scrollWidth <= innerWidth")
        # The refusal above is all that the browser complains of.
        assert all("400 (Bad Request)" in error for error in chromium.errors), chromium.errors
