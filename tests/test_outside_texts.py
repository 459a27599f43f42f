"""Texts from outside: what steers a terminal or turns the direction goes where they enter, and no
terminal is sent what is left elsewhere."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from attacks import Attack
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.table import Table
from scripted import Script, fails, serving

import selma
from selma.applications.sur.civitai import read_dump
from selma.applications.sur.parameters import statement_inside
from selma.applications.sur.samples import read_samples
from selma.config.given import Imagefolder, PromptFile
from selma.errors import DataError
from selma.given import GIVEN
from selma.progress import console, progress
from selma.prompts.parsing import parse_reply
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.prompts import Prompt, prompt_id
from selma.rich_screen import Screen, plain
from selma.scores.benchmarks import read_benchmark
from selma.screen import LONGEST, say, shown
from selma.texts import printable

ODD = "\x1b[2J\x1b]0;owned\x07 a \u202edog\u2066 \x9b31mand\x00 a\x7f cat"
CLEAN = "[2J]0;owned a dog 31mand a cat"
HALF = "a \ud800 dog"


def as_json(value: Any) -> str:
    return json.dumps(value)  # with its escapes: what no text may hold as it is


Read = Callable[[Path, str], Iterable[str]]


def given_file(end: str, write: Callable[[str], str]) -> Read:
    def read(folder: Path, text: str) -> Iterable[str]:
        path = folder / f"own.{end}"
        path.write_text(write(text))
        row = GIVEN["file"]
        (texts,) = row.texts(PromptFile(path=str(path)), ["own"], seed=0).values()
        return texts.texts

    return read


def image_rows(folder: Path, text: str) -> Iterable[str]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_text(as_json({"file_name": "a.png", "text": text}))
    (texts,) = GIVEN["imagefolder"].texts(Imagefolder(folder=str(folder)), ["own"], seed=0).values()
    return texts.texts


def beside(folder: Path, text: str) -> Iterable[str]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "a.txt").write_text(text)
    (texts,) = GIVEN["imagefolder"].texts(Imagefolder(folder=str(folder)), ["own"], seed=0).values()
    return texts.texts


def benchmark(end: str, write: Callable[[str], str]) -> Read:
    def read(folder: Path, text: str) -> Iterable[str]:
        path = folder / f"own.{end}"
        path.write_text(write(text))
        (prompt,) = read_benchmark(path)
        assert prompt.id == prompt_id("", prompt.text)
        return [prompt.text]

    return read


def tifa(folder: Path, text: str) -> Iterable[str]:
    question = {"id": "own_1", "caption": text, "question": text, "choices": [text, "no"]}
    question |= {"answer": text, "element_type": text}
    path = folder / "tifa.json"
    path.write_text(as_json([question]))
    (prompt,) = read_benchmark(path)
    asked = prompt.questions[0]
    return [prompt.text, asked.text, asked.choices[0], asked.answer, asked.category]


def samples(folder: Path, text: str) -> Iterable[str]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    row = {"file_name": "a.png", "text": text, "prompt": text, "source": text, "licence": text}
    (folder / "metadata.jsonl").write_text(as_json(row))
    (sample,) = read_samples(folder, base_px=None).samples
    return [sample.text, sample.prompt, sample.source, sample.licence]


def civitai(folder: Path, text: str) -> Iterable[str]:
    row = {"url": f"https://host/{text}.png", "id": text, "license": text, "meta": {"prompt": text}}
    (folder / "dump.json").write_text(as_json([row]))
    (entry,) = read_dump(folder / "dump.json")
    assert all(name == printable(name) for name in (entry.address, *entry.names))
    return [entry.prompt, entry.licence]


def parameters(folder: Path, text: str) -> Iterable[str]:
    info = PngInfo()
    info.add_text("prompt", as_json({"prompt": text}))
    Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=info)
    return [statement_inside((folder / "a.png").read_bytes()).prompt]


def reply(write: Callable[[str], str]) -> Read:
    return lambda _, text: parse_reply(write(text)).captions


READERS: dict[str, Read] = {
    "JSON lines": given_file("jsonl", lambda text: as_json({"text": text})),
    "a JSON list": given_file("json", lambda text: as_json([{"text": text}])),
    "an imagefolder": image_rows,
    "samples": samples,
    "a benchmark in JSON": benchmark("json", lambda text: as_json([{"text": text}])),
    "a benchmark in JSON lines": benchmark("jsonl", lambda text: as_json({"text": text})),
    "TIFA": tifa,
    "Civitai": civitai,
    "an image's own metadata": parameters,
    "a reply in JSON": reply(lambda text: as_json([text, text])),
    "a reply of objects": reply(lambda text: as_json({"captions": [{"caption": text}]})),
}
PLAIN: dict[str, Read] = {
    "lines": given_file("txt", lambda text: text),
    "CSV": given_file("csv", lambda text: f'text\n"{text}"\n'),
    "captions beside images": beside,
    "a benchmark of lines": benchmark("txt", lambda text: text),
    "a benchmark in CSV": benchmark("csv", lambda text: f'text\n"{text}"\n'),
    "a reply of rows": reply(lambda text: f'1,"{text}"\n2,"{text}"\n'),
    "a reply": reply(lambda text: f"1. {text}\n2. {text}\n"),
}


@pytest.mark.parametrize("read", {**READERS, **PLAIN}.values(), ids={**READERS, **PLAIN})
def test_what_steers_goes_where_a_text_enters(read: Read, tmp_path: Path, attack: Attack) -> None:
    attack.injects("texts that steer a terminal")
    texts = list(read(tmp_path, ODD))
    assert texts and all(printable(text) == text for text in texts)
    assert {text.strip() for text in texts} == {CLEAN}
    attack.held("texts that steer a terminal")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_half_a_character_goes_or_is_refused(read: Read, tmp_path: Path, attack: Attack) -> None:
    attack.injects("texts that steer a terminal")
    try:
        texts = list(read(tmp_path, HALF))
    except DataError as error:
        str(error).encode()
        attack.held("texts that steer a terminal")
        return
    for text in texts:
        text.encode()
        assert text.startswith("a ") and text.endswith(" dog")
    attack.held("texts that steer a terminal")


@pytest.mark.parametrize("read", {**READERS, **PLAIN}.values(), ids={**READERS, **PLAIN})
def test_a_text_of_nothing_else_is_none(read: Read, tmp_path: Path, attack: Attack) -> None:
    attack.injects("texts that steer a terminal")
    try:
        texts = list(read(tmp_path, "\x1b\u202e\x00"))
    except DataError:
        attack.held("texts that steer a terminal")
        return
    assert not [text for text in texts if text and not text.isprintable()]
    attack.held("texts that steer a terminal")


def test_records_hold_what_can_be_read() -> None:
    prompt = Prompt(id="x", skill="own", text=ODD)
    question = Question(id="1", text=ODD, category=ODD, choices=(ODD,), answer=ODD)
    asked = BenchmarkPrompt(id="x", text=HALF, group=ODD, questions=(question,))
    assert {prompt.text, question.text, question.category, *question.choices, question.answer,
            asked.group} == {" " * 0 + printable(ODD)}  # fmt: skip
    assert asked.text == "a  dog"


def written(show: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> str:
    show()
    return "".join(capfd.readouterr())


def test_no_way_to_the_terminal_sends_it_raw(capfd: pytest.CaptureFixture[str]) -> None:
    def table() -> None:
        table = Table(title=ODD)
        table.add_column(ODD)
        table.add_row(ODD)
        table.add_row(plain(ODD))
        Screen(width=300).print(table)

    def bar() -> None:
        with progress(ODD, total=1) as advance:
            advance(note=ODD)

    shows: list[Callable[[], object]] = [
        lambda: say(ODD + HALF),
        lambda: say(ODD + HALF, err=True),
        lambda: Screen().print(ODD, HALF, markup=False),
        lambda: console.print(f"Warning: {ODD}", markup=False, highlight=False, soft_wrap=True),
        table,
        bar,
    ]
    for show in shows:
        text = written(show, capfd)
        assert "owned" in text and "\\x1b[2J" in text
        assert not set(text) & set("\x1b\x07\x9b\x00\u202e\u2066\x7f\ud800")


def test_a_message_of_any_length_is_cut() -> None:
    assert len(shown("a" * 10**7)) < LONGEST + 100 and "more" in shown("a" * 10**7)


def on_a_terminal(*words: str | Path) -> str:
    """What a terminal is sent by the command."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "selma", *words], stdout=theirs, stderr=theirs, stdin=theirs,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "300"},
    )  # fmt: skip
    os.close(theirs)
    data = b""
    try:
        while part := os.read(ours, 65536):
            data += part
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    process.wait(60)
    return data.decode()


def test_a_servers_refusal_steers_no_terminal(tmp_path: Path, attack: Attack) -> None:
    attack.injects("texts that steer a terminal")
    with serving(Script(fails(400, message=ODD))) as script:
        backend = {"kind": "openai", "model": f"m{ODD}", "base_url": script.url}
        config = {"folder": str(tmp_path / "run"), "prompts": {"backend": backend, "per_skill": 3}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
        text = on_a_terminal("prompts", tmp_path / "own.yaml")
    assert "refused the request for good" in text and "owned" in text
    assert not set(text) & set("\x07\x9b\x00\u202e\u2066\x7f") and "\x1b[2J" not in text
    attack.held("texts that steer a terminal")


def test_an_adapters_names_steer_no_terminal(tmp_path: Path, attack: Attack) -> None:
    attack.injects("texts that steer a terminal")
    factors = {"A": torch.zeros(1, 4), "B": torch.zeros(4, 1)}
    tensors = {f"unet.{ODD.strip()}.lora_{f}.weight": value for f, value in factors.items()}
    header = {"selma": json.dumps({"base": ODD, "made_by": {"experts": {ODD: 1}, "method": ODD}})}
    path = tmp_path / "own.safetensors"
    safetensors.torch.save_file(tensors, path, header)
    text = on_a_terminal("inspect", path)
    assert "owned" in text
    assert not set(text) & set("\x07\x9b\x00\u202e\u2066\x7f") and "\x1b[2J" not in text
    attack.held("texts that steer a terminal")


def test_all_that_is_written_to_a_terminal_goes_one_way() -> None:
    root = Path(selma.__file__).parent
    ways = {"screen.py", "rich_screen.py", "registry.py"}  # the one way, and what lies below it
    found = [
        f"{path.relative_to(root)}:{line}"
        for path in root.rglob("*.py")
        if path.name not in ways and "pretraining" not in path.parts
        for line in _writes(ast.parse(path.read_text("utf-8")))
    ]
    assert not found, f"use selma.screen: {found}"


def _writes(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "print",
            "typer.echo",
            "Console",
            "Text",
        ):
            yield node.lineno
