"""Experts → one adapter file, layer by layer, with its lineage in the header."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config import MergedConfig
from selma.errors import ConfigError, IncompatibleExperts
from selma.records import Expert, Merged
from selma.workspace import MERGED, Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from selma.adapters.files import AdapterFile, Tensors
    from selma.merged.methods import Factors, Method


def merge_experts(experts: Sequence[Expert], config: MergedConfig, folder: Workspace) -> Merged:
    """All experts as one diffusers LoRA in `4-merged`; their order changes no bit.

    Raises ConfigError for weights that do not name each skill, AdapterError for a damaged file, and
    IncompatibleExperts.
    """
    of = _by_skill(experts)
    weights = merge_weights(list(of), config)
    recipe = {
        "experts": {skill: expert.key for skill, expert in of.items()},
        "method": config.method,
        "weights": weights,
    }
    item = folder.item(MERGED, recipe=recipe)
    merged = Merged(folder=item.path, key=item.key, method=config.method, weights=weights)
    if item.done:
        return merged
    from selma.adapters.files import Lineage, read_adapter, write_adapter
    from selma.merged.compatibility import require_compatible
    from selma.merged.methods import METHODS

    files = {skill: read_adapter(expert.folder) for skill, expert in of.items()}
    method = METHODS[config.method]
    require_compatible(files, method)
    path = item.begin() / ADAPTER_FILE
    rank = method.rank([file.rank for file in files.values()])
    some = next(iter(files.values()))
    write_adapter(
        path,
        _merged_tensors(files, weights, method, rank=rank),
        rank=rank,
        alpha=rank,  # scale 1: each expert's own scale is already in its B
        targets=tuple(sorted({target for file in files.values() for target in file.targets})),
        lineage=Lineage(base=some.lineage.base, made_by=recipe),
    )
    item.finish([path], {"experts": len(files), "layers": len(some.shapes), "rank": rank})
    return merged


def merge_weights(skills: Sequence[str], config: MergedConfig) -> dict[str, float]:
    """Skill → weight: the settings' own, or 1/T for each of T experts."""
    if config.weights is None:
        return {skill: 1 / len(skills) for skill in sorted(skills)}
    if set(config.weights) != set(skills):
        raise ConfigError(
            f"merged.weights must name each expert once, {sorted(skills)}, but names "
            f"{sorted(config.weights)}."
        )
    return {skill: config.weights[skill] for skill in sorted(skills)}


def _by_skill(experts: Sequence[Expert]) -> dict[str, Expert]:
    """Sorted, because sums of floats depend on their order."""
    of = {expert.skill: expert for expert in sorted(experts, key=lambda expert: expert.skill)}
    if len(of) != len(experts):
        raise IncompatibleExperts("Each skill may have one expert, but one came twice.")
    if not of:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    return of


def _merged_tensors(
    files: Mapping[str, AdapterFile], weights: Mapping[str, float], method: Method, *, rank: int
) -> Tensors:
    """Each tensor of the merged file, computed when it is asked for: one layer at a time."""

    @lru_cache(maxsize=2)  # A and B of one layer are asked for one after the other
    def factors(module: str) -> Factors:
        scaled = []
        for file in files.values():
            a, b = file.factors(module)
            scaled.append((a, b * file.scale))
        return method.function(scaled, list(weights.values()))

    def giving(module: str, which: int) -> Callable[[], Tensor]:
        return lambda: factors(module)[which]

    tensors: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    for module, (wide, narrow) in next(iter(files.values())).shapes.items():
        tensors[f"{module}.lora_A.weight"] = ((rank, narrow), giving(module, 0))
        tensors[f"{module}.lora_B.weight"] = ((wide, rank), giving(module, 1))
    return tensors
