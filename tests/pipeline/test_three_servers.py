"""Language model, image model and judge on servers in one run, each killed within it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
from image_server import ImageServer, drawing
from scripted import Script, completion, send, serving

from pipeline.killing import tree
from pipeline.server import captions
from selma import pipeline
from selma.config import RunConfig
from selma.workspace import Workspace

PARALLEL = 2


def writes(handler: Any, asked: dict[str, Any]) -> None:
    lines = captions(json.dumps([asked["messages"], asked.get("seed")]), 6)
    text = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 4))
    send(handler, 200, json.dumps(completion(text)).encode())


def judges(handler: Any, asked: dict[str, Any]) -> None:
    """Yes or no by image and question, the same each time."""
    digest = hashlib.sha256(json.dumps(asked["messages"]).encode()).digest()
    send(handler, 200, json.dumps(completion("Yes" if digest[0] % 3 else "No")).encode())


class Mortal:
    """Wraps what a server does: at its n-th request it dies, and is then away until it is started
    again."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.served = 0
        self.died = threading.Event()
        self.back = threading.Event()
        self.lock = threading.Lock()

    def dies(self, handler: Any) -> bool:
        with self.lock:
            if self.died.is_set() and not self.back.is_set():
                handler.connection.close()
                return True
            self.served += 1
            if self.served == self.at:
                self.died.set()
                handler.connection.close()
                return True
            return False

    def acting(self, act: Callable[[Any, dict[str, Any]], None]) -> Any:
        return lambda handler, asked: None if self.dies(handler) else act(handler, asked)


@contextmanager
def restarted(
    mortal: Mortal, opened: Callable[[int], AbstractContextManager[Any]], *, port: int
) -> Iterator[str]:
    """The address of a server that is started again on its port some time after it died. port: 0 is
    a free one."""
    ended = threading.Event()
    ready, first = threading.Event(), []

    def live() -> None:
        with opened(port) as server:
            first.append(server.url)
            ready.set()
            while not (mortal.died.is_set() or ended.is_set()):
                time.sleep(0.02)
        time.sleep(0.4)
        mortal.back.set()
        with opened(port_of(first[0])):
            ended.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    try:
        yield first[0]
    finally:
        ended.set()
        thread.join()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


class Servers:
    """All three, and what each was asked."""

    def __init__(self, *, die_at: int) -> None:
        self.mortals = [Mortal(die_at) for _ in range(3)]
        self.writer = Script(self.mortals[0].acting(writes))
        self.judge = Script(self.mortals[2].acting(judges))
        self.images = ImageServer(tiny.load("sd1"))
        self.images.tells["/v1/models"] = {"data": [{"id": "m", "fingerprint": "one"}]}
        self.images.acts = [lambda handler, asked: self.mortals[1].dies(handler)]

    @contextmanager
    def running(self, *ports: int) -> Iterator[list[str]]:
        opened = (
            lambda port: serving(self.writer, port=port),
            lambda port: drawing(self.images, port=port),
            lambda port: serving(self.judge, port=port),
        )
        with ExitStack() as stack:
            yield [
                stack.enter_context(restarted(mortal, each, port=port))
                for mortal, each, port in zip(self.mortals, opened, ports, strict=True)
            ]

    @property
    def asked(self) -> list[Counter[str]]:
        """What was asked of each, as often as it was."""
        every: list[list[Any]] = [self.writer.asked, self.images.asked, self.judge.asked]
        return [Counter(json.dumps(asked, sort_keys=True) for asked in each) for each in every]


def config(folder: Path, urls: list[str]) -> RunConfig:
    patient = {"max_attempts": 20, "timeout_s": 10.0, "key_variable": "SELMA_TEST_KEY"}
    writer, images, judge = urls
    return RunConfig.model_validate(
        {
            "name": "three",
            "folder": folder,
            "base": {"model": str(tiny.folder("sd2")), "device": "cpu"},
            "prompts": {
                "skills": ["coco", "whoops"], "per_skill": 8, "asked_per_reply": 6,
                "backend": {"kind": "openai", "model": "w", "base_url": writer, **patient},
            },
            "images": {
                "steps": 2, "guidance": 2.0,
                "base": {"kind": "served", "dialect": "selma", "model": "m", "base_url": images,
                         "image_px": 16, "parallel": PARALLEL, "steps": 2, **patient},
            },
            "experts": {"adapter": {"kind": "lora", "rank": 2}, "steps": 2, "precision": "fp32"},
            "scores": {
                "prompts": 6, "resamples": 50, "experts": False,
                "judge": {"kind": "openai", "model": "j", "base_url": judge,
                          "parallel": PARALLEL, **patient},
            },
            "report": {"grid_prompts": 2, "training_pairs": 2},
        }
    )  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SELMA_TEST_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("selma.backbones.exchange._LONGEST_WAIT_S", 0.3)


def test_each_server_is_killed_and_started_again(tmp_path: Path) -> None:
    """The same files, and nothing asked for twice but what was on its way."""
    calm = Servers(die_at=0)
    with calm.running(0, 0, 0) as urls:
        pipeline.run(config(tmp_path / "calm", urls))
    mortal = Servers(die_at=4)
    with mortal.running(*map(port_of, urls)) as urls:  # their addresses are part of recipes
        pipeline.run(config(tmp_path / "mortal", urls))
        assert all(each.back.is_set() for each in mortal.mortals), "each died, and came back"
    one, other = (tree(tmp_path / name) for name in ("calm", "mortal"))
    assert one == other
    for asked, again in zip(calm.asked, mortal.asked, strict=True):
        assert asked.keys() == again.keys()
        more = again - asked
        # A request that found nobody is tried again, and is one of those on their way.
        assert 1 <= len(more) <= PARALLEL, "only what was on its way"
    lines = list(Workspace(tmp_path / "mortal").read_journal())
    assert sum(line.get("event") == "request" for line in lines) >= 3 * 4
