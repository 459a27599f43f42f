"""Users' files of rows: whatever a program writes before or around them, no caption is lost."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from selma.errors import DataError
from selma.imagefolders import rows
from selma.textfiles import csv_rows, json_rows, read_text

ROWS = [{"file_name": "a.png", "text": "a Löwe\u2028roars"}, {"file_name": "b.png", "text": "b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
SHAPES: dict[str, bytes] = {
    "plain": LINES.encode(),
    "mark": codecs.BOM_UTF8 + LINES.encode(),
    "Windows": codecs.BOM_UTF8 + LINES.replace("\n", "\r\n").encode(),
    "UTF-16": codecs.BOM_UTF16_LE + LINES.encode("utf-16-le"),
    "UTF-16, big-endian": codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
    "no last line end": LINES.rstrip("\n").encode(),
    "empty lines": f"\n{LINES}\n  \n".encode(),
    "list": json.dumps(ROWS).encode(),
    "list in lines": codecs.BOM_UTF8 + json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "escaped": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_users(tmp_path: Path, shape: str) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(SHAPES[shape])
    assert json_rows(tmp_path / "metadata.jsonl") == list(rows(tmp_path)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_users(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("file_name,text\na.png,a Löwe\n", encoding)
    assert [row for _, row in csv_rows(path, ("file_name", "text"))] == [
        {"file_name": "a.png", "text": "a Löwe"}
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1}\nno row\n', r"line 2 must be one JSON object, but is 'no row'\. Correct this"),
        (b'{"a": 1}\n[2]\n', "line 2 must be one JSON object"),
        (b'[{"a": 1}, 2]', "entry 2 is 2"),
        (b'{"a": 1}\n{"text": "\\ud83d"}\n', "line 2 has one half of a character"),
        (b'[{"text": "x\\ude00"}]', "entry 1 has one half of a character"),
        (b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 cannot be used: the key 'a' stands there twice"),
        (b'[{"a": {"b": 1, "b": 2}}]', "the key 'b' stands there twice"),
        (b'[{"a": 1}', "begins like a JSON list, but is none"),
        (b'{"a": 1}\n{"text": "L\xf6we"}\n', "line 2: text must be UTF-8, but is not. Save it as"),
        (LINES.encode("utf-16-le"), "line 1|UTF-8"),
    ],
)
def test_damage_is_named_and_nobody_is_told_to_remove_captions(
    tmp_path: Path, data: bytes, says: str
) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(data)
    for read in (json_rows, lambda _: list(rows(tmp_path))):
        with pytest.raises(DataError, match=says) as error:
            read(path)
        assert "emove" not in str(error.value)


def test_what_selma_makes_again_may_be_removed(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("no row\n")
    with pytest.raises(DataError, match="Remove the file to have it made again"):
        list(rows(tmp_path, own=True))


def test_no_file_is_no_row(tmp_path: Path) -> None:
    assert json_rows(tmp_path / "none.jsonl") == []
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
