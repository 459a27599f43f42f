"""What the documents name exists: names of code and settings, files, commands, options, links."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from selma.applications import APPLICATIONS
from selma.applications.loading import imported
from selma.cli import app
from selma.merged.methods import METHODS
from selma.status import State

ROOT = Path(__file__).parents[1]
LOG = ROOT / "docs" / "log.md"
"""It tells of the past."""
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")} - {LOG})
CONFIGS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/bases/*.yaml")])
FILES = "py|jsonl?|ya?ml|toml|txt|md|html|safetensors|png"
OTHERS = ("accelerator.",)
"""Names of other programs."""
SOURCE = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))


def in_code(dotted: str) -> bool:
    """Whether selma.<dotted> is a module, or something in one."""
    parts = dotted.removeprefix("selma.").split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module("selma." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            fields = getattr(value, "__dataclass_fields__", {})
            if not hasattr(value, name):
                return name in fields
            value = getattr(value, name)
        return True
    return False


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """All sections of settings that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections(argument)


def in_settings(dotted: str, *models: type[BaseModel]) -> bool:
    """Whether this is a setting of one of the models; a merge method's own among them."""
    name, _, rest = dotted.partition(".")
    fields = [model.model_fields[name] for model in models if name in model.model_fields]
    if fields and rest:
        inner = [section for field in fields for section in sections(field.annotation)]
        methods = [row.settings for row in METHODS.values()] if name == "merged" else []
        return in_settings(rest, *inner, *methods)
    return bool(fields)


RUNS = [imported(row.settings) for row in APPLICATIONS.values() if row.settings is not None]


def named(pattern: str) -> list[tuple[str, str]]:
    """(page, match) of all that stands in backticks and matches."""
    return sorted(
        {
            (page.name, match)
            for page in PAGES
            for match in re.findall(rf"`({pattern})(?:: [^`]*)?`", page.read_text("utf-8"))
        }
    )


@pytest.mark.parametrize(("page", "name"), named(r"[a-z_]+(?:\.[A-Za-z_]\w*)+"))
def test_a_name_in_a_document_exists(page: str, name: str) -> None:
    if re.search(rf"\.({FILES})$", name) or name.startswith(OTHERS):
        return  # files are looked at below
    group = f'"{name}"' in SOURCE  # of entry points
    assert group or in_code(name) or in_settings(name, *RUNS), f"{page} names {name}"


@pytest.mark.parametrize(("page", "name"), named(rf"[\w./*-]+\.(?:{FILES})"))
def test_a_file_in_a_document_exists(page: str, name: str) -> None:
    starts = (ROOT, ROOT / "docs", ROOT / "src" / "selma")
    if name.startswith(("bench/", "configs/", "docs/", "src/", "tests/")) or name.endswith(".py"):
        pattern = name if "/" in name else f"**/{name}"
        assert any(any(start.glob(pattern)) for start in starts), f"{page}: {name}"
    else:  # in a run's folder, or a format's: code names it
        last = Path(name).name
        assert last in SOURCE or any((ROOT / "src").rglob(last)) or (ROOT / last).exists(), name


@pytest.mark.parametrize(("page", "name"), named(r"[\w./-]+/"))
def test_a_folder_in_a_document_exists(page: str, name: str) -> None:
    starts = (ROOT, ROOT / "src" / "selma", *(ROOT / "src" / "selma").iterdir())
    there = any((start / name).is_dir() for start in starts)
    # Else in a run's folder: code names it.
    written = re.search(rf"(?<![\w.-])({re.escape(name)}|[\"']{re.escape(name[:-1])}[\"'])", SOURCE)
    assert there or written, (page, name)


def commands() -> list[tuple[str, str]]:
    """(file, command line) of every `selma ...` in documents and configs."""
    lines = []
    for path in [*PAGES, *CONFIGS]:
        text = path.read_text("utf-8").replace("\\\n", " ")
        start = "# +" if path in CONFIGS else " {4}"
        blocks = re.findall(rf"^{start}((?:\S.* )?selma [a-z].*)", text, re.M)
        lines += [(path.name, line) for line in [*blocks, *re.findall(r"`(selma [^`]+)`", text)]]
    return sorted(set(lines))


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_in_a_document_has_its_options(page: str, line: str) -> None:
    for part in re.sub(r"\s#.*", "", line).split("&&"):
        if "selma " not in part:
            continue
        command: Any = get_command(app)
        words = part.partition("selma ")[2].split()
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page}: {line}"
            command = command.commands[words.pop(0)]
        parameters = command.get_params(command.make_context("", [], resilient_parsing=True))
        known = {option for one in parameters for option in (*one.opts, *one.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{page}: {line}"


def test_benches_that_documents_name_have_their_options() -> None:
    benches = {path.name: path.read_text("utf-8") for path in ROOT.glob("bench/*.py")}
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"(?:bench/|`)(\w+\.py)([^\n`]*)", text):
            for option in re.findall(r"--([a-z-]+)", rest):
                assert re.search(rf"\b{option.replace('-', '_')}:", benches[name]), (page, name)


def test_configs_that_documents_name_exist() -> None:
    for page in [*PAGES, *CONFIGS]:
        for name in re.findall(r"configs/[\w-]+\.yaml", page.read_text("utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_links_in_documents_lead_somewhere() -> None:
    for page in [*PAGES, LOG]:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in slugs, f"{page.name}: {target}"


def test_a_test_that_a_document_names_exists() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_[a-z_]+)`", page.read_text("utf-8")):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


def test_the_guide_explains_every_word_of_status() -> None:
    explained = (ROOT / "docs" / "guide.md").read_text("utf-8")
    section = explained.split("## What a run has")[1].split("\n## ")[0]
    states = set(get_args(State)) - {"partial"} | {"begun"}
    assert states == {word for word in states if f"`{word}`" in section}


def groups(command: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group of commands, and the words by which it is called."""
    if inner := getattr(command, "commands", None):
        yield above, command
        for name, each in inner.items():
            yield from groups(each, *above, name)


@pytest.mark.parametrize(("words", "group"), list(groups(get_command(app))), ids=str)
def test_help_shows_each_commands_sentence_whole(words: tuple[str, ...], group: Any) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).output
    assert max(map(len, shown.splitlines())) <= 80
    for command in group.commands.values():
        sentence = (command.help or "").strip().split("\n\n")[0].split(". ")[0]
        assert " ".join(sentence.split()).rstrip(".") in " ".join(shown.split())
