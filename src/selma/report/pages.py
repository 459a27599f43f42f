"""Pages beside a run's own report: how one is handed over, and how all are listed.

6-report/pages/<name>.json    a `Page`, whole or not there
6-report/<page.file>          the full page, which needs nothing else
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from selma.errors import DataError
from selma.records.pages import Page
from selma.workspace import REPORT, Workspace, inside, write_bytes, write_json

PAGES = "pages"
MOST_BYTES = 2_000_000
OWN = frozenset({"index.html", "grid.png", "plan.json", "manifest.json", PAGES})
"""What stage 6 itself has in its folder, which no page may claim."""


def write_page(page: Page, folder: Workspace, html: str | None = None) -> Path:
    """Hand a page to the run's report. The path of the full page, or of its record without one.

    html: the full page, written to `page.file` first; None where it is there already.
    """
    report = folder.root / REPORT
    record = inside(report, f"{PAGES}/{page.name}.json")
    record.parent.mkdir(parents=True, exist_ok=True)
    full = None if page.file is None else inside(report, page.file)
    if html is not None and full is not None:
        full.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(full, html.encode())
    write_json(record, page.model_dump(mode="json"))
    return record if full is None else full


def read_pages(folder: Workspace) -> list[Page]:
    """All pages that were handed over, by name, without `file` where that is missing.

    Raises DataError for a file that is no page.
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
    """Names in `6-report` that belong to the pages and not to the report itself."""
    return {PAGES} | {page.file.partition("/")[0] for page in pages if page.file is not None}


def changed(page: Page, keys: Mapping[str, str]) -> list[str]:
    """What the page is about and the run has otherwise by now, or no longer has; sorted."""
    return sorted(part for part, key in page.about.items() if keys.get(part) != key)


def _read(path: Path) -> Page:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"it must have at most {MOST_BYTES} bytes, but has {size}")
        page = Page.model_validate_json(path.read_bytes(), strict=True)
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
    key = ".".join(map(str, mistake["loc"]))
    return f"{key}: {mistake['msg']}" if key else mistake["msg"]
