"""A finished run's experts merged in several ways, by score: what "averaging" means, and whether
weights that were searched are better than uniform ones.

    .venv/bin/python bench/averaging.py runs/toybox-full --work /tmp/averaging
    .venv/bin/python bench/averaging.py RUN --work FOLDER --vary merged.method=ties --trials 0

First the errors of every method against the exact mean of the experts' weight deltas. Then SELMA's
two readings: the mean of the deltas, which is what its code gets by stacking adapters, and B times
A of averaged factors, as its text says, which is another and usually smaller step. Then, with
--trials, weights searched on the dev split by the judge that never reports. Experts that are
rotations are merged by every method for rotations instead, the mean of skew matrices first, with c:
how much they disagree. Each merge generates the run's own benchmark (the test split unless the run
says otherwise) from equal seeds, so that differences are paired by prompt.

Prompts, images, experts and the base's benchmark images are taken from the run, which is left as it
is; each merge is a run of its own in the work folder, and goes on where it was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from merging import errors
from paired import ahead
from rich.console import Console
from rich.table import Column, Table
from tuning import changed

from selma import pipeline
from selma.adapters.table import adapter_file
from selma.applications.loading import read_run_file
from selma.config import RunConfig
from selma.merged.merging import read_diagnostics
from selma.merged.methods import METHODS
from selma.records.scores import Interval, Scorecard
from selma.report.tables import between, model_with_role, points, signed
from selma.workspace import EXPERTS, IMAGES, PROMPTS, SCORES, Workspace

EXACT, FACTORS = "merged.method=mean_of_deltas", "merged.method=mean_of_factors"
SHARED = (PROMPTS, IMAGES, EXPERTS)
OF_BASE = tuple(f"{SCORES}/{what}/base" for what in ("images", "answers", "second-answers"))


def main(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    work: Annotated[Path, typer.Option(help="One folder for each merge; finished ones stay.")],
    trials: Annotated[int, typer.Option(min=0, help="Merges that are tried; 0 is no search.")] = 32,
    vary: Annotated[
        list[str] | None, typer.Option(help="merged.key=value,merged.key=value: one more merge.")
    ] = None,
    scored: Annotated[bool, typer.Option(help="Generate and score; else the errors alone.")] = True,
) -> None:
    """Print the errors of all methods, and each merge's score with paired intervals."""
    config = read_run_file(run)
    experts = pipeline.Stages(config, Workspace(run), make=[]).all_experts()
    rotations = config.experts.adapter.kind != "lora"
    if not rotations:
        Console().print(errors([adapter_file(expert.folder) for expert in experts]))
    if not scored:
        return
    all_rotating = [f"merged.method={m.name}" for m in METHODS.values() if m.rotates]
    first = all_rotating if rotations else [EXACT, FACTORS]
    searched = [f"{first[0]},merged.search={{trials: {trials}}}"] if trials else []
    cards: dict[str, Scorecard] = {}
    turned = Table(
        Column("merge", overflow="fold"),
        "relative error",
        "cosine",
        "norm x",
        "c",
        "orthogonal within",
    )
    for text in [*first, *(vary or []), *searched]:
        variant = begun(config, text, run, work, number=len(cards))
        diagnostics = read_diagnostics(pipeline.merge(variant))
        cards[text] = pipeline.score(variant)
        Console().print(table(cards, config))
        if rotations:
            names = ("relative_error", "cosine", "norm_ratio", "conflict", "orthogonality")
            figures = [diagnostics["all"][name] for name in names]
            # No number where the mean does not turn at all: c is infinite there.
            turned.add_row(shown(text), *("-" if f is None else f"{f:.3g}" for f in figures))
    if rotations:
        Console().print(turned)
    for told in searches(cards):
        Console().print(told)


def begun(config: RunConfig, text: str, run: Path, work: Path, *, number: int) -> RunConfig:
    """Start the run with another merge, in a folder with everything that precedes the merge."""
    folder = work / f"{number}-{'-'.join(part.partition('=')[2] for part in text.split(','))[:40]}"
    folder = folder.with_name("".join(c if c.isalnum() or c in "._-" else "_" for c in folder.name))
    for name in (*SHARED, *OF_BASE):
        if (run / name).is_dir() and not (folder / name).exists():
            aside = folder / f"{name}.partial"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(run / name, aside, ignore=shutil.ignore_patterns("_encoded"))
            aside.rename(folder / name)
    # The run's own settings of its method go: only the method with its defaults stays.
    settings: dict[str, Any] = config.model_dump(mode="json")
    settings["merged"] = {}
    settings["scores"]["experts"] = False
    return changed(RunConfig.model_validate(settings), text, folder)


def table(cards: dict[str, Scorecard], config: RunConfig) -> Table:
    """Each merge compared with the base and with the first merge, the mean with uniform weights."""
    first = next(iter(cards.values()))
    about = f"{first.benchmark}, {first.split}, {first.prompts} prompts, judge {first.judge}"
    named = Column("merge", overflow="fold")
    found = Table(named, "DSG", "- base", "95%", "- the mean", "95%", title=about, min_width=90)
    found.add_row("base", points(model_with_role(first, "base").score.mean), "", "", "", "")
    for text, card in cards.items():
        merged = model_with_role(card, "merged")
        assert isinstance(merged.difference, Interval)
        cells = [points(merged.score.mean), *both(merged.difference)]
        if card is not first:
            cells += both(ahead(card, first, config))
        found.add_row(shown(text), *cells)
    return found


def shown(text: str) -> str:
    return text.replace("merged.method=", "").replace("merged.", "")


def both(difference: Interval) -> list[str]:
    return [signed(difference.mean), between(difference, sign=True)]


def searches(cards: dict[str, Scorecard]) -> Iterator[str]:
    """Compare searched weights with uniform ones, if these were beaten on dev."""
    for text, card in cards.items():
        if "search" not in text:
            continue
        for found in card.comparisons:
            mean, interval = both(found.difference)
            yield f"Searched minus uniform weights on {card.split}: {mean} ({interval})."
        if not card.comparisons:
            yield "On dev no trial was better than uniform weights."


if __name__ == "__main__":
    typer.run(main)
