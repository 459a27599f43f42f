"""Numbers as readers meet them, and the scorecard as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from selma.errors import DataError
from selma.records import Interval, ModelScore, Scorecard


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


def print_scorecard(scorecard: Scorecard, console: Console) -> None:
    """A table of all models, and below it what the merged one's difference means."""
    has_clip = any(model.clip for model in scorecard.models)
    table = Table(
        title=f"{scorecard.benchmark} ({scorecard.split}): {scorecard.prompts} prompts, "
        f"{scorecard.questions} questions, judge {scorecard.judge}",
        caption="DSG score, 0-100, with 95% intervals; differences are paired by prompt",
    )
    table.add_column("model")
    for column in ("DSG", "95%", "minus base", "95%", *(("CLIP",) if has_clip else ())):
        table.add_column(column, justify="right")
    for model in scorecard.models:
        change = model.difference
        cells = [model.model, points(model.dsg.mean), between(model.dsg)]
        cells += [signed(change.mean), between(change, sign=True)] if change else ["", ""]
        if has_clip:
            cells.append(points(model.clip.mean) if model.clip else "")
        table.add_row(*cells, style="bold" if model.role == "merged" else None)
    console.print(table)
    if scorecard.clip_chose:
        console.print(f"CLIP: {CHOSE}", highlight=False)
    if scorecard.preferences:
        print_preferences(scorecard, console)
    if any(model.role == "merged" for model in scorecard.models):
        console.print(" ".join(conclusion(scorecard)), highlight=False)


CHOSE = "this run was chosen or tuned by it; its gain is no independent evidence."


def print_preferences(scorecard: Scorecard, console: Console) -> None:
    """A table of what each preference scorer says of each model, and below it what its numbers
    are."""
    table = Table(
        title="Preference",
        caption="means with 95% intervals; wins: percent of prompts where the picture scores above "
        "the base's, ties half",
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
    for column in ("score", "95%", "pictures", "missing"):
        table.add_column(column, justify="right")
    for style, row in {**found["styles"], "all pictures": found}.items():
        low, high = row["interval"] or (0.0, 0.0)
        cells = [points(row["score"] or 0.0, 2), f"{points(low, 2)} to {points(high, 2)}"]
        counts = [str(row["pictures"]), str(row["missing"])]
        whole = style == "all pictures"
        if whole:
            table.add_section()
        table.add_row(
            style,
            *(cells if row["score"] is not None else ("", "")),
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
    table = Table(
        title=f"{points(found['score'])}  (95%: {points(low)} to {points(high)})",
        caption=f"{found['prompts']} prompts, {found['questions']} questions",
    )
    for column in ("", "score"):
        table.add_column(column, justify="right" if column else "left")
    for name, score in found["groups"].items():
        table.add_row(name, points(score))
    table.add_section()
    for name, score in found.get("categories_broad", found["categories"]).items():
        table.add_row(name, points(score))
    console.print(table)
    if "rules" in found:
        console.print("Rules: " + ", ".join(f"{k} {v}" for k, v in found["rules"].items()))
    for what in ("unreadable", "unmatched"):
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
