"""Further pages of a run's report: written here by their makers, listed and linked by stage 6.

6-report/pages/<name>.json    a `Page`, written atomically
6-report/<page.file>          the full page, self-contained
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from selma.disk import make_folder, read_regular
from selma.errors import DataError
from selma.records.pages import Page
from selma.texts import mistake_at
from selma.workspace import REPORT, Workspace, inside, write_bytes, write_json

PAGES = "pages"
MOST_BYTES = 2_000_000
OWN = frozenset({"index.html", "grid.png", "scores.json", "plan.json", "manifest.json", PAGES})
"""Names in the folder that belong to stage 6 itself, and to no page."""


def write_page(page: Page, folder: Workspace, html: str | None = None) -> Path:
    """Add a page to the run's report. Returns the path of the full page, else of its record.

    html: the full page, written to `page.file` first; None if it exists already.
    """
    report = folder.root / REPORT
    record = inside(report, f"{PAGES}/{page.name}.json")
    make_folder(record.parent)
    full = None if page.file is None else inside(report, page.file)
    if html is not None and full is not None:
        make_folder(full.parent)
        write_bytes(full, html.encode())
    write_json(record, page.model_dump(mode="json"))
    return record if full is None else full


def read_pages(folder: Workspace) -> list[Page]:
    """All pages of the run, by name; a page whose full page is missing has no `file`.

    Raises DataError for a file that is not a page.
    """
    report = folder.root / REPORT
    pages = [_read(path) for path in sorted((report / PAGES).glob("*.json"))]
    return [
        page
        if page.file is None or inside(report, page.file).is_file()
        else page.model_copy(update={"file": None})
        for page in pages
    ]


def entries(pages: Iterable[Page]) -> set[str]:
    """Names in `6-report` that belong to the pages rather than to the report itself."""
    return {PAGES} | {page.file.partition("/")[0] for page in pages if page.file is not None}


def changed(page: Page, keys: Mapping[str, str]) -> list[str]:
    """The parts of the run that changed or vanished since the page was written; sorted."""
    return sorted(part for part, key in page.about.items() if keys.get(part) != key)


def _read(path: Path) -> Page:
    try:
        page = Page.model_validate_json(read_regular(path, most=MOST_BYTES), strict=True)
        if page.name != path.stem:
            raise ValueError(f"it must hold the page {path.stem!r}, but holds {page.name!r}")
        if page.file is not None and page.file.partition("/")[0] in OWN:
            raise ValueError(f"{page.file} is the report's own and no page's")
    except (OSError, ValueError) as error:
        reason = _first(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{path} cannot be shown in the report: {reason}. Remove it, or let the command that "
            "wrote it write it again."
        ) from error
    return page


def _first(error: ValidationError) -> str:
    mistake = error.errors()[0]
    return mistake_at(mistake["loc"], mistake["msg"])
