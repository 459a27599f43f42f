"""Prompts in files: lines of text, JSON lines or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.config.given import PromptFile
from selma.errors import DataError
from selma.given.kind import Given, Texts
from selma.given.rows import Row, by_skill, digest, require_rows
from selma.textfiles import csv_rows, json_rows, read_text
from selma.texts import printable, quoted
from selma.workspace import inside

ENDINGS = (".txt", ".jsonl", ".json", ".csv")


def texts(source: PromptFile, skills: Sequence[str], *, seed: int) -> dict[str, Texts]:
    """Each skill's prompts in the file's order, the seed notwithstanding. Raises DataError."""
    path = Path(source.path)
    if path.is_dir():
        files = {skill: _file_of(path, skill) for skill in skills}
        rows = {skill: _rows(file, source) for skill, file in files.items()}
    else:
        rows = by_skill(_rows(path, source), skills, column=source.skill, path=path)
    return {skill: _texts(of_skill, skill, source, path) for skill, of_skill in rows.items()}


def _texts(rows: Sequence[Row], skill: str, source: PromptFile, path: Path) -> Texts:
    require_rows(len(rows), skill, path)
    prompts = [printable(str(row[source.text])).strip() for row in rows]
    return Texts({"file": digest(prompts)}, prompts)


def _file_of(folder: Path, skill: str) -> Path:
    names = [f"{skill}{end}" for end in ENDINGS]
    files = [file for file in (inside(folder, name) for name in names) if file.is_file()]
    if len(files) != 1:
        came = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"{folder} must have one file of prompts for the skill {skill!r} "
            f"({', '.join(names)}), but has {came}."
        )
    return files[0]


def _rows(path: Path, source: PromptFile) -> list[Row]:
    """The rows that are not empty. Raises DataError for one without a text."""
    end = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path} must be a file of prompts, but there is none.")
    if end == ".csv":
        return _checked([row for _, row in csv_rows(path, (source.text,))], source, path)
    if end in (".jsonl", ".json"):
        return _checked(json_rows(path), source, path)
    if end == ".txt":
        lines = read_text(path).split("\n")  # not splitlines: U+2028 may stand in a prompt
        return [{source.text: line} for line in lines if printable(line).strip()]
    raise DataError(f"A file of prompts must end with {', '.join(ENDINGS)}, but is {path}.")


def _checked(rows: Sequence[Row], source: PromptFile, path: Path) -> list[Row]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(source.text), str) or not printable(row[source.text]).strip():
            raise DataError(
                f"{path}, row {number} needs a prompt in the column {source.text!r}, but has "
                f"{quoted(dict(row), 120)}. Set the column's name in prompts.source.text."
            )
    return list(rows)


KIND = Given(
    name="file",
    settings=PromptFile,
    texts=texts,
    prompts_are="Prompts of a file",
)
