"""Progress where nobody looks at a terminal: plain lines, and nothing of the libraries' own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from selma import progress as module

COUNTING = """
from selma.progress import progress
with progress("counting [red]", total=3) as advance:
    for _ in range(3):
        advance(note="loss 0.5")
"""
LOADING = """
import torch
from selma.backbones.text_to_image import load_text_to_image
from selma.backbones.judges.loading import load_judge
from selma.config.networks import BaseConfig
model = load_text_to_image(BaseConfig(device="cpu"))
model.denoiser.to(torch.device("cpu"), torch.float32)
load_judge("toybox-a")
model.tokens_cut("red " * 100)
"""


def piped(code: str) -> tuple[str, str]:
    """What a Python program writes where both of its outputs are pipes."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_pipe_gets_plain_lines() -> None:
    out, error = piped(COUNTING)
    assert out == ""
    first, last = error.splitlines()
    assert first == "counting [red]: 0 of 3"
    assert last.startswith("counting [red]: 3 of 3 in 0 s, ")


def test_model_libraries_are_quiet() -> None:
    assert piped(LOADING) == ("", "")


def test_lines_come_at_most_every_so_often(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with module._lines("drawing", total=100, done=10, clock=lambda: now) as advance:
        for _ in range(90):
            now += 1.0
            advance(note="loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing: 10 of 100"
    assert lines[1] == "drawing: 25 of 100, 1.0 a second, 75 s left, loss 0.5"
    assert lines[-1] == "drawing: 100 of 100 in 90 s, 1.0 a second"
    assert len(lines) == 2 + 90 // module.LINE_EVERY_S - 1


def test_what_fails_is_not_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), module.progress("drawing", total=2) as advance:
        advance()
        raise ValueError("no")
    assert capsys.readouterr().err.splitlines() == ["drawing: 0 of 2"]


@pytest.mark.parametrize("done", [1, 0])
def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    from rich.console import Console

    terminal = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr(module, "console", terminal)
    with module.progress("drawing", total=2, done=done) as advance:
        advance()
    shown = terminal.export_text()
    assert "━" in shown and f"{done + 1}/2" in shown
