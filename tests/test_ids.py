"""Ids that join two files: the nearest is named, and nothing that is far away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.ids import listed, nearest


@pytest.mark.parametrize(
    ("id", "candidates", "meant"),
    [
        ("1.0", ["2", "1"], "1"),
        ("1", ["1.0", "10"], "1.0"),
        ("12.00", ["1", "12"], "12"),
        ("7", ["00007", "70"], "00007"),
        ("00012", ["1", "12"], "12"),
        ("0", ["000", "1"], "000"),
        (" a_1 ", ["a_2", "a_1"], "a_1"),
        ("A_1", ["b_1", "a_1"], "a_1"),
        ("a-1", ["a_1", "a_11"], "a_1"),
        ("a 1", ["a_1"], "a_1"),
        ("coco_301091.0", ["coco_30109", "coco_301091"], "coco_301091"),
        ("whoops_O5x", ["drawtext_5", "whoops_05x"], "whoops_05x"),
        ("p001.jpg", ["p001.jpeg", "q001.jpeg"], "p001.jpeg"),
        ("z_9", ["a_1", "b_1"], None),
        ("1.5", ["1", "2"], None),
        ("10", ["1", "250"], None),
        ("1", [], None),
    ],
)
def test_what_was_probably_meant(id: str, candidates: list[str], meant: str | None) -> None:
    assert nearest(id, candidates) == meant


@given(st.integers(0, 10**9), st.integers(1, 4), st.integers(0, 5))
def test_a_number_is_known_however_a_table_spells_it(
    number: int, decimals: int, zeros: int
) -> None:
    candidates = [str(number + 1), str(number), str(number + 2)]
    for spelled in (f"{number}.{'0' * decimals}", f"{'0' * zeros}{number}", f"\t{number} "):
        assert nearest(spelled, candidates) == str(number)


def test_the_first_strangers_are_listed_and_the_others_counted() -> None:
    assert listed(["1.0"], ["1"]) == "'1.0' (did you mean '1'?)"
    assert listed(["x", "y"], []) == "'x', 'y'"
    assert listed(["1.0", "x", "y", "z"], ["1"]) == (
        "'1.0' (did you mean '1'?), 'x', 'y' and 1 other"
    )
    assert listed([*"abcde"], []).endswith("and 2 others")
