"""Experts → one adapter, layer by layer, with its lineage and a judgement of what was done.

No base model is needed. Memory holds one layer of all experts at a time (and for the methods that
work on whole deltas, that layer's deltas); what is finished goes to disk at once, since ranks are
known only when the last layer is done and the file's header comes first.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from selma.backbones.text_to_image import ADAPTER_FILE, ROTATION_FILE
from selma.config.merged import ORDERED, ROTATION_SETTINGS, WEIGHT_ONE, MergedConfig
from selma.errors import ConfigError, IncompatibleExperts
from selma.records.experts import Expert
from selma.records.merged import Merged
from selma.workspace import MERGED, Workspace, file_sha256, without_empty, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from selma.adapters.formats import Adapter
    from selma.adapters.models import Model
    from selma.adapters.reading import AdapterFile, LayerFile
    from selma.adapters.rotations.files import RotationFile
    from selma.merged.lowrank import Factors
    from selma.merged.methods import Choices, Method, Part

    AnyFile = AdapterFile | RotationFile

DIAGNOSTICS_FILE = "diagnostics.json"


def merge_experts(experts: Sequence[Expert], config: MergedConfig, folder: Workspace) -> Merged:
    """All experts as one adapter in `4-merged`: a diffusers LoRA, or rotations where one of them
    is. Their order changes no bit, but of a product of rotations.

    Beside it lies diagnostics.json (`judging`). Raises ConfigError for weights that do not name each
    skill, AdapterError for a damaged file, and IncompatibleExperts.
    """
    of = by_skill(experts)
    weights = merge_weights(list(of), config)
    if config.method in ORDERED:
        of = {expert.skill: expert for expert in experts}
    recipe = merge_recipe({skill: expert.key for skill, expert in of.items()}, weights, config)
    item = folder.item(MERGED, recipe=recipe)
    merged = Merged(folder=item.path, key=item.key, method=config.method, weights=weights)
    if item.done:
        return merged
    from selma.adapters.applying import read_any
    from selma.merged.compatibility import require_compatible
    from selma.merged.table import ALL_METHODS

    files = {skill: read_any(expert.folder) for skill, expert in of.items()}
    require_compatible(files, ALL_METHODS[config.method])
    made = item.begin()
    written, diagnostics = write_merged(files, weights, config, made, made_by=recipe)
    write_json(made / DIAGNOSTICS_FILE, diagnostics)
    layers = diagnostics["layers"].values()
    summary = {"experts": len(files), "layers": len(layers)}
    if all("rank" in layer for layer in layers):
        summary["rank"] = max(layer["rank"] for layer in layers)
    item.finish([*written, made / DIAGNOSTICS_FILE], summary)
    return merged


def read_diagnostics(merged: Merged) -> dict[str, Any]:
    """What the merge did to the experts' weight deltas."""
    diagnostics: dict[str, Any] = json.loads((merged.folder / DIAGNOSTICS_FILE).read_text("utf-8"))
    return diagnostics


def write_merged(
    files: Mapping[str, AnyFile],
    weights: Mapping[str, float],
    config: MergedConfig,
    out: Path,
    *,
    made_by: Mapping[str, Any],
    to: str | None = None,
    model: Model | None = None,
    judge: bool = True,
) -> tuple[list[Path], dict[str, Any]]:
    """The files written and the judgement, which without `judge` may be {}. `out` is the place, or
    where `to` is None a folder in which the file has the name of its kind."""
    from selma.adapters.formats import write
    from selma.adapters.reading import AdapterFile
    from selma.adapters.rotations.foreign import require_layout, write_as

    if config.method in ROTATION_SETTINGS:
        from selma.merged.rotations import combine_rotations

        place = out if to else out / ROTATION_FILE
        require_layout(place, to=to or "selma")  # merging takes long enough
        merged, diagnostics = combine_rotations(files, weights, config, made_by=made_by)
        return write_as(place, merged, to=to or "selma", model=model), diagnostics
    adding = {name: file for name, file in files.items() if isinstance(file, AdapterFile)}
    with tempfile.TemporaryFile(dir=out.parent if to else out) as spool:
        adapter, diagnostics = combine(
            adding, weights, config, made_by=made_by, spool=spool, judge=judge
        )
        place = out if to else out / ADAPTER_FILE
        return write(place, adapter, to=to or "diffusers", model=model), diagnostics


def merge_files(
    places: Sequence[Path],
    config: MergedConfig,
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    to: str | None = None,
    base: str | None = None,
) -> tuple[list[Path], dict[str, Any]]:
    """Adapter files of any origin as one: the files written, and the judgement.

    `weights` go with `places`. `to` is diffusers if None, or selma for rotations. `base` is needed
    only where a format's names want it (`formats`). Neither the order of the files nor their names
    change a byte of the tensors, but of a product of rotations.
    """
    from selma.adapters.applying import read_any
    from selma.adapters.models import read_model, require_fit
    from selma.adapters.names import LAYERS_PER_BLOCK
    from selma.adapters.reading import AdapterFile
    from selma.adapters.rotations.files import require_rotations_fit
    from selma.merged.compatibility import require_compatible
    from selma.merged.table import ALL_METHODS

    if weights is not None and len(weights) != len(places):
        raise ConfigError(f"Each file needs one weight, but {len(places)} files have {weights}.")
    model = None if base is None else read_model(base)
    per_block = model.layers_per_block if model else LAYERS_PER_BLOCK
    read = [read_any(place, layers_per_block=per_block) for place in places]
    for place, file in zip(places, read, strict=True):
        if model and isinstance(file, AdapterFile):
            require_fit(file.layers, model, who=place)
        elif model and not isinstance(file, AdapterFile):
            require_rotations_fit(file, model.shapes, who=place)
    digests = [content_digest(file) for file in read]
    given = weights or [_default_weight(config.method, len(places))] * len(places)
    # Sums of floats depend on their order, which may be neither the call's nor that of names.
    order = list(range(len(read)))
    if config.method not in ORDERED:
        order.sort(key=lambda i: (digests[i], given[i]))
    labels = dict(zip(order, _labels([places[i] for i in order]), strict=True))
    files = {labels[i]: read[i] for i in order}
    by_name = {labels[i]: float(given[i]) for i in order}
    require_compatible(files, ALL_METHODS[config.method], known_base=False)
    recipe = merge_recipe({labels[i]: digests[i] for i in order}, by_name, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    to = to or ("selma" if config.method in ROTATION_SETTINGS else "diffusers")
    return write_merged(files, by_name, config, out, made_by=recipe, to=to, model=model)


def combine(
    files: Mapping[str, AdapterFile],
    weights: Mapping[str, float],
    config: MergedConfig,
    *,
    made_by: Mapping[str, Any],
    spool: IO[bytes],
    judge: bool = True,
) -> tuple[Adapter, dict[str, Any]]:
    """The merged adapter, whose tensors lie in `spool`, and the judgement ({} without `judge`).

    The adapter has scale 1: experts' own scales are in its factors.
    """
    from selma.adapters.files import DIAGNOSTICS_KEY, Lineage
    from selma.adapters.formats import Adapter
    from selma.merged.diagnostics import Judge, header
    from selma.merged.methods import METHODS, Choices

    method = METHODS[config.method]
    choices = Choices(**config.settings)
    looking = Judge(weights)
    layers, spooled = {}, _Spool(spool)
    for key, parts in _layers(files, weights, method, choices):
        a, b = merged_layer(list(parts.values()), config, choices=_at(choices, key))
        if judge:
            looking.look(key, {name: part.factors for name, part in parts.items()}, (a, b))
        some = next(file.layers[key] for file in files.values() if key in file.layers)
        layers[key] = _merged(some, rank=a.shape[0])
        spooled.add(key, a, b)
    base = {file.lineage.base for file in files.values()} - {None}
    diagnostics = looking.found if judge else {}
    lineage = Lineage(base=base.pop() if len(base) == 1 else None, made_by=made_by)
    notes = {DIAGNOSTICS_KEY: header(diagnostics)} if judge else {}
    return Adapter(layers, spooled.give, lineage, notes), diagnostics


def merged_layer(parts: Sequence[Part], config: MergedConfig, *, choices: Choices) -> Factors:
    """One layer's merged factors, after the method's own cut to a rank and the global scale."""
    from torch import Tensor

    from selma.merged.lowrank import factored, singular, truncated
    from selma.merged.methods import METHODS

    found = METHODS[config.method].apply(parts, choices)
    rank, max_error = choices.rank, choices.max_error
    if isinstance(found, Tensor):
        if max_error is None:
            # No product of the experts' factors needs more; a pruned delta may, and is cut.
            rank = min(rank or sum(part.a.shape[0] for part in parts), *found.shape)
        a, b = factored(found, rank=rank, max_error=max_error)
    elif (rank or max_error is not None) and config.method != "svd":
        a, b = truncated(singular(found), rank=rank, max_error=max_error)
    else:
        a, b = found
    return a, b * config.scale


def merge_weights(skills: Sequence[str], config: MergedConfig) -> dict[str, float]:
    """Skill → weight: the settings' own, or the method's default."""
    if config.weights is None:
        return dict.fromkeys(sorted(skills), _default_weight(config.method, len(skills)))
    if set(config.weights) != set(skills):
        raise ConfigError(
            f"merged.weights must name each expert once, {sorted(skills)}, but names "
            f"{sorted(config.weights)}."
        )
    return {skill: config.weights[skill] for skill in sorted(skills)}


def content_digest(file: AnyFile) -> str:
    """16 hex digits of an adapter's bytes, whatever its files are called."""
    from selma.adapters.reading import AdapterFile

    if isinstance(file, AdapterFile):
        paths = sorted({layer.path for layer in file.layers.values()})
    else:
        paths = [file.path]
    joined = "\n".join(file_sha256(path) for path in paths)
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def _default_weight(method: str, experts: int) -> float:
    """1/T, or 1 for the methods that count the experts themselves or add them up."""
    return 1.0 if method in WEIGHT_ONE else 1 / experts


def merge_recipe(
    experts: Mapping[str, str], weights: Mapping[str, float], config: MergedConfig
) -> dict[str, Any]:
    """All that a merge's tensors depend on; `experts` are their keys, in order."""
    return without_empty(
        {
            "experts": dict(experts),
            "method": config.method,
            "weights": dict(weights),
            "settings": config.settings,
            "order": list(experts) if config.method in ORDERED else None,
            "scale": None if config.scale == 1 else config.scale,
        }
    )


def by_skill(experts: Sequence[Expert]) -> dict[str, Expert]:
    """Sorted, because sums of floats depend on their order."""
    of = {expert.skill: expert for expert in sorted(experts, key=lambda expert: expert.skill)}
    if len(of) != len(experts):
        raise IncompatibleExperts("Each skill may have one expert, but one came twice.")
    if not of:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    return of


def _labels(places: Sequence[Path]) -> list[str]:
    """A name for each file: its own, or its folder's where that says more; numbered if equal."""
    usual = {Path(ADAPTER_FILE).stem, Path(ROTATION_FILE).stem, "adapter_model"}
    names = [p.parent.name if p.stem in usual and p.parent.name else p.stem for p in places]
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return labels


def _layers(
    files: Mapping[str, AdapterFile],
    weights: Mapping[str, float],
    method: Method,
    choices: Choices,
) -> Iterator[tuple[str, dict[str, Part]]]:
    """Layer → the experts that change it, in order of layers' names."""
    least = _thresholds(files, weights, method, choices)
    keys = {key for file in files.values() for key in file.layers}
    for key in sorted(keys, key=lambda key: f"{key}."):
        yield key, _parts(files, weights, key, least)


def _parts(
    files: Mapping[str, AdapterFile],
    weights: Mapping[str, float],
    key: str,
    least: Mapping[str, float] | None = None,
) -> dict[str, Part]:
    from selma.merged.methods import Part

    return {
        name: Part(
            *file.factors(key),
            scale=file.layers[key].scale,
            weight=weights[name],
            least=(least or {}).get(name, 0.0),
        )
        for name, file in files.items()
        if key in file.layers
    }


def _thresholds(
    files: Mapping[str, AdapterFile],
    weights: Mapping[str, float],
    method: Method,
    choices: Choices,
) -> dict[str, float]:
    """Expert → the magnitude that its share `density` of entries reaches, over all its layers."""
    from selma.merged.methods import aligned
    from selma.merged.trimming import threshold

    if method.trims is None or choices.density >= 1 or choices.consensus == "mean":
        return {}

    def vector(name: str) -> Iterator[Tensor]:
        for key in files[name].layers:
            if method.trims == "delta":
                yield _parts({name: files[name]}, weights, key)[name].delta
            else:
                parts = _parts(files, weights, key)
                yield aligned(list(parts.values()))[1][list(parts).index(name)]

    return {name: threshold(partial(vector, name), choices.density) for name in files}


def _at(choices: Choices, layer: str) -> Choices:
    return replace(choices, layer=layer)


def _merged(like: LayerFile, *, rank: int) -> LayerFile:
    """The merged layer: of one rank, with scale 1, in float32."""
    import torch

    return replace(like, rank=rank, alpha=float(rank), dtypes=(torch.float32, torch.float32))


class _Spool:
    """Factors on disk until their header can be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.places: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {}

    def add(self, key: str, a: Tensor, b: Tensor) -> None:
        self.places[key] = (self.file.tell(), tuple(a.shape), tuple(b.shape))
        for factor in (a, b):
            self.file.write(factor.detach().float().contiguous().numpy().data)

    def give(self, key: str) -> tuple[Tensor, Tensor]:
        import torch

        place, *shapes = self.places[key]
        self.file.seek(place)
        found = []
        for rows, columns in shapes:
            data = bytearray(self.file.read(4 * rows * columns))
            found.append(torch.frombuffer(data, dtype=torch.float32).reshape(rows, columns))
        return found[0], found[1]
