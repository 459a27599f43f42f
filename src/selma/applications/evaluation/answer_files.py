"""Files of answers to DSG's questions, one row for each, about one model's images or several's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from selma.errors import DataError
from selma.records.benchmarks import Answer
from selma.textfiles import csv_rows


def read_answers(path: Path, model: str | None = None) -> tuple[list[Answer], list[str]]:
    """The answers about one model's images, and the file's models, that one first. Blanks around
    ids do not count; an answer's text stays as it is.

    Without `model`, the model is the only one with answers to every prompt of the file. Raises
    DataError.
    """
    rows_by_model = _rows_by_model(path)
    models = [name for name in rows_by_model if name]
    if model is None:
        prompts = {name: {id for id, _, _ in rows} for name, rows in rows_by_model.items()}
        all_ids = set().union(*prompts.values())
        complete = [name for name, ids in prompts.items() if ids == all_ids]
        if len(complete) != 1:
            raise DataError(
                f"{path} holds answers about several models ({', '.join(models)}), but a score "
                "belongs to one. Name it with --model."
            )
        model = complete[0]
    elif model not in rows_by_model:
        raise DataError(
            f"{path} must hold answers about {model}, but has them about "
            f"{', '.join(models) or 'no t2i_model at all'}."
        )
    return _answers(rows_by_model[model]), sorted(models, key=lambda name: name != model)


def answers_by_model(path: Path) -> dict[str, list[Answer]]:
    """t2i_model ("" if there is no such column) → answers about its images, in the file's order.

    Raises DataError.
    """
    return {model: _answers(rows) for model, rows in _rows_by_model(path).items()}


def _rows_by_model(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """t2i_model → (prompt id, question id, answer)."""
    rows: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for _, row in csv_rows(path, ("item_id", "question_id", "answer")):
        model = row.get("t2i_model", "").strip()
        ids = (row["item_id"].strip(), row["question_id"].strip())
        rows[model].append((*ids, row["answer"]))
    if not rows:
        raise DataError(f"{path} must hold answers, but has only a header.")
    return dict(rows)


def _answers(rows: Iterable[tuple[str, str, str]]) -> list[Answer]:
    return [
        Answer(prompt_id=prompt, question_id=question, text=text) for prompt, question, text in rows
    ]
