"""What the documents name exists."""

import importlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from selma.applications import APPLICATIONS
from selma.applications.loading import imported
from selma.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = ("paper.md", "sur.md", "control.md", "subjects.md")
PAPER = "".join((ROOT / "docs" / name).read_text() for name in PAGES)


def in_code(dotted: str) -> bool:
    """Whether selma.<dotted> is a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module("selma." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def in_settings(dotted: str, model: object = RunConfig) -> bool:
    for name in dotted.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        if name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
        for member in getattr(model, "__args__", ()):
            if isinstance(member, type) and issubclass(member, BaseModel):
                model = member
                break
    return True


NAMES = sorted(set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)(?:: [^`]*)?`", PAPER)))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_paper_table_exists(name: str):
    runs = [imported(row.settings) for row in APPLICATIONS.values() if row.settings is not None]
    assert in_code(name) or any(in_settings(name, run) for run in runs), (
        f"a page of docs names {name}"
    )


def test_links_in_documents_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_a_test_that_a_document_names_exists():
    there = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in ROOT.glob("docs/*.md"):
        for name in re.findall(r"`(test_[a-z_]+)`", page.read_text()):
            assert f"def {name}(" in there, f"{page.name}: {name}"
