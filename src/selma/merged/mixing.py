"""A trained mixture as the run's merged adapter, its gates measured on the training prompts.

4-merged/mixture.safetensors    experts, gates, and the gates' means
4-merged/diagnostics.json       `diagnostics` of the merge with the gates at their means, and under
                                "gates" what they chose, by skill and layer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from selma.merged.merging import DIAGNOSTICS_FILE
from selma.records.merged import MIXTURE_METHOD, Merged
from selma.workspace import MERGED, Item, Workspace, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from selma.adapters.mixtures.files import MixtureFile

    Shares = Mapping[str, Mapping[str, Tensor]]


def keep_mixture(
    trained: Item,
    folder: Workspace,
    *,
    samples: Mapping[str, int],
    measure: Callable[[MixtureFile], Shares],
) -> Merged:
    """The mixture in `4-merged`, its gates measured. A finished one is kept.

    samples: skill → how many pairs it has, by which means over skills are weighed.  measure: what
    the gates choose, skill → layer → each expert's mean share.
    """
    item = folder.item(MERGED, recipe={"mixture": trained.key})
    if not item.done:
        _measure_and_write(trained, item, samples, measure)
    weights = item.summary["shares"]
    return Merged(folder=item.path, key=item.key, method=MIXTURE_METHOD, weights=weights)


def gate_shares(shares: Shares, means: Mapping[str, Tensor], experts: list[str]) -> dict[str, Any]:
    """What the gates chose, in plain numbers: "skills" (means over layers), "layers" (over skills),
    and "each" layer by skill; every entry is expert → share."""

    def named(values: Tensor) -> dict[str, float]:
        return {name: round(float(v), 6) for name, v in zip(experts, values, strict=True)}

    return {
        "skills": {skill: named(_mean(by_layer)) for skill, by_layer in shares.items()},
        "layers": {layer: named(mean) for layer, mean in means.items()},
        "each": {
            layer: {skill: named(by_layer[layer]) for skill, by_layer in shares.items()}
            for layer in means
        },
    }


def _measure_and_write(
    trained: Item,
    item: Item,
    samples: Mapping[str, int],
    measure: Callable[[MixtureFile], Shares],
) -> None:
    from selma.adapters.files import DIAGNOSTICS_KEY
    from selma.adapters.mixtures.files import FILE, read, save
    from selma.adapters.mixtures.mixing import GATE
    from selma.merged.diagnostics import header

    path, file = item.begin() / FILE, read(trained.path)
    shares = measure(file)
    means = _weighed(shares, samples)
    diagnostics = _diagnostics(file, means)
    gates = {f"{key}.{GATE}": file.give(key).gate for key in file.layers}
    notes = {DIAGNOSTICS_KEY: header(diagnostics)}
    save(path, file.mixture, gates, lineage=file.lineage, means=means, notes=notes)
    diagnostics["gates"] = gate_shares(shares, means, list(file.experts))
    write_json(item.path / DIAGNOSTICS_FILE, diagnostics)
    summary = {name: diagnostics["experts"][name]["weight"] for name in file.experts}
    item.finish(
        [path, item.path / DIAGNOSTICS_FILE],
        {"experts": len(file.experts), "layers": len(file.layers), "shares": summary},
    )


def _weighed(shares: Shares, samples: Mapping[str, int]) -> dict[str, Tensor]:
    """Layer → the mean share of each expert over all skills' pairs, [k]."""
    import torch

    pairs = torch.tensor([samples[skill] for skill in shares], dtype=torch.float64)
    weights = pairs / pairs.sum()
    return {
        layer: weights @ torch.stack([each[layer] for each in shares.values()])
        for layer in next(iter(shares.values()))
    }


def _diagnostics(file: MixtureFile, means: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of the merge with the gates at their means, against the exact mean where they began; an
    expert's weight is its mean share."""
    from selma.merged.diagnostics import Diagnostics

    diagnostics = Diagnostics(dict.fromkeys(file.experts, 1 / len(file.experts)))
    for key in file.layers:
        tensors = file.give(key)
        factors = {
            name: (a, b)
            for name, (a, b) in zip(file.experts, tensors.parts(), strict=True)
            if a.shape[0]
        }
        scaled = tensors.b * means[key].float().repeat_interleave(tensors.ranks)
        diagnostics.add_layer(key, factors, (tensors.a, scaled))
    summary = diagnostics.summary
    for name, share in zip(file.experts, _mean(means).tolist(), strict=True):
        summary["experts"][name]["weight"] = round(share, 6)
    return summary


def _mean(by_layer: Mapping[str, Tensor]) -> Tensor:
    import torch

    return torch.stack(list(by_layer.values())).mean(dim=0)
