"""What a SUR-adapter did: tables for the terminal, and a page with pictures side by side.

6-report/sur.html          equal results give equal bytes
6-report/pages/sur.json    its section of the run's report
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from selma.applications.sur.records import SurResult
from selma.config import ReportConfig
from selma.records.benchmarks import Answer, BenchmarkPrompt, evenly
from selma.records.pages import Page, PageTable
from selma.records.scores import Interval, ModelScore
from selma.report.grids import Mark, data_uri, mark_of
from selma.report.pages import write_page
from selma.report.tables import (
    between,
    clear,
    compared,
    points,
    print_preferences,
    print_scorecard,
    signed,
    spread,
)
from selma.report.templates import environment, policy
from selma.workspace import Workspace, inside

PAGE = "sur.html"
TITLE = "Plain prompts, read by the SUR-adapter"
MINUS_BASE = "minus base (95%, s.e.)"

WHAT = {
    "base": "plain prompts, by the base",
    "keywords": "keyword prompts, by the base",
    "sur": "plain prompts, through the adapter",
    "merged": "plain prompts, by the merged experts",
    "merged-sur": "plain prompts, through the adapter, by the merged experts",
}


@dataclass(frozen=True)
class Beside:
    """One model's picture of a prompt."""

    label: str
    image: str
    """A data: URI."""
    score: float
    """0-100."""
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Card:
    """One exam prompt, drawn by all models."""

    prompt: BenchmarkPrompt
    keywords: str
    generated: tuple[Beside, ...]


def label_of(model: str) -> str:
    """A model's name without the ablation that it belongs to."""
    return model.rpartition("/")[2]


def kinds_of(result: SurResult) -> list[str]:
    """The kinds of questions, the paper's three first."""
    known = result.card.models[0].categories
    first = [kind for kind in ("counting", "colour", "action") if kind in known]
    return first + [kind for kind in known if kind not in first]


def columns_of(result: SurResult) -> list[tuple[str, dict[str, Interval], dict[str, Interval]]]:
    """Name, means and differences of every measure beside the first, as far as they are there."""
    models = result.card.models
    columns = [
        (
            "CLIP, plain",
            {m.model: m.clip for m in models if m.clip},
            {m.model: m.clip_difference for m in models if m.clip_difference},
        ),
        ("CLIP, keywords", result.keyword_clip, result.keyword_clip_differences),
    ]
    for scorer in result.card.preferences:
        label = scorer.label
        changes = {
            m.model: m.preference_differences[label] for m in models if m.preference_differences
        }
        columns.append((scorer.name, {m.model: m.preferences[label] for m in models}, changes))
    if result.distances is not None:
        kernel = result.distances.kernel
        columns.append(("kernel distance", kernel, result.distances.kernel_differences))
    return [column for column in columns if column[1]]


def print_result(result: SurResult, console: Console) -> None:
    """Every measure of every model, and accuracy by kind."""
    card = result.card
    models = [model.model_copy(update={"model": label_of(model.model)}) for model in card.models]
    names = [model.model for model in card.models]
    print_scorecard(
        card.model_copy(update={"models": tuple(models), "preferences": (), "comparisons": ()}),
        console,
    )
    for model in models:
        if model.model in WHAT:
            console.print(f"{model.model}: {WHAT[model.model]}", highlight=False)
    if card.preferences:
        print_preferences(card.model_copy(update={"models": tuple(models)}), console)
    for pair in card.comparisons:
        console.print(compared(pair), highlight=False)
    kinds = Table("model", title="questions by kind, minus base; * where zero is outside the 95%")
    for kind in kinds_of(result):
        kinds.add_column(kind, justify="right")
    for model in models:
        kinds.add_row(model.model, *(_by_kind(model, kind) for kind in kinds_of(result)))
    console.print(kinds)
    more = Table("model", title="pictures beside texts and good pictures, minus base (95%)")
    columns = columns_of(result)
    for name, _, _ in columns:
        more.add_column(name, justify="right")
    frechet = result.distances.frechet if result.distances else {}
    if frechet:
        more.add_column("Fréchet distance", justify="right")
    for name in names:
        cells = [_cell(means.get(name), changes.get(name)) for _, means, changes in columns]
        cells += [points(frechet[name], 2)] if frechet else []
        more.add_row(label_of(name), *cells)
    console.print(more)
    if result.distances:
        console.print(
            f"Distances from {result.distances.images} of the samples' pictures, by the "
            f"{result.distances.encoder}; the kernel distance is times 1000, and less is nearer.",
            highlight=False,
        )


def print_ablation(result: SurResult, console: Console) -> None:
    """One line for each variant."""
    card = result.card
    table = Table(
        title=f"{card.benchmark} ({card.split}): {card.prompts} prompts, judge {card.judge}",
        caption="minus base, paired by prompt, with 95% intervals",
    )
    table.add_column("variant", overflow="fold")
    columns = columns_of(result)
    for name in (card.measure, "minus base", *(name for name, _, _ in columns)):
        table.add_column(name, justify="right")
    for model in card.models:
        cells = [points(model.score.mean), _change(model.difference)]
        cells += [
            _change(changes[model.model], digits=2)
            if model.model in changes
            else points(means[model.model].mean, 2)
            for _, means, changes in columns
        ]
        table.add_row(label_of(model.model), *cells)
    console.print(table)


def write_sur_page(
    result: SurResult,
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    answers: Mapping[str, Sequence[Answer]],
    config: ReportConfig,
    folder: Workspace,
    *,
    about: Mapping[str, str],
) -> Path:
    """Write the page and its section of the run's report. The page's path.

    about: what of the run the section is about (`records.pages.Page.about`). Raises DataError if an
    image cannot be read.
    """
    html = (
        environment("selma.applications.sur")
        .get_template("sur.html")
        .render(
            policy=policy(),
            title=TITLE,
            introduction=introduction(result),
            notes=list(notes_of(result)),
            result=result,
            kinds=kinds_of(result),
            columns=columns_of(result),
            shown=[
                _card(prompt, result, images, answers)
                for prompt in evenly(benchmark_prompts, config.grid_prompts)
            ],
            headline=headline(result),
        )
    )
    return write_page(sur_page(result, about=about), folder, html)


def sur_page(result: SurResult, *, about: Mapping[str, str]) -> Page:
    """The section of the run's report."""
    return Page(
        name="sur",
        title=TITLE,
        headline=f"{headline(result)}.",
        file=PAGE,
        about=dict(about),
        tables=(_scores_table(result), _kinds_table(result)),
        notes=(introduction(result),),
    )


def _scores_table(result: SurResult) -> PageTable:
    card, columns, distances = result.card, columns_of(result), result.distances
    names = ["Model", f"{card.measure} score (95%, s.e.)", MINUS_BASE]
    names += [name for column, _, _ in columns for name in (column, MINUS_BASE)]
    names += ["Fréchet distance"] if distances else []
    rows = []
    for model in card.models:
        row = [model.model, f"{points(model.score.mean)} ({spread(model.score)})"]
        row += [_spread_change(model.difference)]
        for _, means, changes in columns:
            mean = means.get(model.model)
            row += [points(mean.mean, 2) if mean else ""]
            row += [_spread_change(changes.get(model.model), digits=2)]
        row += [points(distances.frechet[model.model], 2)] if distances else []
        rows.append(tuple(row))
    return PageTable(columns=tuple(names), rows=tuple(rows), notes=tuple(notes_of(result)))


def _kinds_table(result: SurResult) -> PageTable:
    kinds = kinds_of(result)
    return PageTable(
        caption="By kind of question",
        columns=("Model", *kinds),
        rows=tuple(
            (model.model, *(_by_kind(model, kind) for kind in kinds))
            for model in result.card.models
        ),
        notes=(
            "Share of questions answered as expected, and in brackets minus base. An asterisk "
            "marks differences whose 95% interval leaves out zero.",
        ),
    )


def introduction(result: SurResult) -> str:
    """What each model is, and what differences are taken from."""
    models = [m.model for m in result.card.models if m.model in WHAT]
    what = "; ".join(f"{model}: {WHAT[model]}" for model in models)
    return (
        f"The same benchmark prompts and seeds, judge {result.card.judge}. {what}. Every "
        "difference is to the base with the plain prompt, paired by prompt, with its 95% interval."
    )


def notes_of(result: SurResult) -> Iterator[str]:
    """Comparisons beside those with the base, and what the columns are."""
    yield from (compared(pair) for pair in result.card.comparisons)
    yield (
        "CLIP score: 100 times the cosine of an image and the plain prompt, or the keyword prompt."
    )
    if result.distances:
        yield (
            f"Distances: from {result.distances.images} of the training images, by the "
            f"{result.distances.encoder}; less is nearer. The kernel distance (times 1000) is "
            "unbiased; the Fréchet distance grows where images are few, for all models alike."
        )


def headline(result: SurResult) -> str:
    """What the adapter does to the first score, in one sentence."""
    change = next((m.difference for m in result.card.models if m.model == "sur"), None)
    if change is None or not clear(change):
        return "No clear difference between plain prompts with the SUR-adapter and without"
    better = "better" if change.mean > 0 else "worse"
    return f"Through the SUR-adapter plain prompts are followed {better}"


def _card(
    prompt: BenchmarkPrompt,
    result: SurResult,
    images: Mapping[str, Path],
    answers: Mapping[str, Sequence[Answer]],
) -> Card:
    generated = []
    for model in result.card.models:
        answers_by_question = {
            a.question_id: a for a in answers[model.model] if a.prompt_id == prompt.id
        }
        generated.append(
            Beside(
                label=model.model,
                image=data_uri(inside(images[model.model], f"{prompt.id}.png")),
                score=100 * model.per_prompt[prompt.id],
                marks=tuple(
                    mark_of(answers_by_question.get(question.id)) for question in prompt.questions
                ),
            )
        )
    return Card(prompt, result.keywords.get(prompt.id, ""), tuple(generated))


def _by_kind(model: ModelScore, kind: str) -> str:
    change = model.category_differences.get(kind)
    score = points(model.categories[kind].mean)
    return f"{score} ({signed(change.mean)}{'*' if clear(change) else ''})" if change else score


def _cell(mean: Interval | None, change: Interval | None) -> str:
    if mean is None:
        return ""
    return points(mean.mean, 2) + (f"  {_change(change, digits=2)}" if change else "")


def _spread_change(change: Interval | None, digits: int = 1) -> str:
    if change is None:
        return ""
    return f"{signed(change.mean, digits)} ({spread(change, sign=True, digits=digits)})"


def _change(change: Interval | None, digits: int = 1) -> str:
    if change is None:
        return ""
    return f"{signed(change.mean, digits)} ({between(change, sign=True, digits=digits)})"
