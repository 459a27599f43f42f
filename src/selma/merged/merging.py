"""Experts → one adapter, layer by layer, with its lineage and diagnostics of what was done.

No base model is needed. There is one path for all methods; what is done to a layer is said by the
method's row (`methods`), and how a layer is read, merged and written by the kind of thing that the
method accepts (`deltas`, `rotations`).
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selma.backbones.text_to_image import ADAPTER_FILE, ROTATION_FILE
from selma.config.merged import MergedConfig
from selma.disk import make_folder
from selma.errors import ConfigError, IncompatibleExperts
from selma.merged.planning import Plan, method_of, planned
from selma.merged.settings import Trimmed
from selma.paths import AnyPath, as_path, as_paths
from selma.plurals import counted
from selma.record_files import read_record
from selma.records.experts import Expert
from selma.records.merged import Merged
from selma.records.rows import DiagnosticsFile
from selma.workspace import MERGED, Workspace, file_sha256, promote, without_empty, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from selma.adapters.files import Lineage
    from selma.adapters.models import Model
    from selma.adapters.reading import AdapterFile
    from selma.adapters.rotations.files import RotationFile
    from selma.merged.deltas import DeltaMerge
    from selma.merged.diagnostics import Diagnostics
    from selma.merged.rotations import RotationMerge

    AnyFile = AdapterFile | RotationFile

DIAGNOSTICS_FILE = "diagnostics.json"


class Merge(Protocol):
    """One merge under way: what the driver asks of each kind of thing that is merged."""

    @property
    def diagnostics(self) -> Diagnostics | None:
        """Of the layers that are merged; None if nobody asked."""

    @property
    def experts(self) -> Sequence[str]:
        """Those whose entries are trimmed, by name."""

    @property
    def layers(self) -> Sequence[str]:
        """Those that any expert changes, in order."""

    def entries(self, name: str) -> Iterator[Tensor]:
        """One expert's task vector, layer by layer, float32."""

    def add(self, key: str, least: Mapping[str, float]) -> None:
        """Merge one layer. least: expert → the magnitude that its entries must reach."""

    def before(self, key: str) -> dict[str, float]:
        """Expert → the norm of its change of the layer."""

    def expected(self, key: str, least: Mapping[str, float]) -> Any:
        """The merged layer's change in float64 (`verifying.Change`)."""

    def written(self, file: Any, key: str) -> Any:
        """The layer's change in the merged file, float64."""

    def write(
        self,
        path: Path,
        *,
        layout: str,
        lineage: Lineage,
        notes: Mapping[str, str],
        model: Model | None,
    ) -> list[Path]:
        """Write the merged layers; the paths written."""


def merge_experts(experts: Sequence[Expert], config: MergedConfig, folder: Workspace) -> Merged:
    """All experts as one adapter in `4-merged`: a diffusers LoRA, or rotations where one of them
    is. Their order changes no bit, unless the method is ordered.

    Beside it lies diagnostics.json (`diagnostics`). Raises ConfigError for settings that the method
    has not and weights that do not name each skill, AdapterError for a damaged file, and
    IncompatibleExperts.
    """
    by_name = by_skill(experts, config)
    weights = merge_weights(list(by_name), config)
    plan = planned(config, weights)
    recipe = merge_recipe({skill: expert.key for skill, expert in by_name.items()}, plan)
    item = folder.item(MERGED, recipe=recipe)
    merged = Merged(folder=item.path, key=item.key, method=config.method, weights=weights)
    if item.done:
        return merged
    files = read_experts(by_name, plan)
    item_folder = item.begin()
    written, diagnostics = write_merged(files, plan, merged_file(plan, item_folder), made_by=recipe)
    write_json(item_folder / DIAGNOSTICS_FILE, diagnostics)
    layers = diagnostics["layers"].values()
    summary = {"experts": len(files), "layers": len(layers)}
    if all("rank" in layer for layer in layers):
        summary["rank"] = max(layer["rank"] for layer in layers)
    item.finish([*written, item_folder / DIAGNOSTICS_FILE], summary)
    return merged


def read_diagnostics(merged: Merged) -> dict[str, Any]:
    """What the merge did to the experts' weight deltas."""
    diagnostics: Any = read_record(merged.folder / DIAGNOSTICS_FILE, DiagnosticsFile)
    return dict(diagnostics)


def merged_file(plan: Plan, folder: Path) -> Path:
    """Where a merge's tensors lie in its folder."""
    return folder / _kind(plan).file_name


def merge_files(
    paths: AnyPath | Sequence[AnyPath],
    config: MergedConfig,
    out: AnyPath,
    *,
    weights: Sequence[float] | None = None,
    to: str | None = None,
    base: AnyPath | None = None,
    verify: bool = False,
) -> tuple[list[Path], dict[str, Any]]:
    """Adapter files of any origin as one: the files written, and the diagnostics.

    With `verify` what was written is held against the merge in float64 before it is at `out`; the
    diagnostics have it as "verified" (`verifying`). `weights` go with `paths`. `to` is diffusers if
    None, or selma for rotations. `base` is needed only where a format's names want it (`formats`).
    Neither the order of the files nor their names change a byte of the tensors, unless the method
    is ordered.
    """
    from selma.adapters.models import read_model
    from selma.adapters.reading import AdapterFile, announce_left_out
    from selma.adapters.table import read_mergeable
    from selma.merged.compatibility import require_compatible

    paths, out = as_paths(paths), as_path(out)
    method, _ = method_of(config)
    _require_weights(weights, len(paths))
    model = None if base is None else read_model(base)
    layers = None if model is None else model.layers
    read: list[AnyFile] = [read_mergeable(path, base=layers) for path in paths]
    for file in read:
        if isinstance(file, AdapterFile):
            announce_left_out(file)
    digests = [content_digest(file) for file in read]
    given = weights or [method.default_weight(len(paths))] * len(paths)
    # Sums of floats depend on their order, which may be neither the call's nor that of names.
    order = list(range(len(read)))
    if not method.ordered:
        order.sort(key=lambda i: (digests[i], given[i]))
    labels = dict(zip(order, _labels([paths[i] for i in order]), strict=True))
    files = {labels[i]: read[i] for i in order}
    plan = planned(config, {labels[i]: float(given[i]) for i in order})
    require_compatible(files, plan.method, known_base=False)
    recipe = merge_recipe({labels[i]: digests[i] for i in order}, plan)
    if verify:
        written, diagnostics = _write_verified(files, plan, out, recipe=recipe, to=to, model=model)
    else:
        written, diagnostics = write_merged(files, plan, out, made_by=recipe, to=to, model=model)
    # Readers look for their files in their own order.
    for figures in ("experts", "cosines"):
        diagnostics[figures] = {
            labels[i]: diagnostics[figures][labels[i]] for i in range(len(read))
        }
    return written, diagnostics


def _write_verified(
    files: Mapping[str, AnyFile],
    plan: Plan,
    out: Path,
    *,
    recipe: Mapping[str, Any],
    to: str | None,
    model: Model | None,
) -> tuple[list[Path], dict[str, Any]]:
    """As `write_merged`; nothing is at `out` unless it holds."""
    make_folder(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as aside:
        written, diagnostics = write_merged(
            files, plan, Path(aside) / out.name, made_by=recipe, to=to, model=model, verify=True
        )
        places = [out.parent / path.relative_to(aside) for path in written]
        for path, target in zip(written, places, strict=True):
            make_folder(target.parent)
            promote(path, target)
    return places, diagnostics


def _require_weights(weights: Any, count: int) -> None:
    """Raise ConfigError unless each of so many files has one finite number."""
    if weights is None:
        return
    several = isinstance(weights, Sequence) and not isinstance(weights, str)
    if not several or not all(isinstance(weight, int | float) for weight in weights):
        raise ConfigError(f"weights must be a list of numbers, but {weights!r} came.")
    if len(weights) != count:
        raise ConfigError(
            f"Each file needs one weight, but {counted(count, 'file has', 'files have')} {weights}."
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(f"weights must be finite, but {weights!r} came.")


def write_merged(
    files: Mapping[str, AnyFile],
    plan: Plan,
    path: Path,
    *,
    made_by: Mapping[str, Any],
    to: str | None = None,
    model: Model | None = None,
    diagnose: bool = True,
    verify: bool = False,
) -> tuple[list[Path], dict[str, Any]]:
    """The files written and the diagnostics, {} unless `diagnose`; with "verified" if `verify`.

    to: the layout at `path`; None is the usual one of what is merged. Raises MergeWithoutEffect if
    what was verified leaves a layer alone that an expert changes.
    """
    from selma.adapters.files import DIAGNOSTICS_KEY, Lineage
    from selma.merged.diagnostics import header

    kind = _kind(plan)
    layout = to or kind.layout
    bases = {file.lineage.base for file in files.values()} - {None}
    lineage = Lineage(base=bases.pop() if len(bases) == 1 else None, made_by=made_by)
    kind.require_layout(path, layout, files=files, lineage=lineage, model=model)
    make_folder(path.parent)
    with closing(kind(files, plan, folder=path.parent, diagnose=diagnose)) as merge:
        least = combine(merge, plan)
        diagnostics = merge.diagnostics.summary if merge.diagnostics is not None else {}
        notes = {DIAGNOSTICS_KEY: header(diagnostics)} if diagnose else {}
        written = merge.write(path, layout=layout, lineage=lineage, notes=notes, model=model)
        if verify:
            from selma.merged.verifying import verified

            layers = None if model is None else model.layers
            diagnostics["verified"] = verified(merge, path, least, base=layers)
    return written, diagnostics


def combine(merge: Merge, plan: Plan) -> dict[str, float]:
    """Merge layer by layer; where the method trims, after a look at each whole task vector. Expert
    → the magnitude that its entries had to reach, of a method that trims."""
    from selma.merged.trimming import threshold

    least: dict[str, float] = {}
    if isinstance(plan.settings, Trimmed) and plan.settings.share_kept < 1:
        share = plan.settings.share_kept
        least = {name: threshold(partial(merge.entries, name), share) for name in merge.experts}
    for key in merge.layers:
        merge.add(key, least)
    return least


def merge_weights(skills: Sequence[str], config: MergedConfig) -> dict[str, float]:
    """Skill → weight: the settings' own, or the method's default."""
    if config.weights is None:
        method, _ = method_of(config)
        return dict.fromkeys(sorted(skills), method.default_weight(len(skills)))
    if set(config.weights) != set(skills):
        raise ConfigError(
            f"merged.weights must name each expert once, {sorted(skills)}, but names "
            f"{sorted(config.weights)}."
        )
    return {skill: config.weights[skill] for skill in sorted(skills)}


def merge_recipe(experts: Mapping[str, str], plan: Plan) -> dict[str, Any]:
    """All that a merge's tensors depend on; `experts` are their keys, in order."""
    return without_empty(
        {
            "experts": dict(experts),
            "method": plan.method.name,
            "weights": dict(plan.weights),
            "settings": plan.settings.model_dump(mode="json"),
            "order": list(experts) if plan.method.ordered else None,
            "scale": None if plan.scale == 1 else plan.scale,
        }
    )


def read_experts(by_name: Mapping[str, Expert], plan: Plan) -> dict[str, AnyFile]:
    """Skill → its adapter, all of which the method can merge. Raises IncompatibleExperts."""
    from selma.adapters.table import read_mergeable
    from selma.merged.compatibility import require_compatible

    files = {skill: read_mergeable(expert.folder) for skill, expert in by_name.items()}
    require_compatible(files, plan.method)
    return files


def content_digest(file: AnyFile) -> str:
    """16 hex digits of an adapter's bytes, whatever its files are called."""
    from selma.adapters.reading import AdapterFile

    if isinstance(file, AdapterFile):
        paths = sorted({layer.path for layer in file.layers.values()})
    else:
        paths = [file.path]
    joined = "\n".join(file_sha256(path) for path in paths)
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def by_skill(experts: Sequence[Expert], config: MergedConfig) -> dict[str, Expert]:
    """Skill → expert, as they are handed in where the method is ordered; else sorted, because sums
    of floats depend on their order."""
    method, _ = method_of(config)
    in_order = experts if method.ordered else sorted(experts, key=lambda expert: expert.skill)
    by_name = {expert.skill: expert for expert in in_order}
    if len(by_name) != len(experts):
        raise IncompatibleExperts("Each skill may have one expert, but one came twice.")
    if not by_name:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    return by_name


def _kind(plan: Plan) -> type[DeltaMerge] | type[RotationMerge]:
    if plan.method.rotates:
        from selma.merged.rotations import RotationMerge

        return RotationMerge
    from selma.merged.deltas import DeltaMerge

    return DeltaMerge


def _labels(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own, or its folder's where that says more; numbered if equal."""
    usual = {Path(ADAPTER_FILE).stem, Path(ROTATION_FILE).stem, "adapter_model"}
    names = [p.parent.name if p.stem in usual and p.parent.name else p.stem for p in paths]
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return labels
