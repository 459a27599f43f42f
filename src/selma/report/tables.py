"""Numbers as readers meet them, and the scorecard as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selma.errors import DataError
from selma.records.scores import Comparison, Interval, ModelScore, Scorecard


def points(value: float, digits: int = 1) -> str:
    """One decimal, as far as a few hundred prompts can tell; scorers of preference need more."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """One decimal with its sign; a true minus, and none before zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def between(interval: Interval, *, sign: bool = False, digits: int = 1) -> str:
    """The interval's two ends in words: "0.3 to 3.9"."""
    show = signed if sign else points
    return f"{show(interval.low, digits)} to {show(interval.high, digits)}"


def error(interval: Interval, digits: int = 1) -> str:
    """The standard error; empty where there is none."""
    found = interval.standard_error
    return "" if found is None else points(found, digits)


def spread(interval: Interval, *, sign: bool = False, digits: int = 1) -> str:
    """The interval's ends and its standard error: "0.3 to 3.9, s.e. 0.9"."""
    ends = between(interval, sign=sign, digits=digits)
    return f"{ends}, s.e. {told}" if (told := error(interval, digits)) else ends


def clear(interval: Interval | None) -> bool:
    """Whether a difference's interval leaves out zero."""
    return interval is not None and (interval.low > 0 or interval.high < 0)


def one(scorecard: Scorecard, role: str) -> ModelScore:
    """The model with this role. Raises DataError if there is none."""
    for model in scorecard.models:
        if model.role == role:
            return model
    raise DataError(f"A report needs a {role} model, but the scorecard has none. Score it first.")


def conclusion(scorecard: Scorecard) -> tuple[str, str]:
    """What the merged model's difference to the base means: a short and a longer sentence."""
    found = one(scorecard, "merged").difference
    if found is None:
        raise DataError("The merged model has no difference to the base. Score both together.")
    n = f"{found.n} exam prompts"
    if found.low > 0:
        return (
            "The merged model follows prompts better than the base.",
            f"On the same {n} and with the same seeds it gains {points(found.mean)} points. "
            f"Prompts like these are compatible with a true gain between {points(found.low)} and "
            f"{points(found.high)} points; no gain at all is not among the likely values.",
        )
    if found.high < 0:
        return (
            "The merged model follows prompts worse than the base.",
            f"On the same {n} and with the same seeds it loses {points(-found.mean)} points. "
            f"Prompts like these are compatible with a true loss between {points(-found.high)} and "
            f"{points(-found.low)} points; no loss at all is not among the likely values.",
        )
    return (
        "No clear difference between the merged model and the base.",
        f"On the same {n} and with the same seeds the merged model is {signed(found.mean)} points "
        f"from the base, but the interval, {between(found, sign=True)}, holds zero: this exam "
        "cannot tell the two apart. More prompts would narrow the interval.",
    )


FURTHER = (
    (
        "soft",
        "soft",
        "The soft score is the mean probability that the judge gives to the expected answers; no "
        "dependency takes points.",
    ),
    (
        "vqascore",
        "VQAScore",
        "VQAScore is the judge's mean probability of yes to one question about the whole prompt.",
    ),
    ("clip", "CLIP", "The CLIP score is 100 times the cosine of picture and prompt."),
)
"""Field of ModelScore, its column's name, and what it is; not every run has each."""


def further_scores(scorecard: Scorecard) -> list[tuple[str, str, str]]:
    """The rows of `FURTHER` that any model has."""
    return [row for row in FURTHER if any(getattr(m, row[0]) for m in scorecard.models)]


def print_scorecard(scorecard: Scorecard, console: Console) -> None:
    """A table of all models, and below it what the merged one's difference means."""
    more = {
        name: [points(found.mean) if (found := getattr(m, field)) else "" for m in scorecard.models]
        for field, name, _ in further_scores(scorecard)
    }
    table = Table(
        title=f"{scorecard.benchmark} ({scorecard.split}): {scorecard.prompts} prompts, "
        f"{drawn_of_each(scorecard)}{scorecard.questions} questions, judge {scorecard.judge}",
        caption=f"{scorecard.measure} score, 0-100, with 95% intervals; "
        "differences are paired by prompt",
    )
    table.add_column("model")
    for column in (scorecard.measure, "95%", "minus base", "95%", *more):
        table.add_column(column, justify="right")
    for number, model in enumerate(scorecard.models):
        change = model.difference
        cells = [model.model, points(model.score.mean), between(model.score)]
        cells += [signed(change.mean), between(change, sign=True)] if change else ["", ""]
        cells += [column[number] for column in more.values()]
        table.add_row(*cells, style="bold" if model.role == "merged" else None)
    console.print(table)
    if scorecard.clip_chose:
        console.print(f"CLIP: {CHOSE}", highlight=False)
    if scorecard.preferences:
        print_preferences(scorecard, console)
    for pair in scorecard.comparisons:
        console.print(compared(pair), highlight=False)
    if any(model.role == "merged" for model in scorecard.models):
        console.print(" ".join(conclusion(scorecard)), highlight=False)


def drawn_of_each(scorecard: Scorecard) -> str:
    """How many pictures of each prompt there are, as words in a list; empty for one."""
    return f"{scorecard.seeds} pictures of each, " if scorecard.seeds > 1 else ""


def compared(pair: Comparison) -> str:
    """One comparison as a sentence."""
    found = pair.difference
    verdict = "" if clear(found) else ": no clear difference"
    return (
        f"{pair.model} minus {pair.against}: {signed(found.mean)} points "
        f"({spread(found, sign=True)}), paired over {found.n} prompts{verdict}."
    )


CHOSE = "this run was chosen or tuned by it; its gain is no independent evidence."


def print_preferences(scorecard: Scorecard, console: Console) -> None:
    """A table of what each preference scorer says of each model, and below it what its numbers
    are."""
    table = Table(
        title="Preference",
        caption="means with 95% intervals; wins: percent of pictures that score above the base's, "
        "ties half",
    )
    for column in ("scorer", "model"):
        table.add_column(column)
    for column in ("score", "95%", "minus base", "95%", "wins", "95%"):
        table.add_column(column, justify="right")
    for scorer in scorecard.preferences:
        for number, model in enumerate(scorecard.models):
            score = model.preferences[scorer.label]
            cells = [points(score.mean, 2), between(score, digits=2)]
            if change := model.preference_differences.get(scorer.label):
                wins = model.win_rates[scorer.label]
                cells += [signed(change.mean, 2), between(change, sign=True, digits=2)]
                cells += [points(wins.mean), between(wins)]
            mark = " *" if scorer.chose else ""
            first = scorer.name + mark if number == 0 else ""
            table.add_row(
                first, model.model, *cells, style="bold" if model.role == "merged" else None
            )
        table.add_section()
    console.print(table)
    for scorer in scorecard.preferences:
        said = f"{scorer.name} ({scorer.weights}): {scorer.scale}; {scorer.preprocessing}."
        console.print(said + (f" * {CHOSE}" if scorer.chose else ""), highlight=False)


def print_hps(found: Mapping[str, Any], console: Console) -> None:
    """A table of what `selma score hps` found, by style, and below it what its numbers are."""
    scorer = found["scorer"]
    table = Table(title=f"{scorer['name']}, benchmark of four styles")
    table.add_column("style")
    for column in ("score", "95%", "s.e.", "images", "missing"):
        table.add_column(column, justify="right")
    for style, row in {**found["styles"], "all pictures": found}.items():
        low, high = row["interval"] or (0.0, 0.0)
        known = row.get("standard_error")
        cells = [points(row["score"] or 0.0, 2), f"{points(low, 2)} to {points(high, 2)}"]
        cells += ["" if known is None else points(known, 2)]
        counts = [str(row["images"]), str(row["missing"])]
        whole = style == "all pictures"
        if whole:
            table.add_section()
        table.add_row(
            style,
            *(cells if row["score"] is not None else ("", "", "")),
            *counts,
            style="bold" if whole else None,
        )
    console.print(table)
    console.print(
        f"{scorer['name']} ({scorer['weights']}): {scorer['scale']}; {scorer['preprocessing']}.",
        highlight=False,
    )
    if not found["complete"]:
        console.print(
            "The benchmark has 800 pictures of each style: this number is not comparable with "
            "published ones.",
            highlight=False,
        )


def print_given_scores(found: Mapping[str, Any], console: Console) -> None:
    """A table of what `selma score dsg` or `tifa` found, and below it what did not count as is."""
    low, high = found["interval"]
    errors = found.get("group_standard_errors", {})
    table = Table(
        title=f"{points(found['score'])}  (95%: {points(low)} to {points(high)}{_error(found)})",
        caption=f"{found['prompts']} prompts, {found['questions']} questions",
    )
    for column in ("", "score", *(["s.e."] if errors else [])):
        table.add_column(column, justify="right" if column else "left")
    for name, score in found["groups"].items():
        known = errors.get(name)
        table.add_row(name, points(score), *([] if known is None else [points(known)]))
    table.add_section()
    for name, score in found.get("categories_broad", found["categories"]).items():
        table.add_row(name, points(score))
    console.print(table)
    if "judge" in found:
        console.print(f"Judge: {found['judge']}")
    for name, what in (("soft", "Mean probability of yes"), ("vqascore", "VQAScore")):
        if found.get(name):
            soft = found[name]
            ends = f"{points(soft['low'])} to {points(soft['high'])}"
            told = f"95%: {ends}{_error(soft)}, {soft['n']} prompts"
            console.print(f"{what}: {points(soft['mean'])}  ({told})")
    if "rules" in found:
        console.print("Rules: " + ", ".join(f"{k} {v}" for k, v in found["rules"].items()))
    for what in ("unmatched",) if "unmatched" in found else ("unreadable",):
        if found.get(what):
            console.print(f"{found[what]} answers are {what} and earned no point.")
    if found["without_answers"]:
        console.print(
            f"{len(found['without_answers'])} prompts have no answer: {found['without_answers'][0]}"
            + (" and others." if len(found["without_answers"]) > 1 else ".")
        )
    faults = {**found.get("dependency_faults", {}), **found.get("question_faults", {})}
    if any(faults.values()):
        console.print("Faults: " + ", ".join(f"{k} {v}x" for k, v in faults.items() if v))


def _error(found: Mapping[str, Any]) -> str:
    """The end of a bracket that holds an interval."""
    known = found.get("standard_error")
    return "" if known is None else f", s.e. {points(known)}"


def print_questions(found: Mapping[str, Any], out: Path, console: Console | None = None) -> None:
    """What `selma questions` made, what was wrong in replies, and what was put aside."""
    show = partial((console or Console()).print, highlight=False, markup=False, soft_wrap=True)
    show(f"{out}: {found['questions']} questions about {found['done']} prompts")
    show(
        f"{found['requests']} requests, {found['prompt_tokens']} tokens read, "
        f"{found['reply_tokens']} written, cost {found['cost']:g}",
    )
    if found["faults"]:
        faults = ", ".join(f"{what} {count}x" for what, count in found["faults"].items())
        show(f"Wrong in replies: {faults}")
    if found["quarantined"]:
        show(
            f"{found['quarantined']} prompts gave none and are put aside, with the reasons: "
            f"{out.with_name(f'{out.stem}.quarantine.jsonl')}",
        )


def share(value: float) -> str:
    """A part of a whole in percent."""
    return f"{100 * value:.1f} %"
