"""What terminals show of models: adapters and their merges, bases, the memory they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from selma.report.tables import points, share

if TYPE_CHECKING:
    from selma.adapters.kind import Adapter
    from selma.backbones.bases import Architecture, Base
    from selma.backbones.memory import Need


def print_adapter(file: Adapter, console: Console) -> None:
    """What an adapter's file is: its kind and format, its layers, and where it says that it comes
    from."""
    from selma.adapters.table import ADAPTERS

    parts = Counter(layer.partition(".")[0] for layer in file.layers)
    lines = [f"{file.path}: {file.kind}, {file.format}"]
    if file.layers:
        counts = ", ".join(f"{count} of {part}" for part, count in parts.items())
        lines += [f"layers: {len(file.layers)} ({counts})"]
    lines += ADAPTERS[file.kind].describe(file)
    lines += [f"base: {file.lineage.base or 'not named'}"]
    lines += [f"{key}: {value}" for key, value in sorted(file.lineage.made_by.items())]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_diagnostics(
    found: Mapping[str, Any], console: Console, *, all_layers: bool = False
) -> None:
    """Tables of what a merge did: each expert, their cosines, and the layers that lost most, or all
    of them in that order."""
    whole = found["all"]
    console.print(
        f"Against the exact mean of the changes: relative error {whole['relative_error']:.4g}, "
        f"cosine {whole['cosine']:.4f}, norm x{whole['norm_ratio']:.4g}.",
        highlight=False,
    )
    if turned := turned_sentence(found):
        console.print(turned, highlight=False)
    names = list(found["experts"])
    experts = Table(title="experts: norm of the change, and who overrules whom", min_width=60)
    for column in ("expert", "norm", "cosine to merged", "overruled entries", "overruled mass"):
        experts.add_column(column, justify="left" if column == "expert" else "right")
    for name, one_ in found["experts"].items():
        experts.add_row(
            name,
            f"{one_['norm']:.4g}",
            f"{one_['cosine_to_merged']:.3f}",
            share(one_["conflict_entries"]),
            share(one_["conflict_mass"]),
        )
    console.print(experts)
    if len(names) > 1:
        cosines = Table("cosine", *names, title="cosine between the experts' changes")
        for name in names:
            cosines.add_row(name, *(f"{found['cosines'][name][other]:.3f}" for other in names))
        console.print(cosines)
    count = len(found["layers"]) if all_layers else 5
    worst = worst_layers(found, count)
    layers = Table(
        title=f"layers farthest from the mean: {len(worst)} of {len(found['layers'])}", min_width=60
    )
    for column in ("layer", layer_measure(found), "relative error", "cosine", "overruled mass"):
        layers.add_column(column, justify="left" if column == "layer" else "right")
    for name, layer in worst:
        layers.add_row(
            name,
            layer_value(layer),
            f"{layer['relative_error']:.4g}",
            f"{layer['cosine']:.4f}",
            share(layer["conflict_mass"]),
        )
    console.print(layers)


def layer_measure(found: Mapping[str, Any]) -> str:
    """What a layer's first number is: its rank, or of rotations how far the experts disagree."""
    return "conflict c" if "conflict" in found["all"] else "rank"


def layer_value(layer: Mapping[str, Any]) -> str:
    """That number."""
    if "rank" in layer:
        return str(layer["rank"])
    return "∞" if layer["conflict"] is None else f"{layer['conflict']:.3g}"


def turned_sentence(found: Mapping[str, Any]) -> str:
    """Of merged rotations what only they have; empty for others."""
    whole = found["all"]
    if "conflict" not in whole:
        return ""
    c = layer_value(whole)
    return (
        f"Conflict c = {c}: the experts turn {c} times as far as their mean. R Rᵀ is within "
        f"{whole['orthogonality']:.1g} of the identity."
    )


def worst_layers(found: Mapping[str, Any], count: int = 5) -> list[tuple[str, dict[str, Any]]]:
    """The layers that the merge moved farthest from the mean, the farthest first."""
    layers = found["layers"].items()
    return sorted(layers, key=lambda pair: (-pair[1]["relative_error"], pair[0]))[:count]


def print_trials(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A table of the merges that were tried, the best first, and uniform weights."""
    names = list(found[0]["weights"])
    table = Table("trial", title=f"weights by score on dev prompts: {len(found)} trials")
    for column in ("dev score", "scale", *names):
        table.add_column(column, justify="right")
    ranked = sorted(found, key=lambda row: (-row["score"], row["trial"]))
    for place, row in enumerate(ranked):
        if place < 10 or row["trial"] == 0:
            cells = [points(row["score"], 2), f"{row['scale']:.3g}"]
            cells += [f"{row['weights'][name]:.3g}" for name in names]
            label = f"{row['trial']} (uniform)" if row["trial"] == 0 else str(row["trial"])
            table.add_row(label, *cells, style="bold" if place == 0 else None)
    console.print(table)


def print_bases(bases: Iterable[Base], console: Console) -> None:
    """The table of base models, and below it where each lies."""
    table = Table(title="base models")
    for column in ("base.model", "predicts", "px", "text width", "encoders", "guidance", "licence"):
        table.add_column(column)
    rows = list(bases)
    for base in rows:
        own = base.architecture
        table.add_row(
            base.name,
            own.prediction,
            str(own.image_px),
            str(own.cross_width),
            str(own.text_encoders),
            f"{base.guidance:g}",
            base.licence or "selma's own",
        )
    console.print(table)
    for base in rows:
        pinned = base.revision or "newest commit: none is known to be pinned"
        where = f"{base.repository} @ {pinned}" if base.repository else "embedded"
        console.print(f"{base.name}: {where}. {base.parts}. {base.note}.", highlight=False)


def print_architecture(own: Architecture, bases: Mapping[str, Base], console: Console) -> None:
    """What a model's configs say, and which rows of the table fit it."""
    for key, value in vars(own).items():
        console.print(f"{key}: {value}", highlight=False)
    same = [name for name, base in bases.items() if base.architecture == own]
    console.print(f"as: {', '.join(same) or 'none of the table'}", highlight=False)


def print_memory(
    needs: Iterable[Need], changes: Sequence[str], limit: int | None, console: Console
) -> None:
    """A table of what each piece of work needs, and below it what to change."""
    table = Table(title="memory of the device, estimated from shapes (GiB)")
    for column in ("work", "pictures at once", "weights", "trained", "activations", "in all"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for need in needs:
        sizes = (need.weights, need.trained, need.fixed + need.each * need.images, need.total)
        table.add_row(need.what, str(need.images), *(f"{size / 2**30:.2f}" for size in sizes))
    console.print(table)
    if limit is not None:
        fits = all(need.total <= limit for need in needs)
        console.print(f"{limit / 2**30:.1f} GiB {'suffice' if fits else 'do not suffice'}.")
    for change in changes:
        console.print(f"  {change}", highlight=False)
