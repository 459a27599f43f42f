"""The table of docs/interop.md keeps what was not run, and shows the largest of what was."""

from __future__ import annotations

import json

from interop.table import END, START, measured, rewrite, rows_of

PAGE = f"""# Page

{START}
| program | version | compared | largest difference | bound |
| --- | --- | --- | --- | --- |
| A | 1 | files | 0 | 1e-06 |
| B | 1 | images | 1 | 1 |
{END}

More.
"""


def test_rows_of_programs_that_ran_are_written_anew(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    rows = [["B", "2", "merges", 3e-8, 1e-6], ["B", "2", "merges", 5e-8, 1e-6]]
    rewrite(page, measured(json.dumps(row) for row in rows))
    text = page.read_text()
    assert rows_of(text) == [
        ["A", "1", "files", "0", "1e-06"],
        ["B", "2", "merges", "5.0e-08", "1e-06"],
    ]
    assert text.startswith("# Page\n") and text.endswith(f"{END}\n\nMore.\n")
    rewrite(page, measured(json.dumps(row) for row in rows))
    assert page.read_text() == text
