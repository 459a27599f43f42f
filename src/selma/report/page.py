"""The report: one self-contained HTML page, and a contact sheet for a README.

6-report/index.html    equal findings give equal bytes, except in elements with `data-volatile`
6-report/scores.json   its scores, with their judges, checks and what is known of them
6-report/grid.png      base beside merged
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from selma.config import ReportConfig
from selma.record_files import each_row, json_text
from selma.records.benchmarks import spaced
from selma.records.finished import FinishedRows
from selma.records.images import Pair, over_token_limit
from selma.records.pages import Page
from selma.records.record import Record
from selma.records.report import Findings
from selma.records.rows import MetadataRow
from selma.records.scores import Interval, MeasureInfo, ModelScore, Scorecard
from selma.report import grids, models, tables
from selma.report.beside import beside
from selma.report.judged import FILE, as_json, judged
from selma.report.pages import changed, entries, read_pages
from selma.report.sources import trained_on
from selma.report.templates import environment, policy
from selma.workspace import (
    COSTING,
    EXPERTS,
    IMAGES,
    MERGED,
    PROMPTS,
    REPORT,
    SCORES,
    Workspace,
    inside,
    write_bytes,
)

STAGES = {
    PROMPTS: "write prompts",
    IMAGES: "generate training images",
    EXPERTS: "train experts",
    MERGED: "merge",
    SCORES: "generate and score the benchmark",
}


def write_report(findings: Findings, config: ReportConfig, folder: Workspace) -> Path:
    """Write `6-report/index.html` and return its path.

    The page is written anew each time, since the stages' times may have changed. Raises
    DataError if an image cannot be read or the scorecard lacks base or merged.
    """
    item = folder.item(
        REPORT,
        recipe={
            "scorecard": _digest(findings.scorecard),
            "settings": findings.settings,
            "lineage": findings.lineage,
            "shown": config.model_dump(mode="json"),
        },
    )
    file, grid = item.path / "index.html", item.path / "grid.png"
    if item.shown_only:
        return file if item.done and grid.is_file() and file.is_file() else item.begin()
    pages = read_pages(folder)
    page = render(findings, config, pages)
    scores = (json_text(as_json(findings), indent=2) + "\n").encode()
    # The page is left out of the manifest: it holds times, and manifests are equal for equal runs;
    # so are its numbers, which tell how a judge did that was checked later.
    is_new = not (item.done and grid.is_file())
    if is_new:
        sheet = io.BytesIO()
        # `optimize` would spare 3% of the bytes, in six times the seconds.
        grids.contact_sheet(findings, min(config.grid_prompts, MOST_CARDS)).save(sheet, "PNG")
        item.begin(guests=entries(pages))
        write_bytes(grid, sheet.getvalue())
    write_bytes(file, page.encode())
    write_bytes(item.path / FILE, scores)
    if is_new:
        item.finish([grid], {"page": "index.html"})
    return file


def render(findings: Findings, config: ReportConfig, pages: Sequence[Page] = ()) -> str:
    """The page's HTML. jinja's autoescape escapes everything from findings and pages."""
    jinja = environment()
    script = jinja.get_template("page.js").render()
    with grids.bounded():
        variables = context(findings, config, pages)
    return jinja.get_template("page.html").render(
        script=Markup(script), policy=policy(script), **variables
    )


def context(findings: Findings, config: ReportConfig, pages: Sequence[Page] = ()) -> dict[str, Any]:
    """The template's variables."""
    card = findings.scorecard
    base, merged = (tables.model_with_role(card, role) for role in ("base", "merged"))
    cards = grids.Cards(findings)
    headline, meaning = tables.conclusion(card)
    categories = dict.fromkeys(q.category for p in findings.benchmark_prompts for q in p.questions)
    groups = dict.fromkeys(p.group for p in findings.benchmark_prompts)
    return {
        "name": findings.settings.get("name", "selma"),
        "card": card,
        "judged": judged(card, findings.checks),
        "measure": findings.measure,
        "base": base,
        "merged": merged,
        "headline": headline,
        "further": tables.further_scores(card),
        "others": (others := [Other.of(name, of) for name, of in findings.further.items()]),
        "rows": (rows := [Other.of(card.benchmark, findings, images=False), *others]),
        "widest": max(row.width for row in rows),
        "meaning": meaning,
        "axis": difference_axis(merged.difference) if merged.difference else None,
        "bars": [
            Bars(
                name,
                base.categories[name],
                merged.categories[name],
                merged.category_differences.get(name),
            )
            for name in largest(categories, base.categories)
        ],
        "groups": largest(groups, base.groups),
        "more_groups": max(0, len(groups) - MOST_GROUPS),
        "more_categories": max(0, len(categories) - MOST_GROUPS),
        "fair": cards.fair(min(config.grid_prompts, MOST_CARDS)),
        "gains": cards.gains(),
        "losses": cards.losses(),
        "pairs": {
            s: list(shown_pairs(p, count))
            for s, p in findings.pairs.items()
            if (count := pairs_of_skill(config.training_pairs, len(findings.pairs)))
        },
        "pair_counts": {skill: len(pairs) for skill, pairs in findings.pairs.items()},
        "prompt_counts": {skill: len(prompts) for skill, prompts in findings.prompts.items()},
        "benchmark_over_limit": findings.benchmark_over_limit,
        "over_limit": {s: over_token_limit(pairs) for s, pairs in findings.pairs.items()},
        "trained_on": trained_on(findings.settings),
        "survivors": findings.survivors,
        "asked": _choice(findings.settings).get("questions") is not None,
        "score_threshold": _choice(findings.settings).get("score_threshold"),
        "preferences": findings.preferences,
        "dropped": findings.dropped,
        "replies": findings.replies,
        "times": stage_times(findings.journal),
        "priced": _backend(findings.settings).get("kind") == "openai",
        "settings": list(flat(findings.settings)),
        "lineage": findings.lineage,
        "method": findings.merged.method,
        "weights": findings.merged.weights,
        "diagnostics": findings.diagnostics,
        "gates": findings.diagnostics.get("gates"),
        "gated_layers": models.gated_layers(findings.diagnostics),
        "trials": findings.trials,
        "dev_prompts": findings.settings.get("scores", {}).get("dev_prompts"),
        "worst_layers": models.worst_layers(findings.diagnostics) if findings.diagnostics else [],
        "layer_measure": models.layer_measure(findings.diagnostics) if findings.diagnostics else "",
        "rotation": models.rotation_sentence(findings.diagnostics) if findings.diagnostics else "",
        "energies": findings.energies,
        "beside": beside(findings),
        "pages": pages,
        "changed": {page.name: changed(page, findings.keys) for page in pages},
    }


SHOWN_OF_FURTHER = 6
"""Prompts of a further benchmark whose images are shown."""
MOST_CARDS, MOST_PAIRS, MOST_GROUPS = 200, 400, 60
"""What a page shows at most of the benchmark's prompts, of training pairs of all skills together,
and of groups or categories, so that it has 20 MB at most whatever the run."""


def largest(names: Iterable[str], sizes: Mapping[str, Interval]) -> list[str]:
    """The names in their order; of very many those with the most prompts."""
    every = list(names)
    most = sorted(every, key=lambda name: -sizes[name].n)[:MOST_GROUPS]
    return every if len(every) <= MOST_GROUPS else [n for n in every if n in {*most}]


def pairs_of_skill(wanted: int, skills: int) -> int:
    """How many training pairs of each skill are shown."""
    return min(wanted, MOST_PAIRS // max(skills, 1))


@dataclass(frozen=True)
class Other:
    """One of the benchmarks of a run that has several."""

    name: str
    card: Scorecard
    measure: MeasureInfo
    base: ModelScore
    merged: ModelScore
    further: Sequence[tuple[str, str, str]]
    conclusion: str
    shown: Sequence[grids.Card]
    """Of a further benchmark whose images are its own, some prompts."""
    judged: Sequence[str]
    """What stands beside its scores."""

    @classmethod
    def of(cls, name: str, findings: Findings, *, images: bool = True) -> Other:
        card = findings.scorecard
        return cls(
            name,
            card,
            findings.measure,
            tables.model_with_role(card, "base"),
            tables.model_with_role(card, "merged"),
            tables.further_scores(card),
            " ".join(tables.conclusion(card)),
            grids.Cards(findings).fair(SHOWN_OF_FURTHER) if images else [],
            judged(card, findings.checks),
        )

    @property
    def width(self) -> float:
        """The farthest from zero that the difference may be."""
        difference = self.merged.difference
        assert difference is not None  # the conclusion is drawn from it
        return max(1.0, abs(difference.low), abs(difference.high))


@dataclass(frozen=True)
class Bars:
    """One question category for the bar chart."""

    name: str
    base: Interval
    merged: Interval
    difference: Interval | None


def difference_axis(difference: Interval) -> dict[str, Any]:
    """Positions of the interval, its mean and the tick marks on the headline's axis, in percent of
    its width; zero is always in the middle."""
    widest = max(abs(difference.low), abs(difference.high), 1.0) * 1.15
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if widest / s <= 4)

    def percent(value: float) -> float:
        return round(50 + 50 * value / widest, 3)

    count = int(widest / step)
    ticks = [
        (percent(i * step), f"{i * step:+g}".replace("-", "−")) for i in range(-count, count + 1)
    ]
    ticks[count] = (50.0, "0")
    ends = {name: percent(getattr(difference, name)) for name in ("low", "mean", "high")}
    return {**ends, "ticks": ticks}


def stage_times(journal: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Label, total seconds and total cost of each stage before the report. Interrupted runs count,
    since their time was spent.

    A request's time is part of its skill's, and costs are counted by requests, as the limit on them
    is: a skill's line repeats what its own have cost.
    """
    rows: dict[str, dict[str, Any]] = {
        stage: {"label": label, "seconds": 0.0, "cost": 0.0} for stage, label in STAGES.items()
    }
    for line in journal:
        if row := rows.get(line.get("stage", "")):
            counts = "cost" if line.get("event") in COSTING else "seconds"
            if counts == "cost" or "event" not in line:
                row[counts] += line.get(counts, 0)
    return list(rows.values())


def shown_pairs(pairs: Sequence[Pair], count: int) -> Iterator[tuple[str, str]]:
    """(text, image) of `count` pairs, evenly spaced over all of a skill."""
    if isinstance(pairs, FinishedRows):  # of very many, the others are not read
        for row in each_row(pairs.file, MetadataRow, only={*spaced(range(len(pairs)), count)}):
            yield row["text"], grids.data_uri(inside(pairs.file.parent, row["file_name"]))
        return
    for pair in spaced(pairs, count):
        yield pair.prompt.text, grids.data_uri(pair.image)


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as (dotted name, value as JSON)."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False)


def _digest(record: Record) -> str:
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:16]


def _backend(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    prompts = settings.get("prompts")
    backend = prompts.get("backend") if isinstance(prompts, Mapping) else None
    return backend if isinstance(backend, Mapping) else {}


def _choice(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """How training images were chosen; empty if they were not."""
    return (settings.get("images") or {}).get("choose") or {}
