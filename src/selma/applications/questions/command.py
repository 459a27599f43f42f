"""`selma questions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Seed
from selma.outputs import word, written


def questions(
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="Your prompts: .txt, .csv, .jsonl or .json.")
    ],
    out: Annotated[
        Path, typer.Option(callback=written, help="The questions: .csv, or .json for --style tifa.")
    ],
    style: Annotated[
        str,
        typer.Option(callback=word, help="dsg: yes/no with dependencies; tifa: multiple choice."),
    ] = "dsg",
    backend: Annotated[
        str | None,
        typer.Option(help="YAML with a language model's settings, or a local model's folder."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Or a model on a server.")] = None,
    base_url: Annotated[str | None, typer.Option(help="The server of --model.")] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="Requests for each step before a prompt is put aside.")
    ] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of each reply.")] = 2048,
    seed: Seed = 0,
) -> None:
    """Let a language model write questions about images of your prompts."""
    from selma.applications.questions.settings import backend_of, questions_config
    from selma.applications.questions.table import print_questions
    from selma.applications.questions.writing import write_questions
    from selma.scores.benchmarks import read_benchmark

    settings = questions_config(
        style=style,
        backend=backend_of(backend, model=model, base_url=base_url),
        attempts=attempts,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    print_questions(write_questions(read_benchmark(prompts), settings, out), out)


def register(app: typer.Typer) -> None:
    app.command()(questions)
