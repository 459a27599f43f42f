"""What all tests beside real programs share: whether a program is there, and the table's rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from interop.programs import PROGRAMS, Program


@pytest.fixture(scope="session")
def needs() -> Callable[[str], Program]:
    """The program of that name; the test is skipped where it is absent."""

    def program(name: str) -> Program:
        wanted = PROGRAMS[name]
        if wanted.missing:
            pytest.skip(wanted.missing)
        return wanted

    return program


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Assert that a difference is within its bound, and note it for the table of the document
    (`table.py`) where SELMA_INTEROP_ROWS names a file."""

    def note(program: str, version: str, compared: str, difference: float, bound: float) -> None:
        path = os.environ.get("SELMA_INTEROP_ROWS")
        if path:
            row = [program, version, compared, float(difference), bound]
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        assert difference <= bound, f"{program}, {compared}: {difference:.3g} > {bound:g}"

    return note
