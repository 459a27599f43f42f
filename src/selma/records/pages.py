"""Applications' pages, as stage 6 lists them.

6-report/pages/<name>.json    one `Page`; the report shows it and links to the full page
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from selma.records.record import Record

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]*"
File = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART})*$", max_length=200)]
Line = Annotated[str, StringConstraints(max_length=400)]
Paragraph = Annotated[str, StringConstraints(max_length=4000)]


class PageTable(Record):
    """A table of plain text."""

    caption: Line = ""
    columns: Annotated[tuple[Line, ...], Field(min_length=1, max_length=60)]
    rows: Annotated[tuple[tuple[Line, ...], ...], Field(max_length=2000)]
    notes: tuple[Paragraph, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} must have {len(self.columns)} cells, but has {len(row)}"
                )
        return self


class Page(Record):
    """A section of the report that an application wrote."""

    name: Name
    """Also the file's name; a later page of this name replaces it."""
    title: Line
    headline: Paragraph
    """The result in a sentence."""
    file: File | None = None
    """The full page, relative to `6-report`; None if there are only the tables."""
    about: dict[str, str] = Field(default_factory=dict)
    """Part of the run that it is about → its key when the page was written: a model's weights
    ("merged"), its images ("images/merged"), the judge ("scores/judge")."""
    tables: Annotated[tuple[PageTable, ...], Field(max_length=40)] = ()
    notes: tuple[Paragraph, ...] = ()
