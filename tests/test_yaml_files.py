"""YAML of any size and depth, and files that are none: an answer at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import Attack

from selma.adapters.peft_settings import peft_json
from selma.applications.comparisons.recipes import load_comparison
from selma.applications.evaluation.images import judge_from
from selma.applications.questions.settings import backend_of
from selma.config import load_config, parse_config
from selma.config.yaml_files import MOST_BYTES, NoYaml, parsed_yaml
from selma.errors import SelmaError
from selma.plainfiles import plain_bytes, plain_text
from selma.prompts.lexicon import reply_grammar
from selma.prompts.skills import load_skills
from selma.scores.benchmarks import read_benchmark
from selma.textfiles import read_text


def bomb(levels: int = 9, width: int = 10) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int = 30) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


BAD = {
    "aliases": (bomb(), "its aliases"),
    "merges": (merges(), "its aliases"),
    "an alias in itself": ("a: &a [*a]", "inside of what it names"),
    "an alias in itself, deep": ("a: &a {b: {c: [*a]}}", "inside of what it names"),
    "depth": ("[" * 5000, "too deeply"),
    "a key twice": ("a: 1\na: 2", "the key 'a' is given twice"),
    "a long key twice": (f"? {'k' * 5000}\n: 1\n? {'k' * 5000}\n: 2", "is given twice"),
    "a key that is a list": ("? [1]\n: 2", "unhashable"),
    "a tag": (f"!{'x' * 5000} a", "constructor"),
    "a number": (f"a: {'9' * 10_000}", "digits"),
    "a time": ("a: 2020-99-99", "month"),
    "escapes": ('a: "\\ud800\x1b[2J"', "characters"),
}


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_what_is_no_yaml_of_a_persons_is_refused_at_once(
    text: str, why: str, attack: Attack
) -> None:
    attack.injects("YAML: what no person writes")
    started = time.process_time()
    with pytest.raises(NoYaml, match=why) as refused:
        parsed_yaml(text)
    assert time.process_time() - started < 2
    assert len(str(refused.value)) < 800 and str(refused.value).isascii()
    attack.held("YAML: what no person writes")


def test_yaml_means_what_it_means_to_the_library() -> None:
    text = "a: &a {b: [1, 2.5, yes, null]}\nc: *a\nd: {<<: *a, e: 0x1f}\nf: 2020-01-01\n"
    assert parsed_yaml(text) == yaml.safe_load(text)
    assert parsed_yaml("") is None and parsed_yaml("a") == "a"


PLACES: dict[str, str] = {
    "a setting": "images: {{steps: {0}}}",
    "skills": "prompts: {{skills: {0}}}",
    "an unknown key": "nothing: {0}",
    "a kind": "prompts: {{backend: {{kind: {0}}}}}",
    "raw settings": "sur: {{ablation: {{own: {0}}}}}",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_bomb_in_any_place_of_a_config_is_refused_in_short(
    place: str, tmp_path: Path, attack: Attack
) -> None:
    attack.injects("YAML: what no person writes")
    path = tmp_path / "own.yaml"
    path.write_text(bomb() + place.format("*a8"))
    started = time.process_time()
    with pytest.raises(SelmaError, match="its aliases") as refused:
        load_config(path)
    assert time.process_time() - started < 1 and len(str(refused.value)) < 500
    attack.held("YAML: what no person writes")


def test_a_bomb_in_a_skills_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"{bomb()}name: own\ndescription: *a8\n")
    with pytest.raises(SelmaError, match="its aliases"):
        load_skills([str(path)])


@pytest.mark.parametrize(
    "value", [["a" * 10**6] * 1000, {"k" * 10**6: 1}, 10**200_000, "a" * 10**7], ids=range(4)
)
def test_no_message_about_settings_is_longer_than_a_page(
    value: Any, tmp_path: Path, attack: Attack
) -> None:
    attack.injects("YAML: what no person writes")
    for raw in ({"base": {"device": value}}, {"base": value}, {"prompts": {"backend": value}}):
        with pytest.raises(SelmaError) as refused:
            parse_config({"name": "x", **raw}, _run(), origin=tmp_path, folder=tmp_path)
        assert len(str(refused.value)) < 3000
    attack.held("YAML: what no person writes")


def _run() -> Any:
    from selma.config import RunConfig

    return RunConfig


@pytest.mark.parametrize("before", ["", "prompts:\n", "prompts:\n  skills:\n"])
def test_many_unknown_keys_are_told_of_in_linear_time(before: str, tmp_path: Path) -> None:
    start = "  " * before.count("\n") + "- " * ("skills" in before)
    path = tmp_path / "own.yaml"
    path.write_text(before + "".join(f"{start}k{n}: 1\n" for n in range(20_000)))
    started = time.process_time()
    with pytest.raises(SelmaError, match=r"20,?000|and [\d,]+ more") as refused:
        load_config(path)
    assert time.process_time() - started < 20
    assert str(refused.value).count("\n") <= 60


def _judge(path: Path) -> Any:
    return judge_from(str(path))


def _skill(path: Path) -> Any:
    return load_skills([str(path)])


@pytest.mark.parametrize("read", [load_config, load_comparison, _skill, _judge])
def test_every_file_of_settings_lists_its_first_mistakes(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("kind: transformers\nmodel: m\n" + "".join(f"k{n}: 1\n" for n in range(300)))
    with pytest.raises(SelmaError, match=r"and 2[5-9]\d more") as refused:
        read(path)
    assert len(str(refused.value)) < 8000


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3_000_000_000)  # sparse: it takes no room


SPECIAL = {"pipe": pipe, "device": device, "socket": listening, "endless": endless}
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "config": ("x.yaml", load_config),
    "skill": ("x.yaml", lambda path: load_skills([str(path)])),
    "judge": ("x.yaml", lambda path: judge_from(str(path))),
    "language model": ("x.yaml", lambda path: backend_of(str(path))),
    "text": ("x.txt", read_text),
    "benchmark": ("x.json", read_benchmark),
    "benchmark in CSV": ("x.csv", read_benchmark),
    "lexicon": (
        "x.txt",
        lambda p: reply_grammar(load_skills(["coco"])[0], str(p), first=0, asked=1),
    ),
    "peft": ("adapter_config.json", lambda path: peft_json(path.with_name("x.safetensors"))),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_no_file_that_is_named_is_waited_for_or_fills_the_memory(
    name: str, read: Callable[[Path], Any], make: Callable[[Path], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, attack: Attack,
) -> None:  # fmt: skip
    attack.injects("odd files: named in settings")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(Path(name))
    started = time.process_time()
    with pytest.raises(SelmaError, match=r"regular file|larger than|No such device|must be one of"):
        read(tmp_path / name)
    assert time.process_time() - started < 5
    attack.held("odd files: named in settings")


def test_a_command_does_not_wait_for_a_config_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "selma", "check", tmp_path / "x.yaml"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "x.yaml cannot be read: it is a pipe, and must be a regular file." in done.stderr


def test_regular_files_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb\rc\n\xc3\xa4")
    assert plain_bytes(path, most=9) == path.read_bytes()
    assert plain_text(path, most=9) == path.read_text("utf-8")
    with pytest.raises(OSError, match="it is larger than 8 bytes"):
        plain_bytes(path, most=8)
    with pytest.raises(IsADirectoryError):
        plain_bytes(tmp_path, most=8)
    with pytest.raises(FileNotFoundError):
        plain_bytes(tmp_path / "nothing", most=8)
    assert MOST_BYTES == 1_000_000
