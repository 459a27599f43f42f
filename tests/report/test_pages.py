"""Pages that reach the report through the run folder: shown, escaped, bounded, left in peace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from report.test_page import CONFIG, HOSTILE, Parsed, addresses
from report.world import findings

from selma.errors import DataError
from selma.records.pages import Page, PageTable
from selma.records.report import Findings
from selma.report import page
from selma.report.pages import MOST_BYTES, entries, read_pages, write_page
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(tmp_path_factory.mktemp("world"), merged=0.3)


def a_page(**different: Any) -> Page:
    table = PageTable(caption="A table", columns=("Model", "score"), rows=(("base", "61.2"),))
    given = {"name": "mine", "title": "Mine", "headline": "It works.", "tables": (table,)}
    return Page(**given | different)


def test_a_page_is_a_section_with_its_table_and_a_link(found: Findings, tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    path = write_page(a_page(file="mine/index.html"), folder, "<p>all of it</p>")
    assert path.read_text() == "<p>all of it</p>"
    shown = Parsed(page.write_report(found, CONFIG, folder).read_text())
    for words in ("Mine", "It works.", "A table", "Model score base 61.2", "The full page"):
        assert words in shown.text
    assert {"#page-mine", "mine/index.html"} <= set(addresses(shown))
    assert "made anew" not in shown.text


def test_a_full_page_that_is_gone_is_not_linked(found: Findings, tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    write_page(a_page(file="mine.html"), folder, "").unlink()
    shown = Parsed(page.write_report(found, CONFIG, folder).read_text())
    assert "It works." in shown.text and "mine.html" not in set(addresses(shown))


def test_all_that_a_page_says_stays_text(found: Findings) -> None:
    table = PageTable(caption=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),), notes=(HOSTILE,))
    hostile = a_page(
        title=HOSTILE, headline=HOSTILE, tables=(table,), notes=(HOSTILE,), about={HOSTILE: "key"}
    )
    mild = Parsed(page.render(found, CONFIG, [a_page(about={"base": "key"}, notes=("note",))]))
    shown = Parsed(page.render(found, CONFIG, [hostile]))
    assert "{{ 7*7 }}" in shown.text
    assert [tag for tag, _ in shown.tags].count("script") == 1
    assert not [name for _, attrs in shown.tags for name in attrs if name.startswith("on")]
    assert {tag for tag, _ in shown.tags} <= {tag for tag, _ in mild.tags}


@pytest.mark.parametrize(
    "wrong",
    [
        {"file": "../../run.json"},
        {"file": "/etc/passwd"},
        {"file": "a/../../b"},
        {"file": "a b"},
        {"file": "javascript:alert(1)"},
        {"name": "../mine"},
        {"name": "a/b"},
        {"name": ""},
        {"title": "x" * 401},
        {"about": {"base": 1}},
        {"more": 1},
    ],
)
def test_a_page_is_refused_where_it_is_made_and_where_it_is_read(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        a_page(**wrong)
    path = write_page(a_page(), Workspace(tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(DataError, match=r"mine\.json cannot be shown"):
        read_pages(Workspace(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 10_000])
def test_what_is_no_page_is_named(tmp_path: Path, text: str) -> None:
    path = write_page(a_page(), Workspace(tmp_path))
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.json cannot be shown.*Remove it"):
        read_pages(Workspace(tmp_path))


def test_numbers_are_no_text_and_a_table_is_rectangular(tmp_path: Path) -> None:
    path = write_page(a_page(), Workspace(tmp_path))
    value = json.loads(path.read_text())
    for rows in ([["base", 61.2]], [["base"]], [["base", "1", "2"]]):
        value["tables"][0]["rows"] = rows
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match=r"tables\.0"):
            read_pages(Workspace(tmp_path))


def test_sizes_are_bounded_and_names_agree(tmp_path: Path) -> None:
    path = write_page(a_page(), Workspace(tmp_path))
    text = path.read_text()
    path.write_text(text + " " * MOST_BYTES)
    with pytest.raises(DataError, match="at most"):
        read_pages(Workspace(tmp_path))
    path.write_text(text)
    path.rename(path.with_name("other.json"))
    with pytest.raises(DataError, match="holds 'mine'"):
        read_pages(Workspace(tmp_path))


def test_a_page_cannot_claim_the_reports_own_files(tmp_path: Path) -> None:
    for file in ("index.html", "manifest.json", "pages/other.json"):
        write_page(a_page(file=file), Workspace(tmp_path))
        with pytest.raises(DataError, match="the report's own"):
            read_pages(Workspace(tmp_path))


@pytest.mark.parametrize("order", ["page first", "report first"])
def test_a_new_report_leaves_pages_where_they_are(
    found: Findings, tmp_path: Path, order: str
) -> None:
    folder = Workspace(tmp_path)
    if order == "report first":
        page.write_report(found, CONFIG, folder)
    write_page(a_page(file="mine/index.html"), folder, "mine")
    (tmp_path / "6-report" / "mine" / "manifest.json").write_text("{}")
    write_page(a_page(name="other", file="other.html"), folder, "other")
    before = {path: path.read_bytes() for path in (tmp_path / "6-report").rglob("*")
              if path.is_file() and path.name not in ("index.html", "grid.png", "scores.json")
              and path.parent.name != "6-report"}  # fmt: skip
    for prompts in (3, 4):
        config = CONFIG.model_copy(update={"grid_prompts": prompts})
        shown = page.write_report(found, config, folder).read_text()
        assert "It works." in shown
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "6-report" / "mine" / "index.html").read_text() == "mine"
    assert (tmp_path / "6-report" / "other.html").read_text() == "other"
    moved = {path.name for path in (tmp_path / "superseded").rglob("*") if path.is_file()}
    assert moved == {"index.html", "grid.png", "scores.json", "plan.json", "manifest.json"}


def test_entries_are_all_that_belongs_to_pages() -> None:
    files = ("control.html", "_subjects/index.html", None)
    pages = [a_page(name=str(number), file=file) for number, file in enumerate(files)]
    assert entries(pages) == {"pages", "control.html", "_subjects"}
