"""A comparison's tables, as a terminal and Markdown have them."""

from __future__ import annotations

from selma.applications.comparisons.table import Figure, Sheet


def test_a_label_stays_in_its_cell_in_markdown() -> None:
    sheet = Sheet("Title", ("row", "a|b"), ((Figure("one | two\nthree"), Figure("1.0", "0 to 2")),))
    assert sheet.markdown().splitlines()[2:] == [
        "| row | a\\|b |",
        "| --- | --- |",
        "| one \\| two three | 1.0 (0 to 2) |",
    ]
