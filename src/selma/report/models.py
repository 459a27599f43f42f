"""Adapters, merges, base models and memory estimates as tables for the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selma.plurals import counted
from selma.report.tables import points, share

if TYPE_CHECKING:
    from selma.adapters.kind import Adapter
    from selma.backbones.bases import Architecture, Base
    from selma.backbones.memory import Computing, Need

AT_ONCE = 6
"""Experts side by side in a table of 80 columns."""


def print_adapter(file: Adapter, about: Sequence[str], console: Console) -> None:
    """Print an adapter's kind, format, layers and lineage, and what its own kind says about it."""
    parts = Counter(layer.partition(".")[0] for layer in file.layers)
    lines = [f"{file.path}: {file.kind}, {file.format}"]
    if file.layers:
        counts = ", ".join(f"{count} of {part}" for part, count in parts.items())
        lines += [f"layers: {len(file.layers)} ({counts})"]
    lines += about
    lines += [f"base: {file.lineage.base or 'not named'}"]
    lines += [f"{key}: {value}" for key, value in sorted(file.lineage.made_by.items())]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_diagnostics(
    diagnostics: Mapping[str, Any], console: Console, *, all_layers: bool = False
) -> None:
    """Print a merge's diagnostics: each expert, their cosines, and five layers or all.

    The layers farthest from the mean come first.
    """
    summary = diagnostics["all"]
    console.print(
        f"Against the exact mean of the weight deltas: relative error "
        f"{summary['relative_error']:.4g}, cosine {summary['cosine']:.4f}, "
        f"norm x{summary['norm_ratio']:.4g}.",
        highlight=False,
    )
    if sentence := rotation_sentence(diagnostics):
        console.print(sentence, highlight=False)
    console.print(_experts(diagnostics["experts"]))
    for table in _gates(diagnostics):
        console.print(table)
    if len(diagnostics["experts"]) > 1:
        for table in _cosines(diagnostics["cosines"]):
            console.print(table)
    count = len(diagnostics["layers"]) if all_layers else 5
    console.print(_layers(diagnostics, worst_layers(diagnostics, count), console.width))


def print_verified(rows: Mapping[str, Mapping[str, Any]], error: float, console: Console) -> None:
    """Print each layer's change before and after a merge, the farthest from what it was to be
    first, and the error of all together."""
    idle = sum(max(row["before"].values()) == 0 for row in rows.values())
    zeros = f" {counted(idle, 'layer is', 'layers are')} zeros in every expert." if idle else ""
    console.print(
        f"What was written is within {error:.2g} of the merge in float64; "
        f"{counted(len(rows), 'layer')}, none without effect that an expert changes.{zeros}",
        highlight=False,
        soft_wrap=True,
    )
    shown = sorted(rows.items(), key=lambda pair: (-(pair[1]["relative_error"] or 0), pair[0]))
    figures = ("largest\nbefore", "to be", "written", "relative\nerror")
    table = _table("change of each layer, its norm", "layer", figures)
    for name, row in shown:
        wrong = row["relative_error"]
        numbers = (max(row["before"].values()), row["expected"], row["written"])
        table.add_row(name, *(f"{n:.4g}" for n in numbers), "" if wrong is None else f"{wrong:.2g}")
    console.print(table)


def print_resized(resized: Mapping[str, Any], console: Console, *, all_layers: bool) -> None:
    """Print what cutting ranks has cost, layer by layer, and of all together."""
    total, rows = resized["all"], resized["layers"]
    console.print(
        f"Rank {total['rank_before']} → {total['rank']}; relative error of all layers together "
        f"{total['relative_error']:.4g}.",
        highlight=False,
        soft_wrap=True,
    )
    shown = sorted(rows.items(), key=lambda pair: (-pair[1]["relative_error"], pair[0]))
    shown = shown if all_layers else shown[:5]
    title = f"layers that lost most: {len(shown)} of {len(rows)}"
    table = _table(title, "layer", ("norm", "rank", "relative\nerror"))
    for name, row in shown:
        ranks = f"{row['rank_before']} → {row['rank']}"
        table.add_row(name, f"{row['norm']:.4g}", ranks, f"{row['relative_error']:.4g}")
    console.print(table)


def _experts(experts: Mapping[str, Any]) -> Table:
    figures = ("weight", "norm", "cosine to\nmerged", "conflicting\nentries", "conflicting\nmass")
    title = "experts: norm of the deltas, and conflicts of sign"
    table = _table(title, "expert", figures, numbered=True)
    for number, (name, expert) in enumerate(experts.items(), 1):
        table.add_row(
            str(number),
            escape(name),
            f"{expert['weight']:.4g}" if "weight" in expert else "",
            f"{expert['norm']:.4g}",
            f"{expert['cosine_to_merged']:.3f}",
            share(expert["conflict_entries"]),
            share(expert["conflict_mass"]),
        )
    return table


def _cosines(cosines: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """Every pair's cosine, with experts numbered, since their names would not fit."""
    names = list(cosines)
    for start in range(0, len(names), AT_ONCE):
        others = names[start : start + AT_ONCE]
        numbers = [str(start + n) for n in range(1, len(others) + 1)]
        table = _table("cosine between the experts' deltas", "#", numbers)
        for number, name in enumerate(names, 1):
            table.add_row(str(number), *(f"{cosines[name][other]:.3f}" for other in others))
        yield table


def _gates(diagnostics: Mapping[str, Any]) -> Iterator[Table]:
    """Each expert's share by skill, where a mixture's gates were measured, with experts numbered as
    among the cosines."""
    names = list(diagnostics["experts"])
    skills = diagnostics.get("gates", {}).get("skills", {})
    for start in range(0, len(names), AT_ONCE) if skills else ():
        others = names[start : start + AT_ONCE]
        numbers = [str(start + n) for n in range(1, len(others) + 1)]
        table = _table("what the gates chose: share of each expert", "prompts of", numbers)
        for skill, shares in skills.items():
            table.add_row(escape(skill), *(share(shares[name]) for name in others))
        yield table


def _layers(
    diagnostics: Mapping[str, Any], layers: Sequence[tuple[str, dict[str, Any]]], width: int
) -> Table:
    figures = (
        layer_measure(diagnostics).replace(" ", "\n"),
        "relative\nerror",
        "cosine",
        "conflicting\nmass",
    )
    count = f"{len(layers)} of {len(diagnostics['layers'])}"
    table = _table(f"layers farthest from the mean: {count}", "layer", figures)
    for name, layer in layers:
        # Folded after a dot, rather than amid a word; 45 columns are the figures'.
        room = max(width - 45, 20)
        table.add_row(
            "\n".join(re.findall(rf".{{1,{room}}}(?:(?<=\.)|$)|.{{1,{room}}}", name)),
            layer_value(layer),
            f"{layer['relative_error']:.4g}",
            f"{layer['cosine']:.4f}",
            share(layer["conflict_mass"]),
        )
    return table


def _table(title: str, first: str, figures: Iterable[str], *, numbered: bool = False) -> Table:
    """A table for 80 columns: the first column is folded, numbers are not."""
    table = Table(title=title, min_width=60)
    if numbered:
        table.add_column("#", justify="right", no_wrap=True)
    table.add_column(first, overflow="fold")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def layer_measure(diagnostics: Mapping[str, Any]) -> str:
    """The name of a layer's first figure: its rank, or for rotations the experts' conflict."""
    return "conflict c" if "conflict" in diagnostics["all"] else "rank"


def layer_value(layer: Mapping[str, Any]) -> str:
    """The figure that `layer_measure` names."""
    if "rank" in layer:
        return str(layer["rank"])
    if "conflict" not in layer:
        return ""
    return "∞" if layer["conflict"] is None else f"{layer['conflict']:.3g}"


def rotation_sentence(diagnostics: Mapping[str, Any]) -> str:
    """The figures that only merged rotations have, as a sentence; empty for other merges."""
    summary = diagnostics["all"]
    if "conflict" not in summary:
        return ""
    c = layer_value(summary)
    return (
        f"Conflict c = {c}: the experts rotate {c} times as far as their mean. R Rᵀ is within "
        f"{summary['orthogonality']:.1g} of the identity."
    )


def worst_layers(
    diagnostics: Mapping[str, Any], count: int = 5
) -> list[tuple[str, dict[str, Any]]]:
    """The layers that are farthest from the mean after the merge, farthest first."""
    layers = diagnostics["layers"].items()
    return sorted(layers, key=lambda pair: (-pair[1]["relative_error"], pair[0]))[:count]


def gated_layers(
    diagnostics: Mapping[str, Any], count: int = 8
) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """The layers whose gates are farthest from even shares on some skill's prompts, farthest first:
    layer, and skill → expert → share. [] of what is no mixture."""
    layers = diagnostics.get("gates", {}).get("each", {})

    def largest(by_skill: Mapping[str, Mapping[str, float]]) -> float:
        return max(value for shares in by_skill.values() for value in shares.values())

    return sorted(layers.items(), key=lambda pair: (-largest(pair[1]), pair[0]))[:count]


def print_trials(trials: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print tables of the ten best merges that were tried, best first, and of uniform weights."""
    skills = list(trials[0]["weights"])
    ranked = sorted(trials, key=lambda row: (-row["score"], row["trial"]))
    shown = [row for rank, row in enumerate(ranked) if rank < 10 or row["trial"] == 0]
    for start in range(0, len(skills), AT_ONCE):
        group = skills[start : start + AT_ONCE]
        numbers = [f"weight\n{start + n}" for n in range(1, len(group) + 1)]
        title = f"weights by score on dev prompts: {counted(len(trials), 'trial')}"
        table = _table(title, "trial", ("dev\nscore", "scale", *numbers))
        for row in shown:
            label = f"{row['trial']} (uniform)" if row["trial"] == 0 else str(row["trial"])
            cells = [points(row["score"], 2), f"{row['scale']:.3g}"]
            cells += [f"{row['weights'][skill]:.3g}" for skill in group]
            table.add_row(label, *cells, style="bold" if row is ranked[0] else None)
        console.print(table)
    named = ", ".join(f"{number} of {skill}" for number, skill in enumerate(skills, 1))
    console.print(f"Weight {named}.", highlight=False, markup=False)


def print_bases(bases: Iterable[Base], console: Console) -> None:
    """Print the table of base models, and below it each one's repository and licence."""
    figures = ("predicts", "px", "text\nwidth", "text\nencoders", "guidance")
    table = _table("base models", "base.model", figures)
    bases = list(bases)
    for base in bases:
        architecture = base.architecture
        table.add_row(
            base.name,
            architecture.prediction,
            str(architecture.image_px),
            str(architecture.cross_width),
            str(architecture.text_encoders),
            f"{base.guidance:g}",
        )
    console.print(table)
    for base in bases:
        pinned = base.revision or "newest commit: none is known to be pinned"
        where = f"{base.repository} @ {pinned}" if base.repository else "embedded"
        licence = base.licence or "selma's own"
        line = f"{base.name}: {where}. {base.parts}. {base.note}. Licence: {licence}."
        if base.undistilled is not None:
            line += f" To train: {base.undistilled}."
        console.print(line, highlight=False)


def print_architecture(
    architecture: Architecture, bases: Mapping[str, Base], console: Console
) -> None:
    """Print what a model's configs say, and the table's rows with the same architecture."""
    for key, value in vars(architecture).items():
        console.print(f"{key}: {value}", highlight=False)
    names = [name for name, base in bases.items() if base.architecture == architecture]
    console.print(f"as: {', '.join(names) or 'none of the table'}", highlight=False)


def print_memory(
    needs: Iterable[Need], changes: Sequence[str], limit: int | None, console: Console
) -> None:
    """Print a table of the memory that each piece of work needs, and below it what to change."""
    figures = ("images\nat once", "weights", "trained", "activations", "in all")
    table = _table("memory of the device, estimated from shapes (GiB)", "work", figures)
    for need in needs:
        sizes = (need.weights, need.trained, need.fixed + need.each * need.images, need.total)
        table.add_row(need.what, str(need.images), *(f"{size / 2**30:.2f}" for size in sizes))
    console.print(table)
    if limit is not None:
        fits = all(need.total <= limit for need in needs)
        console.print(f"{limit / 2**30:.1f} GiB {'suffice' if fits else 'do not suffice'}.")
    for change in changes:
        console.print(f"  {change}", highlight=False)


def print_computing(computing: Computing, console: Console) -> None:
    """Print what the base computes, in figures that a device's speed divides."""
    tera = {n: f"{getattr(computing, n) / 1e12:.3g}" for n in ("step", "image", "sample")}
    console.print(
        f"{computing.parameters / 1e6:,.0f} million parameters denoise. In 10^12 floating-point "
        f"operations: {tera['step']} a denoising step, {tera['image']} an image of "
        f"{computing.steps} steps, {tera['sample']} a sample of a training step.",
        highlight=False,
    )
