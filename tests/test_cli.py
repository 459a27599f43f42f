"""The command as a user meets it: exit codes, one clear message, and no model library to look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selma.cli import SPINS

SLOW = ("torch", "diffusers", "transformers", "peft", "accelerate", "openai")


def selma(*arguments: str | Path, **different: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selma", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | different,
        timeout=120,
    )


def loaded_by(*arguments: str | Path) -> tuple[int, set[str]]:
    """Exit code of a command, and the modules that it has loaded."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = {['selma', *map(str, arguments)]!r}\n"
        "from selma.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings that can start; the base is only looked at, never loaded."""
    (tmp_path / "base").mkdir()
    index = {"_class_name": "StableDiffusionPipeline"}
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    path = tmp_path / "some.yaml"
    path.write_text(
        f"folder: {tmp_path / 'run'}\nbase: {{model: base}}\nprompts: {{skills: [toybox_coco]}}\n"
    )
    return path


def test_help_loads_neither_models_nor_settings() -> None:
    code, loaded = loaded_by("--help")
    assert code == 0
    assert not loaded & {*SLOW, "pydantic", "numpy", "scipy", "PIL", "yaml"}
    assert "rich" not in loaded_by("--version")[1]


def test_help_has_a_sentence_for_each_command() -> None:
    shown = selma("--help").stdout
    for name in (
        *("run", "prompts", "images", "experts", "merge", "score", "report"),
        *("convert", "status", "check", "generate", "toybox", "study", "questions", "data"),
        *("bases", "card", "push", "memory", "plan", "inspect"),
    ):
        assert any(
            line.split()[:1] == [name] and len(line.split()) > 4 for line in shown.splitlines()
        ), name


def test_check_loads_no_model_library(config: Path) -> None:
    _, loaded = loaded_by("check", config)
    assert not loaded & set(SLOW)


def test_dry_run_makes_nothing_and_loads_no_model_library(config: Path) -> None:
    code, loaded = loaded_by("run", config, "--dry-run")
    assert code == 0
    assert not loaded & set(SLOW)
    assert not (config.parent / "run").exists()


def test_dry_run_shows_each_stage(config: Path) -> None:
    shown = selma("run", config, "--dry-run").stdout
    for stage in ("1-prompts", "2-images", "3-experts", "4-merged", "5-scores", "6-report"):
        assert stage in shown
    assert "toybox_coco" in shown


@pytest.mark.parametrize("merged", ["{method: tis}", "{method: ties, densty: 0.2}"])
def test_dry_run_finds_mistakes_of_a_merge_that_waits(config: Path, merged: str) -> None:
    config.write_text(f"{config.read_text()}\nmerged: {merged}\n")
    assert selma("run", config, "--dry-run").returncode == 2


def test_dry_run_refuses_what_check_refuses(config: Path) -> None:
    config.write_text(f"{config.read_text()}\nscores: {{benchmark: nosuch.csv}}\n")
    refused = selma("run", config, "--dry-run")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr == selma("check", config).stderr


@pytest.mark.parametrize("command", ["run", "prompts", "images", "report", "check"])
def test_a_mistake_is_one_message_and_exit_2(tmp_path: Path, command: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("images: {steps: 0}")
    done = selma(command, path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and "images.steps" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "sur collect", "control prepare", "check"])
def test_a_mistake_in_any_section_stops_every_command(tmp_path: Path, command: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("sur: {typo: 1}\ncontrol: {data: {conditon: depth}}\nsubjects: 3")
    done = selma(*command.split(), path)
    assert done.returncode == 2
    for key in ("sur.typo", "control.data.conditon", "subjects"):
        assert key in done.stderr


def test_a_stage_names_the_command_that_must_run_first(config: Path) -> None:
    done = selma("images", config)
    assert done.returncode == 5, done.stderr
    assert "selma prompts CONFIG" in done.stderr


def test_status_of_no_run_is_exit_5(tmp_path: Path) -> None:
    done = selma("status", tmp_path)
    assert done.returncode == 5 and "must be the folder of a run" in done.stderr


def test_an_unknown_command_is_exit_2() -> None:
    assert selma("fly").returncode == 2


def test_generate_saves_only_png(tmp_path: Path) -> None:
    done = selma("generate", "a cat", "--out", tmp_path / "a.bmp")
    assert done.returncode == 2 and ".png" in done.stderr


def test_toybox_path_prints_the_folder() -> None:
    assert selma("toybox", "path").stdout.strip().endswith("weights")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(number: int, code: int) -> None:
    # A command that waits, in place of minutes of work, at a moment that the test can know.
    script = (
        "import sys, time\n"
        "from selma import cli\n"
        "@cli.app.command()\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.argv = ['selma', 'wait']\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on" in said and "Traceback" not in said


@pytest.mark.parametrize(("given", "expected"), [("", SPINS), ("7", "7")])
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(
    given: str, expected: str
) -> None:
    """Set before anything imports torch; libgomp reads it then."""
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: print(os.environ['GOMP_SPINCOUNT'], file=sys.stderr))\n"
        "sys.argv = ['selma', '--help']\n"
        "from selma.cli import main\n"
        "main()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stderr.split()[-1] == expected
