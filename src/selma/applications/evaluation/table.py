"""Scores of given answers or images as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from selma.applications.evaluation.geneval import TAGS
from selma.ids import listed
from selma.plurals import counted
from selma.records.scores import Interval, JudgeInfo
from selma.report.fitting import Column, Row, print_fitted
from selma.report.tables import apart, described, known_sentences, points
from selma.texts import quoted

LETTERING = {
    "text_score": "text score",
    "whole": "images without a fault, %",
    "words": "words, %",
    "letters": "letters, %",
    "edits": "edits of an image",
}
"""Measure of `lettering.score_text` → its row."""


def print_lettering(result: Mapping[str, Any], console: Console) -> None:
    """Print how well images have the texts that were asked for, and who read them."""
    rows = [
        Row([title, *apart(Interval.model_validate(result[name]))])
        for name, title in LETTERING.items()
    ]
    print_fitted(console, [Column("", "name"), Column("mean"), Column("95%", "ends")], rows)
    console.print(
        f"{counted(result['prompts'], 'prompt')} with a text, read by {result['reader']}. Text "
        f"score: OneIG's, 100 (1 - min(M, edits) (1 - whole) (1 - words) / M), M = "
        f"{result['most_edits']}.",
        highlight=False,
    )
    if without := result["prompts_without_text"]:
        console.print(
            f"Left out: {counted(len(without), 'prompt that asks', 'prompts that ask')} for no "
            f"text, {quoted(without[0])} first.",
            highlight=False,
            markup=False,
        )


def print_given_scores(result: Mapping[str, Any], console: Console) -> None:
    """Print a table of DSG or TIFA scores, and below it the answers that did not count as given."""
    low, high = result["interval"]
    errors = result.get("group_standard_errors", {})
    label = f"{result['measure']} " if "measure" in result else ""
    console.print(
        f"{label}{points(result['score'])}  (95%: {points(low)} to {points(high)}{_error(result)})",
        style="italic",
        highlight=False,
    )
    columns = [Column("", "name"), Column("score"), *([Column("s.e.")] if errors else [])]
    rows = []
    for name, score in result["groups"].items():
        known = errors.get(name)
        rows.append(Row([name, points(score), *([] if known is None else [points(known)])]))
    broad = result.get("categories_broad", result["categories"])
    for number, (name, score) in enumerate(broad.items()):
        rows.append(Row([name, points(score)], rule_above=number == 0))
    print_fitted(console, columns, rows)
    console.print(
        f"{counted(result['prompts'], 'prompt')}, {counted(result['questions'], 'question')}",
        style="dim",
        highlight=False,
    )
    for sentence in _joined(result):
        console.print(sentence, highlight=False, markup=False)
    if "judge" in result:
        info = JudgeInfo.model_validate(result["judge_info"])
        who = described(info, info.name, images=counted(result["images"], "image"))
        for sentence in (who, *known_sentences(result["known"])):
            console.print(sentence, highlight=False, markup=False)
    for name, what in (("soft", "Mean probability of yes"), ("vqascore", "VQAScore")):
        if result.get(name):
            soft = result[name]
            ends = f"{points(soft['low'])} to {points(soft['high'])}"
            interval = f"95%: {ends}{_error(soft)}, {counted(soft['n'], 'prompt')}"
            console.print(f"{what}: {points(soft['mean'])}  ({interval})")
    for name, further in result.get("beside", {}).items():
        ends = " to ".join(points(end) for end in further["interval"])
        console.print(f"{name}: {points(further['score'])}  (95%: {ends}{_error(further)})")
    if result.get("counting_about"):
        console.print(f"Released rules: {result['counting_about']}", highlight=False)
    if "rules" in result:
        console.print("Rules: " + ", ".join(f"{k} {v}" for k, v in result["rules"].items()))
    what = "unmatched" if "unmatched" in result else "unreadable"
    if result.get(what):
        console.print(
            f"{counted(result[what], 'answer is', 'answers are')} {what} and earned no point."
        )
    faults = {**result.get("dependency_faults", {}), **result.get("question_faults", {})}
    if any(faults.values()):
        console.print("Faults: " + ", ".join(f"{k} {v}x" for k, v in faults.items() if v))


def print_geneval(result: Mapping[str, Any], console: Console) -> None:
    """Print what `score_geneval` found."""
    low, high = result["interval"]
    missing, others = result["missing_tags"], result["other_tags"]
    part = f" of {len(TAGS) - len(missing)} of {len(TAGS)} tags" if missing else ""
    console.print(
        f"GenEval {points(result['score'])}{part}  (95%: {points(low)} to {points(high)}"
        f"{_error(result)})",
        style="italic",
        highlight=False,
    )
    rows = [
        Row([tag, points(score), *([] if error is None else [points(error)])])
        for tag, score in result["groups"].items()
        for error in (result["group_standard_errors"].get(tag),)
    ]
    print_fitted(console, [Column("", "name"), Column("score"), Column("s.e.")], rows)
    counts = f"{counted(result['prompts'], 'prompt')}, {counted(result['images'], 'image')}"
    console.print(counts, style="dim", highlight=False)
    console.print(
        f"Right images: {points(result['right_images'])}; prompts with one: "
        f"{points(result['right_prompts'])}",
        highlight=False,
    )
    too_few = [f"{tag} {n} of {all}" for tag, (n, all) in result["prompts_too_few"].items()]
    for what, names in (
        ("Tags that are missing", ", ".join(missing)),
        ("Tags that GenEval does not have, counted all the same", listed(others, missing)),
        ("Prompts that are there", ", ".join(too_few)),
    ):
        if names:
            console.print(f"{what}: {names}.", highlight=False, markup=False)


def _joined(result: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on prompts and answers that did not find one another."""
    if covered := result.get("covered"):
        yield (
            f"Counted over the {result['prompts']} prompts of {covered['source']} alone, as DSG's "
            f"program for such answers does: no answer is about the other {covered['left_out']}."
        )
    silent = result["without_answers"]
    not_asked = [*result.get("not_asked", ()), *result.get("not_in_questions", ())]
    strangers = [
        *result.get("not_in_annotations", ()),
        *dict.fromkeys(id for id, _ in not_asked if id not in result["per_prompt"]),
    ]
    unasked = [f"{id}: {what}" for id, what in not_asked if id in result["per_prompt"]]
    if silent:
        yield f"{counted(len(silent), 'prompt')} without an answer: {listed(silent, ())}."
    if strangers:
        yield f"Answers about {counted(len(strangers), 'prompt')} that nobody asked about: " + (
            f"{listed(strangers, silent)}."
        )
    if unasked:
        yield f"{counted(len(unasked), 'answer')} to questions that nobody asked: " + (
            f"{listed(unasked, ())}."
        )
    if images := result.get("images_of_no_prompt"):
        yield f"{counted(len(images), 'image')} of no prompt: {listed(images, silent)}."


def _error(interval: Mapping[str, Any]) -> str:
    """The standard error, to go behind an interval."""
    known = interval.get("standard_error")
    return "" if known is None else f", s.e. {points(known)}"
