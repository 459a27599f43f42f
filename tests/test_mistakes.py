"""Mistakes that people make with every command: a sentence and an exit code, never a traceback."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest

from selma import cli

RUN = "must be the folder of a run, but has no readable run.json"
MISTAKES: list[tuple[str, int, str]] = [
    ("nosuch", 2, "No such command 'nosuch'"),
    ("run", 2, "Missing argument 'CONFIG'"),
    ("run nosuch.yaml", 2, "nosuch.yaml cannot be read: there is no such file."),
    ("run empty", 2, "empty must be a YAML file of settings, but is a folder."),
    ("run text.txt", 2, "text.txt must be a mapping of settings, but has a text."),
    ("run bad.yaml", 2, "bad.yaml is not valid YAML"),
    ("run good.yaml --folder text.txt", 2, "text.txt must be a folder, but is a file."),
    ("check good.yaml --folder text.txt/run", 2, "text.txt must be a folder, but is a file."),
    ("run good.yaml --folder ''", 2, 'name "." for this one'),
    ("check good.yaml good.yaml", 2, "unexpected extra argument"),
    ("memory good.yaml --limit x", 2, "'--limit'"),
    ("memory good.yaml --limit -1", 2, "'--limit'"),
    ("plan good.yaml", 2, "Missing option '--kind'"),
    ("plan good.yaml --kind abacus", 2, "must be a kind of device (l40, l40s, a100, h100, h200"),
    ("plan good.yaml --kind cpu --gpus 0", 2, "'--gpus'"),
    ("plan good.yaml --kind h100 --measure", 2, "but --kind is h100"),
    (
        "status nosuch",
        5,
        "nosuch must be the folder of a run, but is missing. Name another one, or",
    ),
    ("status text.txt", 5, "text.txt must be the folder of a run, but is a file."),
    ("status empty", 5, f"empty {RUN}"),
    ("card empty", 5, RUN),
    ("push nosuch a/b", 5, "let `selma run CONFIG --folder nosuch` make it"),
    ("push empty nonsense", 2, "A repository is named owner/name, but 'nonsense' came."),
    ("study serve empty", 5, RUN),
    ("study report nosuch", 5, "Run `selma study serve RUN` first."),
    ("inspect nosuch", 3, "there is none"),
    ("inspect empty", 3, "but is empty"),
    ("inspect text.txt", 3, "must be a .safetensors file"),
    ("convert text.txt --out x.safetensors", 2, "Missing option '--to'"),
    ("convert text.txt --to kohya --out x.safetensors", 3, "must be a .safetensors file"),
    ("bases empty", 3, "empty has no readable model_index.json"),
    ("bases text.txt", 3, "'text.txt' is none of them"),
    ("generate dog --sur empty", 3, "--sur must be sur_adapter.safetensors or the folder"),
    ("generate dog --sur text.txt", 3, "must be a .safetensors file"),
    ("merge a.safetensors", 2, "Merging files needs --out"),
    ("merge a.safetensors b.safetensors --out c.safetensors", 3, "there is none"),
    ("merge empty --out c.safetensors", 3, "but is empty"),
    ("merge a b --method nosuch --out c", 2, "must be a merge method"),
    ("merge a b --weights x --out c", 2, "'x' came"),
    ("score nosuch", 2, "nosuch cannot be read: there is no such file."),
    ("score dsg", 2, "Missing option '--annotations'"),
    ("score dsg --annotations nosuch --answers text.txt", 3, "nosuch cannot be read"),
    ("score dsg --annotations table.csv --answers table.csv", 3, "Its first line has: x, y."),
    ("score dsg --annotations text.txt --answers text.txt", 3, "Its first line has: hello."),
    ("score tifa --questions list.json --answers text.txt", 3, "must hold questions, but has none"),
    ("score tifa --questions empty --answers text.txt", 3, "tifa_v1.0_question_answers.json"),
    ("score correlate --answers a --ratings b", 2, "Name either --annotations"),
    ("score images nosuch", 3, "must be a folder of images"),
    ("score images text.txt", 3, "must be a folder of images"),
    ("score images empty", 3, "must hold an image of every prompt"),
    ("score images empty --benchmark nosuch", 3, "The benchmark nosuch is missing."),
    ("score images empty --judge nosuch.yaml", 2, "must hold a judge's settings"),
    ("score convert nosuch out --kind clip", 3, "there is no such file"),
    ("score convert text.txt out --kind nosuch", 2, "kind must be one of"),
    ("score hps empty --prompts empty --model empty", 3, "anime.json"),
    ("data fetch nosuch", 2, "A benchmark must be one of dpg-bench, dsg-1k"),
    ("data fetch dsg-1k --to text.txt", 3, "text.txt cannot be used: File exists."),
    ("toybox subjects text.txt", 3, "cannot be used: Not a directory."),
    ("questions text.txt --out q.csv", 2, "One language model must be named"),
    ("questions text.txt --out q.csv --backend nosuch.yaml", 2, "there is no such file"),
    ("control train nosuch.yaml", 2, "there is no such file"),
    ("subjects train nosuch.yaml", 2, "there is no such file"),
    ("sur train text.txt", 2, "must be a mapping of settings"),
    ("oft angles nosuch --out o", 3, "nosuch must be toybox or a folder of images, but is none."),
    ("oft angles empty --out o", 3, "empty must have 1100 images"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (
        ("text.txt", "hello\n"),
        ("bad.yaml", "a: [1\n"),
        ("good.yaml", "prompts: {skills: [toybox_coco]}\n"),
        ("list.json", "[]"),
        ("table.csv", "x,y\n1,2\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    return tmp_path


@pytest.mark.parametrize(("line", "code", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    line: str, code: int, message: str,
) -> None:  # fmt: skip
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("sys.argv", ["selma", *shlex.split(line)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = " ".join(capsys.readouterr().err.split())
    assert (ended.value.code, message in output) == (code, True), output
    assert sorted(path.name for path in folder.iterdir()) == before
