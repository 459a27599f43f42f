"""How the report writes numbers, and the scorecard as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from selma.errors import DataError
from selma.plurals import counted
from selma.records.scores import Comparison, Interval, JudgeInfo, ModelScore, Scorecard
from selma.report.fitting import Column, Row, print_fitted


def points(value: float, digits: int = 1) -> str:
    """A score, by default with the one decimal that a few hundred prompts can resolve."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign: a true minus, and no sign before zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def between(interval: Interval, *, sign: bool = False, digits: int = 1) -> str:
    """The interval's ends: "0.3 to 3.9"; "n = 1" of one prompt or image, which has none."""
    if interval.n == 1:
        return "n = 1"
    show = signed if sign else points
    return f"{show(interval.low, digits)} to {show(interval.high, digits)}"


def cell(
    interval: Interval | None, *, sign: bool = False, digits: int = 1, with_error: bool = False
) -> str:
    """A mean with its interval, and the standard error if it is asked for: "2.1 (0.3 to 3.9)".
    Empty for None."""
    if interval is None:
        return ""
    mean, _ = apart(interval, sign=sign, digits=digits)
    ends = (spread if with_error else between)(interval, sign=sign, digits=digits)
    return f"{mean} ({ends})"


def apart(interval: Interval | None, *, sign: bool = False, digits: int = 1) -> tuple[str, str]:
    """A mean, and its interval's ends, as two cells; empty for None."""
    if interval is None:
        return "", ""
    show = signed if sign else points
    return show(interval.mean, digits), between(interval, sign=sign, digits=digits)


def error(interval: Interval, digits: int = 1) -> str:
    """The standard error; empty if there is none."""
    standard_error = interval.standard_error
    return "" if standard_error is None else points(standard_error, digits)


def spread(interval: Interval, *, sign: bool = False, digits: int = 1) -> str:
    """The interval's ends and its standard error: "0.3 to 3.9, s.e. 0.9"."""
    ends = between(interval, sign=sign, digits=digits)
    return f"{ends}, s.e. {end}" if (end := error(interval, digits)) else ends


def clear(interval: Interval | None, *, digits: int | None = None) -> bool:
    """Whether a difference's interval excludes zero; with digits, as it is shown with so many. One
    prompt has no interval."""
    if interval is None or interval.n == 1:
        return False
    low, high = interval.low, interval.high
    if digits is not None:
        low, high = round(low, digits), round(high, digits)
    return low > 0 or high < 0


def model_with_role(scorecard: Scorecard, role: str) -> ModelScore:
    """The first model with this role. Raises DataError if there is none."""
    for model in scorecard.models:
        if model.role == role:
            return model
    raise DataError(f"A report needs a {role} model, but the scorecard has none. Score it first.")


UNREAD = 0.1
"""Share of answers that cannot be read from which on a conclusion says so first."""


def conclusion(scorecard: Scorecard) -> tuple[str, str]:
    """What the merged model's difference to the base means: a headline and an explanation."""
    headline, meaning = _conclusion(scorecard)
    both = [model for model in scorecard.models if model.role in ("base", "merged")]
    answers = len(both) * scorecard.questions * scorecard.seeds
    unread = sum(model.unreadable for model in both)
    if unread == answers:
        headline = "No answer about base and merged model could be read: this is no finding."
    if unread > UNREAD * answers:
        share = f"{unread} of {answers} answers about both could not be read and count as no; "
        meaning = f"{share}judge or questions are not right for each other. {meaning}"
    return headline, meaning


def _conclusion(scorecard: Scorecard) -> tuple[str, str]:
    gain = model_with_role(scorecard, "merged").difference
    if gain is None:
        raise DataError("The merged model has no difference to the base. Score both together.")
    alike = f"with the same seeds{guided(scorecard)}"
    if gain.low == gain.high:
        return _without_spread(gain, alike)
    shared = f"on the same {counted(gain.n, 'benchmark prompt')} and {alike}"
    if gain.low > 0:
        return (
            "The merged model follows prompts better than the base.",
            f"It gains {points(gain.mean)} points {shared}{_where(scorecard, 1)}. "
            f"Prompts like these are compatible with a true gain between {points(gain.low)} and "
            f"{points(gain.high)} points; no gain at all is not among the likely values.",
        )
    if gain.high < 0:
        return (
            "The merged model follows prompts worse than the base.",
            f"It loses {points(-gain.mean)} points {shared}{_where(scorecard, -1)}. "
            f"Prompts like these are compatible with a true loss between {points(-gain.high)} and "
            f"{points(-gain.low)} points; no loss at all is not among the likely values.",
        )
    return (
        "No clear difference between the merged model and the base.",
        f"It is {signed(gain.mean)} points from the base {shared}, but the interval, "
        f"{between(gain, sign=True)}, holds zero: this benchmark cannot tell the two apart. More "
        "prompts would narrow the interval.",
    )


def guided(scorecard: Scorecard) -> str:
    """How two of its models generated, as the end of a sentence; empty where it is not known."""
    if scorecard.guidance is None:
        return ""
    if scorecard.guidance <= 1:
        return ", without guidance"
    return f", both at guidance {scorecard.guidance:g}"


def _without_spread(gain: Interval, alike: str) -> tuple[str, str]:
    """The conclusion from a single prompt, or from prompts that all differ by the same."""
    if gain.n == 1:
        return (
            "One prompt cannot tell the merged model from the base.",
            f"It is {signed(gain.mean)} points from the base on the one benchmark prompt, {alike}; "
            "an interval takes two or more.",
        )
    width = (
        "Since all prompts agree in this, the interval has no width, and does not tell how others "
        "would come out."
    )
    if gain.mean == 0:
        return (
            "The merged model scores as the base does on every prompt.",
            f"The difference is 0 on each of the {gain.n} benchmark prompts, {alike}. {width}",
        )
    verb = "gains" if gain.mean > 0 else "loses"
    return (
        f"The merged model {verb} the same on every prompt.",
        f"It {verb} {points(abs(gain.mean))} points on each of the {gain.n} benchmark prompts, "
        f"{alike}. {width}",
    )


def _where(scorecard: Scorecard, sign: int) -> str:
    """The kinds of question in which the merged model clearly differs most in this direction."""
    differences = model_with_role(scorecard, "merged").category_differences
    rows = [(name, d) for name, d in differences.items() if clear(d) and sign * d.mean > 0]
    rows.sort(key=lambda row: -sign * row[1].mean)
    named = [f"{name} ({signed(d.mean)})" for name, d in rows[:3]]
    return f"; clearest are {', '.join(named)}" if named else ""


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
    ("clip", "CLIP", "The CLIP score is 100 times the cosine of image and prompt."),
)
"""Field of ModelScore, column name and meaning of each score that only some runs have."""


def further_scores(scorecard: Scorecard) -> list[tuple[str, str, str]]:
    """The rows of `FURTHER` that any model has."""
    return [row for row in FURTHER if any(getattr(m, row[0]) for m in scorecard.models)]


def print_scorecard(scorecard: Scorecard, console: Console) -> None:
    """Print a table of all models, and below it what the merged one's difference means."""
    further = {
        name: [points(score.mean) if (score := getattr(m, field)) else "" for m in scorecard.models]
        for field, name, _ in further_scores(scorecard)
    }
    beside = {
        label: [points(model.beside[label].mean) for model in scorecard.models]
        for label in scorecard.models[0].beside
    }
    further = beside | further
    title = (
        f"{scorecard.benchmark} ({scorecard.split}): "
        f"{counted(scorecard.prompts, 'prompt')}, {images_of_each(scorecard)}"
        f"{counted(scorecard.questions, 'question')}, judge {scorecard.judge}"
    )
    columns = [Column("model", "name"), Column(scorecard.measure), Column("95%", "ends")]
    columns += [Column("minus base"), Column("95%", "ends"), *map(Column, further)]
    rows = []
    for number, model in enumerate(scorecard.models):
        cells = [model.model, *apart(model.score), *apart(model.difference, sign=True)]
        cells += [column[number] for column in further.values()]
        rows.append(Row(cells, model.role == "merged"))
    console.print(title, style="italic", highlight=False, markup=False)
    print_fitted(console, columns, rows)
    console.print(
        f"{scorecard.measure} score, 0-100, with 95% intervals; differences are paired by prompt",
        style="dim",
        highlight=False,
    )
    images = counted(scorecard.prompts * scorecard.seeds, "image")
    who = described(scorecard.judge_info, scorecard.judge, images=f"{images} of each model")
    for sentence in (who, *known_sentences(scorecard.known)):
        console.print(sentence, style="dim", highlight=False, markup=False)
    if scorecard.rules == "released":
        console.print(f"Released rules: {scorecard.rules_about}", highlight=False)
    if scorecard.clip_chose:
        console.print(f"CLIP: {CHOSE}", highlight=False)
    if scorecard.preferences:
        print_preferences(scorecard, console)
    for pair in scorecard.comparisons:
        console.print(compared(pair), highlight=False)
    if any(model.role == "merged" for model in scorecard.models):
        console.print(" ".join(conclusion(scorecard)), highlight=False)
    if scorecard.near_training is not None:
        are = "is" if scorecard.near_training == 1 else "are"
        console.print(
            f"Of the prompts that were trained on, {scorecard.near_training} {are} near one of "
            "these, which were not kept from training.",
            highlight=False,
        )
    for name, part in scorecard.further.items():
        console.print(f"\n{name}:", highlight=False, markup=False)
        print_scorecard(part, console)


def images_of_each(scorecard: Scorecard) -> str:
    """The number of images of each prompt, as an item of a list; empty for one."""
    return f"{scorecard.seeds} images of each, " if scorecard.seeds > 1 else ""


def compared(pair: Comparison) -> str:
    """A comparison of two models as a sentence."""
    difference = pair.difference
    doubt = "" if clear(difference) else ": no clear difference"
    return (
        f"{pair.model} minus {pair.against}: {signed(difference.mean)} points "
        f"({spread(difference, sign=True)}), paired over {counted(difference.n, 'prompt')}{doubt}."
    )


def described(info: JudgeInfo | None, judge: str, *, images: str) -> str:
    """Who judged how many images, and how, in a sentence; of an older scorecard no more than who.

    images: "320 images of each model".
    """
    if info is None:
        return f"Judge {judge}, of {images}."
    parts = [f"Judge {info.name}, of {images}", f"fingerprint {info.fingerprint[:16]}"]
    parts += [f"weights {info.weights}"] if info.weights else []
    parts += [f"questions put as: {info.wording}"] if info.wording else []
    parts += [f"precision {info.precision}"] if info.precision else []
    return "; ".join(parts) + "."


def known_sentences(sentences: Iterable[str]) -> list[str]:
    """What is known of published numbers that others do not reach."""
    return [f"Known: {sentence}" for sentence in sentences]


CHOSE = "this run was chosen or tuned by it; its gain is no independent evidence."


def print_preferences(scorecard: Scorecard, console: Console) -> None:
    """Print a table of each preference scorer's scores, and below it what the scorers are."""
    columns = [Column("scorer", "name"), Column("model", "name")]
    for header in ("score", "minus base", "wins"):
        columns += [Column(header), Column("95%", "ends")]
    rows = []
    for scorer in scorecard.preferences:
        for number, model in enumerate(scorecard.models):
            cells = [*apart(model.preferences[scorer.label], digits=2)]
            if change := model.preference_differences.get(scorer.label):
                cells += [
                    *apart(change, sign=True, digits=2),
                    *apart(model.win_rates[scorer.label]),
                ]
            mark = " *" if scorer.chose else ""
            first = scorer.name + mark if number == 0 else ""
            merged = model.role == "merged"
            rows.append(Row([first, model.model, *cells], merged, rule_above=number == 0))
    console.print("Preference", style="italic")
    print_fitted(console, columns, rows)
    console.print(
        "means with 95% intervals; wins: percent of images that score above the base's, ties half",
        style="dim",
        highlight=False,
    )
    for scorer in scorecard.preferences:
        description = f"{scorer.name} ({scorer.weights}): {scorer.scale}; {scorer.preprocessing}."
        console.print(description + (f" * {CHOSE}" if scorer.chose else ""), highlight=False)
        for sentence in known_sentences([scorer.known] if scorer.known else []):
            console.print(sentence, style="dim", highlight=False, markup=False)


def share(value: float) -> str:
    """A share in 0..1 as a percentage."""
    return f"{100 * value:.1f} %"
