"""What `claims.py` measured: which guidance is best, what the algebra predicts, tables, words.

Pure: nothing here generates or judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from selma.applications.comparisons.guiding import Curve, Setting, best, offered
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.merged import UNIFORM
from selma.records.scores import Interval, ModelScore
from selma.report.tables import cell, clear, points, signed
from selma.scores.model_score import Role

BEST = "own best"
COMPARED = {BEST: "plain", f"{BEST}, rescaled": "rescaled", f"{BEST} of both": "either"}
"""Comparison on test → which guidance each model's best is chosen from."""
ROLES: dict[str, Role] = {"base": "base", "merged": "merged", UNIFORM: "other"}


@dataclass(frozen=True)
class Claims:
    """All that was measured."""

    about: str
    training_guidance: float
    curves: Mapping[str, Curve]
    ideal: Mapping[float, float]
    """Guidance → the dev score of a sampler that has learnt the captions exactly."""
    settings: Mapping[str, Mapping[str, Setting]]
    """Comparison on test → model → how it was guided; see `settings_on_test`."""
    test: Mapping[str, Mapping[str, ModelScore]]
    """Comparison → model → its scores; differences are to the base's in the same comparison."""
    gains: Mapping[float, Interval]
    """Guidance → merged minus base on dev, both plainly guided by it."""
    own_experts: Interval | None
    """On test at each one's best: a style's own expert minus the mean of the others."""


def settings_on_test(
    curves: Mapping[str, Curve], training_guidance: float
) -> dict[str, dict[str, Setting]]:
    """Comparison → model → how it is guided."""
    training = Setting.of(training_guidance)
    fixed = {"no guidance": Setting(1.0), f"training guidance, {training}": training}
    return {name: dict.fromkeys(curves, setting) for name, setting in fixed.items()} | {
        name: {model: best(offered(curve, which)) for model, curve in curves.items()}
        for name, which in COMPARED.items()
    }


def predicted_gain(base: Curve, guidance: float, training_guidance: float) -> float | None:
    """What a student of images of the training guidance gains over the base at a guidance.

    Images at g follow p(x|c)^g p(x)^(1-g); a student of them, guided by g' against the base's own
    p(x), follows p(x|c)^(g g') p(x)^(1 - g g'), as the base does at g g'. So the gain is
    score(g g') - score(g') on the base's plain curve, linear between measured guidances; None where
    one of them lies beyond these.
    """
    plain = sorted((s.guidance, score) for s, score in base.items() if not s.rescaled)
    measured, scores = zip(*plain, strict=True)
    ends = [guidance * max(training_guidance, 1.0), guidance]
    if not all(measured[0] <= end <= measured[-1] for end in ends):
        return None
    after, before = np.interp(ends, measured, scores)
    return float(after - before)


def style_of(skill: str) -> str:
    """The benchmark's group that a skill's prompts are like."""
    return skill.removeprefix("toybox_")


def own_minus_others(
    asked: Iterable[BenchmarkPrompt], experts: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Image id → the score of its style's own expert minus the mean of the others'; {} for a single
    expert. experts: style → image id → score."""
    return {
        image.id: experts[image.group][image.id]
        - float(np.mean([of[image.id] for style, of in experts.items() if style != image.group]))
        for image in asked
        if image.group in experts and len(experts) > 1
    }


@dataclass(frozen=True)
class Sheet:
    """A table for the terminal and for Markdown, where a cell's lines become one."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Table:
        lines = any("\n" in text for row in self.rows for text in row)
        table = Table(title=self.title, caption=self.note, show_lines=lines)
        for number, name in enumerate(self.head):
            table.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        lines = [f"| {' | '.join(row)} |".replace("\n", " ") for row in rows]
        return "\n".join([f"## {self.title}\n", *lines, *([f"\n{self.note}"] * bool(self.note))])


def sheets(claims: Claims) -> Iterator[Sheet]:
    """The tables, in the order in which they are read."""
    yield dev_sheet(claims)
    yield test_sheet(claims)
    if any(model not in ROLES for model in claims.curves):
        yield expert_sheet(claims)
    yield category_sheet(claims)
    yield algebra_sheet(claims)


def dev_sheet(claims: Claims) -> Sheet:
    """Model x guidance, plain and rescaled."""
    rows = []
    for model, curve in claims.curves.items():
        for label, which in ((model, "plain"), (f"{model}, rescaled", "rescaled")):
            part = offered(curve, which)
            scores = {setting.guidance: points(score) for setting, score in part.items()}
            rows.append([label, *(scores[g] for g in claims.ideal), f"{best(part).guidance:g}"])
        if model == "base":
            rows.append(["ideal sampler", *map(points, claims.ideal.values()), ""])
    head = ["model", *(f"{guidance:g}" for guidance in claims.ideal), "best"]
    return Sheet("Dev: score at each guidance", head, rows, claims.about)


def test_sheet(claims: Claims) -> Sheet:
    """Each model's score in each comparison, and its difference to the base's."""
    names = [name for name in claims.test if COMPARED.get(name) != "either"]

    def text(model: str, name: str) -> str:
        score = claims.test[name][model]
        at = f" at {claims.settings[name][model]}" if name in COMPARED else ""
        minus = f",\n{cell(score.difference, sign=True)}" if score.difference else ""
        return f"{points(score.score.mean)}{at}{minus}"

    rows = [[model, *(text(model, name) for name in names)] for model in claims.curves]
    note = "Behind each score: minus the base's in the same column, paired by prompt, 95% interval."
    return Sheet("Test: every model beside the base", ["model", *names], rows, note)


def expert_sheet(claims: Claims) -> Sheet:
    """Expert x style of prompts, each model at its own best."""
    scores = claims.test[BEST]
    styles = list(scores["base"].groups)
    rows = []
    for model, score in scores.items():
        if model == "base":
            continue
        own, gains = style_of(model), score.group_differences
        cells = [cell(gains[style], sign=True).replace(" (", "\n(") for style in styles]
        most = max(styles, key=lambda style: gains[style].mean) == own
        rows.append([own, *cells, ("yes" if most else "no") if own in styles else ""])
    own = cell(claims.own_experts, sign=True) or "not measured"
    note = f"A style's own expert minus the mean of the others on its prompts: {own}."
    title = "Test: minus the base in each style of prompts, each at its own best"
    return Sheet(title, ["expert", *styles, "own most"], rows, note)


def category_sheet(claims: Claims) -> Sheet:
    """Category: base, merged and their difference, each at its own best."""
    base, merged = (claims.test[BEST][model] for model in ("base", "merged"))
    rows = [
        [name, points(base.categories[name].mean), points(of.mean), cell(change, sign=True)]
        for name, of in merged.categories.items()
        for change in [merged.category_differences[name]]
    ]
    title = "Test: categories, both at their own best"
    return Sheet(title, ["category", "base", "merged", "difference"], rows)


def algebra_sheet(claims: Claims) -> Sheet:
    """Guidance: predicted gain of the merged model beside the measured one."""
    rows = []
    for guidance, gain in claims.gains.items():
        expected = predicted_gain(claims.curves["base"], guidance, claims.training_guidance)
        product = guidance * max(claims.training_guidance, 1.0)
        told = "-" if expected is None else signed(expected)
        rows.append([f"{guidance:g}", f"{product:g}", told, cell(gain, sign=True)])
    note = (
        "Predicted: the base's plain score at g g' minus that at g', for training images of "
        f"guidance g = {claims.training_guidance:g}, if a student learns them exactly and the "
        "empty prompt stays the base's. What is measured above it, the student gains by not "
        "having the base's artefacts at g g'."
    )
    head = ["guidance g'", "g g'", "predicted", "merged minus base"]
    return Sheet("Dev: what the algebra predicts of the merged model", head, rows, note)


def sentence(claims: Claims, name: str) -> str:
    """What the merged model's best gains over the base's best, and where."""
    base, merged = (claims.test[name][model] for model in ("base", "merged"))
    settings, gain = claims.settings[name], merged.difference
    assert gain is not None
    verdict = "Gained" if gain.low > 0 else "Lost" if gain.high < 0 else "Nothing was gained"
    apart = [
        f"{key}{what} {signed(change.mean)}"
        for what, changes in (
            ("", merged.category_differences),
            (" prompts", merged.group_differences),
        )
        for key, change in changes.items()
        if clear(change)
    ]
    return (
        f"{verdict} ({name}): the merged model at guidance {settings['merged']} scores "
        f"{points(merged.score.mean)}, the base at {settings['base']} {points(base.score.mean)}, "
        f"a difference of {cell(gain, sign=True)} points, paired over {gain.n} test prompts. "
        "Kinds of questions and of prompts whose own interval excludes zero: "
        f"{', '.join(apart) or 'none'}."
    )


def sentences(claims: Claims) -> list[str]:
    """The headline, by plain guidance, and then the same by rescaled and by either."""
    return [sentence(claims, name) for name in COMPARED]


def as_markdown(claims: Claims) -> str:
    """The sentences and all tables."""
    parts = ["# What SELMA gains on toybox", *sentences(claims)]
    return "\n\n".join([*parts, *(sheet.markdown() for sheet in sheets(claims))]) + "\n"


def as_json(claims: Claims) -> dict[str, Any]:
    """Everything but the scores of single prompts, which follow from the answers."""
    base, training = claims.curves["base"], claims.training_guidance
    return {
        "about": claims.about,
        "training_guidance": training,
        "dev": {m: {str(s): v for s, v in curve.items()} for m, curve in claims.curves.items()},
        "ideal": {f"{guidance:g}": score for guidance, score in claims.ideal.items()},
        "test": {
            name: {
                model: {"guidance": str(claims.settings[name][model])}
                | score.model_dump(mode="json", exclude={"per_prompt"}, exclude_defaults=True)
                for model, score in scores.items()
            }
            for name, scores in claims.test.items()
        },
        "own_experts": claims.own_experts and claims.own_experts.model_dump(),
        "algebra": {
            f"{guidance:g}": {
                "predicted": predicted_gain(base, guidance, training),
                "measured": gain.model_dump(),
            }
            for guidance, gain in claims.gains.items()
        },
        "sentences": sentences(claims),
    }
