"""DSG's arithmetic on 1060 prompts and 8000 answers, beside the released walk down the rows (B9).

    .venv/bin/python bench/scoring.py
    .venv/bin/python bench/scoring.py --annotations dsg-1k-anns.csv --answers answers.csv

Made-up questions in DSG-1k's layout, with the irregular references that it has, unless files are
given. The released program reads the answers as text, compares each with "yes", and goes down an
item's rows once; a parent further down counts with its own answer. Both sides start from the files,
and the second row is the arithmetic alone.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from turns import in_turn

from selma.applications.evaluation.answer_files import read_answers
from selma.applications.evaluation.dsg import PRESETS, verdicts_given
from selma.scores import measures
from selma.scores.benchmarks.dsg import COLUMNS, read_dsg

PROMPTS = 1060


def main(
    annotations: Annotated[Path | None, typer.Option(help="CSV in DSG-1k's layout.")] = None,
    answers: Annotated[Path | None, typer.Option(help="CSV of one model's answers.")] = None,
    rounds: Annotated[int, typer.Option(min=5)] = 9,
) -> None:
    """Print seconds of both, and fail where their scores differ."""
    with tempfile.TemporaryDirectory() as folder:
        if annotations is None or answers is None:
            annotations, answers = made_up(Path(folder))
        questions, said = annotations, answers
        rules = PRESETS["selma-release"]
        benchmark_prompts = read_dsg(questions, dependencies=rules.dependencies)
        given, _ = read_answers(said)

        def arithmetic() -> float:
            _, verdicts = verdicts_given(benchmark_prompts, given, rules=rules)
            return measures.question_mean(measures.DSG.points(given, verdicts))

        def ours() -> float:
            asked = read_dsg(questions, dependencies=rules.dependencies)
            answers, _ = read_answers(said)
            _, verdicts = verdicts_given(asked, answers, rules=rules)
            return measures.question_mean(measures.DSG.points(answers, verdicts))

        def theirs() -> float:
            return released(questions, said)

        found = [ours(), arithmetic(), theirs()]
        turns = in_turn(
            {"selma, from files": ours, "selma, arithmetic": arithmetic, "released": theirs},
            rounds=rounds,
        )
    title = f"{len(benchmark_prompts)} prompts, {len(given)} answers"
    turns.show(title, note=f"score {100 * found[0]:.4f} and {100 * found[2]:.4f}")
    same = max(found) - min(found) < 1e-12
    Console().print("Scores are " + ("equal." if same else "NOT EQUAL."))
    raise typer.Exit(0 if same else 1)


def released(annotations: Path, answers: Path) -> float:
    """The mean over questions, as the program released with SELMA has it."""
    with open(answers, newline="", encoding="utf-8") as file:
        said = {(r["item_id"], r["question_id"]): r["answer"] for r in csv.DictReader(file)}
    items: dict[str, list[dict[str, str]]] = defaultdict(list)
    with open(annotations, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            items[row["item_id"]].append(row)
    points: list[int] = []
    for item, rows in items.items():
        if not any((item, row["proposition_id"]) in said for row in rows):
            continue
        scores = {
            row["proposition_id"]: int(said[item, row["proposition_id"]] == "yes") for row in rows
        }
        for row in rows:
            for parent in row["dependency"].split(","):
                if parent != "0" and scores.get(parent) == 0:
                    scores[row["proposition_id"]] = 0
        points += scores.values()
    return sum(points) / len(points)


def made_up(folder: Path) -> tuple[Path, Path]:
    """A file of questions and one of answers, equal in every run."""
    pick = random.Random(0)
    annotations, answers = folder / "annotations.csv", folder / "answers.csv"
    with (
        open(annotations, "w", newline="", encoding="utf-8") as asked,
        open(answers, "w", newline="", encoding="utf-8") as said,
    ):
        questions = csv.DictWriter(asked, COLUMNS)
        replies = csv.DictWriter(said, ("item_id", "question_id", "answer"))
        questions.writeheader()
        replies.writeheader()
        for number in range(PROMPTS):
            count = pick.randint(3, 12)
            for id in range(1, count + 1):
                parents = sorted(pick.sample(range(1, count + 1), pick.choice((0, 0, 1, 1, 2))))
                inside = [p for p in parents if p < id or pick.random() < 0.03]
                cell = pick.choice((",", ",", ", ")).join(map(str, inside)) or "0"
                questions.writerow(
                    {
                        "item_id": f"item{number}",
                        "text": f"caption {number}",
                        "proposition_id": id,
                        "dependency": cell,
                        "category_broad": "entity",
                        "category_detailed": "whole",
                        "question_natural_language": f"Is there thing {id}?",
                    }
                )
                word = pick.choices(("yes", "no", "Yes"), (78, 20, 2))[0]
                replies.writerow({"item_id": f"item{number}", "question_id": id, "answer": word})
    return annotations, answers


if __name__ == "__main__":
    typer.run(main)
