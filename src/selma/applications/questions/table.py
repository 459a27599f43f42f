"""The summary of `selma questions` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console

from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.rich_screen import Screen


def print_questions(
    result: Mapping[str, Any], out: AnyPath, console: Console | None = None
) -> None:
    """Print the number and cost of questions, the replies' faults, and the prompts put aside."""
    out = as_path(out)
    show = partial((console or Screen()).print, highlight=False, markup=False, soft_wrap=True)
    show(
        f"{out}: {counted(result['questions'], 'question')} about "
        f"{counted(result['done'], 'prompt')}"
    )
    show(
        f"{counted(result['requests'], 'request')}, {result['prompt_tokens']} tokens read, "
        f"{result['reply_tokens']} written, cost {result['cost']:g}",
    )
    if result["faults"]:
        faults = ", ".join(f"{what} {count}x" for what, count in result["faults"].items())
        show(f"Wrong in replies: {faults}")
    if aside := result["quarantined"]:
        show(
            f"{counted(aside, 'prompt gave none and is', 'prompts gave none and are')} put aside, "
            "with the reasons: "
            f"{out.with_name(f'{out.stem}.quarantine.jsonl')}",
        )
