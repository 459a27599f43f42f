"""Language models and applications of other packages, from their entry points, through the command.

Each test writes a package of its own, as `pip install` would leave it, and runs `selma` beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PARROT = '''
"""A language model that repeats words of toybox's world."""

import itertools
import random
from typing import Literal

from selma.backbones.language.loading import LanguageKind
from selma.backbones.language.model import Reply
from selma.config.places import FilePath
from selma.config.section import Section


class Parrot(Section):
    kind: Literal["parrot"] = "parrot"
    model: Literal["grey", "green"] = "grey"
    words: FilePath


class ParrotModel:
    form = "instructions"
    parallel = 2

    def __init__(self, settings):
        self.name = settings.model
        self.words = open(settings.words).read().split()

    def complete(self, prompts, *, seeds, sampling):
        return [self.reply(random.Random(seed)) for seed in seeds]

    def reply(self, chance):
        lines = [" ".join(chance.sample(self.words, 5)) for _ in range(4)]
        text = "\\n".join(f"{number}. {line}" for number, line in enumerate(lines, 4))
        return Reply(text, prompt_tokens=1, reply_tokens=20, truncated=False)


ROW = LanguageKind(
    name="parrot",
    settings=Parrot,
    load=lambda settings, note, spent: ParrotModel(settings),
    identity=lambda settings: {"kind": "parrot", "model": settings.model},
    parallel=lambda settings: 2,
)
'''

GREETING = '''
"""An application that greets: settings, mistakes and a command of its own."""

from pathlib import Path

import typer

from selma.applications import Application

ROW = Application(
    "greeting", "greeting", section="greeting",
    settings="greeting_settings:GreetingRun", mistakes="greeting_settings:mistakes",
)


def greet(config: Path) -> None:
    """Greet everyone whom the config names, in the run's folder."""
    from greeting_settings import GreetingRun, mistakes

    from selma.applications.loading import load_config
    from selma.pipeline import opened

    settings = load_config(config, GreetingRun)
    with opened(settings, make=[], mistakes=mistakes(settings, [])) as this:
        typer.echo(f"Hello {this.config.greeting.whom}, with seed {settings.seed}.")


def register(app: typer.Typer) -> None:
    app.command()(greet)
'''

GREETING_SETTINGS = """
from selma.config import RunConfig
from selma.config.places import FilePath
from selma.config.section import Section
from selma.preflight import absent


class Greeting(Section):
    whom: str = "world"
    list_file: FilePath | None = None


class GreetingRun(RunConfig):
    greeting: Greeting = Greeting()


def mistakes(config, make):
    yield from absent(config.greeting, "greeting")
"""


def package(folder: Path, group: str, name: str, **modules: str) -> None:
    """A distribution of these modules, whose first has the row."""
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    about = folder / f"selma_{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: selma-{name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:ROW\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    package(folder, "selma.language_models", "parrot", parrot=PARROT)
    modules = {"greeting": GREETING, "greeting_settings": GREETING_SETTINGS}
    package(folder, "selma.applications", "greeting", **modules)
    return folder


def selma(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "selma", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
    )


def test_a_language_model_of_another_package_writes_prompts(site: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("red blue circle square above below small large two four")
    backend = "{kind: parrot, model: green, words: words.txt}"
    path = tmp_path / "some.yaml"
    path.write_text(
        f"folder: {tmp_path / 'run'}\n"
        f"prompts: {{skills: [toybox_coco], per_skill: 6, backend: {backend}}}\n"
    )
    done = selma(site, "prompts", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("toybox_coco: 6 prompts\n")
    lines = (tmp_path / "run" / "1-prompts" / "toybox_coco" / "prompts.jsonl").read_text()
    assert len(lines.splitlines()) == 6
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["prompts"]["backend"]["words"] == "../words.txt"
    assert "1-prompts" in selma(site, "status", tmp_path / "run").stdout
    # What is missing is told before a run, as of our own kinds.
    (tmp_path / "words.txt").unlink()
    failed = selma(site, "check", path)
    assert failed.returncode == 2 and "prompts.backend.words: must be a file" in failed.stderr


def test_an_application_of_another_package_has_a_command_and_a_section(
    site: Path, tmp_path: Path
) -> None:
    assert "greet" in selma(site, "--help").stdout
    path = tmp_path / "some.yaml"
    path.write_text(f"folder: {tmp_path / 'run'}\nseed: 3\ngreeting: {{whom: all}}\n")
    done = selma(site, "greet", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Hello all, with seed 3.\n")
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["greeting"] == {"whom": "all", "list_file": None}
    # Other commands pass its section over, and `check` looks at it too.
    assert selma(site, "status", tmp_path / "run").returncode == 0
    assert selma(site, "check", path).returncode == 0
    path.write_text("greeting: {list_file: gone.txt}\nbase: {model: nowhere}\n")
    failed = selma(site, "check", path)
    assert failed.returncode == 2 and "for 2 mistake" in failed.stderr
    assert "greeting.list_file: must be a file" in failed.stderr and "base.model" in failed.stderr
    # Where the package is gone, its section is a mistake.
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "greeting: is not a setting" in selma(empty, "check", path).stderr


NAMING = "from selma.applications import Application\n\nROW = Application('broken', '{}')\n"
BROKEN = {
    "cannot be imported": "import no_such_module\n",
    "no rows": "ROW = 3\n",
    "no row of that table": "class Other:\n    name = 'broken'\n\n\nROW = Other()\n",
    "commands that cannot be imported": NAMING.format("no_such_module"),
    "commands without register": NAMING.format("broken"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_application_breaks_no_other_command(
    case: str, site: Path, tmp_path: Path
) -> None:
    package(site, "selma.applications", "broken", broken=BROKEN[case])
    path = tmp_path / "some.yaml"
    path.write_text(f"folder: {tmp_path / 'run'}\nseed: 3\ngreeting: {{whom: all}}\n")
    for words in (["--help"], ["check", path], ["greet", path]):
        done = selma(site, *words)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Warning: ") == 1 and "Traceback" not in done.stderr
        assert "The entry point 'broken' of selma.applications (broken:ROW) is left" in done.stderr
    failed = selma(site, "broken", path)
    assert failed.returncode == 2 and "Warning: The entry point 'broken'" in failed.stderr


@pytest.mark.parametrize("group", ["selma.judges", "selma.merge_methods", "selma.objectives"])
def test_a_broken_row_stops_only_who_names_it(group: str, site: Path, tmp_path: Path) -> None:
    package(site, group, "broken", broken="import no_such_module\n")
    path = tmp_path / "some.yaml"
    path.write_text(f"folder: {tmp_path / 'run'}\n")
    done = selma(site, "check", path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("Warning: ") <= 1, "what nobody asks for is not even looked at"
    setting = {
        "selma.judges": "scores: {judge: broken}",
        "selma.merge_methods": "merged: {method: broken}",
        "selma.objectives": "experts: {objective: {kind: broken}}",
    }[group]
    path.write_text(f"folder: {tmp_path / 'run'}\n{setting}\n")
    failed = selma(site, "check", path)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    error = failed.stderr.partition("Error: ")[2]
    assert f"The entry point 'broken' of {group} (broken:ROW) is left out" in error, failed.stderr
    assert "No module named 'no_such_module'" in error
