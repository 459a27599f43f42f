"""Five files of each family, each in another layout, merged: against dense deltas in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from adapters.family_shapes import TINY, adapter, factors, layers
from torch import Tensor

from selma.adapters.formats import write
from selma.adapters.layers import known_models
from selma.adapters.reading import read_adapter
from selma.config.merged import MergedConfig
from selma.merged.merging import merge_files
from selma.merged.methods import METHODS
from selma.merged.resizing import resize

WEIGHTS = [0.3, 0.25, 0.2, 0.15, 0.1]
LAYOUTS = ("diffusers", "peft", "kohya", "comfyui", "onetrainer")
UNETS = {model.model: model.shapes for model in next(known_models())}
BLOCKS = {
    "SD 1": "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn",
    "SD 2": "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn",
    "SDXL": "unet.down_blocks.1.attentions.1.transformer_blocks.1.attn",
}
SHAPES = {
    **{
        name: {k: s for k, s in UNETS[name].items() if start in k} for name, start in BLOCKS.items()
    },
    "SDXL": {  # a layer of each shape, and one more: they are as large as the released model's
        BLOCKS["SDXL"] + layer: UNETS["SDXL"][BLOCKS["SDXL"] + layer]
        for layer in ("1.to_q", "1.to_out.0", "2.to_k")
    },
    **{family: dict(layers(family, tiny=True).shapes) for family in TINY},
}
Delta = dict[str, Tensor]


def five(folder: Path, family: str, *, ranks: tuple[int, ...]) -> tuple[list[Path], list[Delta]]:
    """The files, and each one's deltas from what it was made of."""
    paths, deltas = [], []
    for seed, to in enumerate(LAYOUTS):
        own = adapter(SHAPES[family], ranks=ranks, scales=(1.0, 0.5), seed=seed, shared=seed == 2)
        if to in ("kohya", "comfyui"):  # where parts are joined, one scale keeps every bit
            own = adapter(SHAPES[family], ranks=ranks, scales=(0.5,), seed=seed, shared=seed == 2)
        paths.append(folder / str(seed) / ("peft" if to == "peft" else "a.safetensors"))
        write(paths[-1], own, to=to)
        deltas.append({key: b @ a for key, (a, b) in factors(own).items()})
    return paths, deltas


def mean(deltas: list[Tensor], weights: list[float]) -> Tensor:
    return sum((w * d for w, d in zip(weights, deltas, strict=True)), torch.zeros(()))


def trimmed(deltas: list[Delta], share: float) -> list[Delta]:
    """Each task vector's largest entries."""
    kept = []
    for each in deltas:
        values = torch.cat([delta.flatten() for delta in each.values()]).abs()
        least = values.topk(int(share * len(values))).values[-1]
        kept.append({key: d * (d.abs() >= least) for key, d in each.items()})
    return kept


def ties(deltas: list[Tensor], weights: list[float]) -> Tensor:
    weighted = [w * d for w, d in zip(weights, deltas, strict=True)]
    sign = torch.where(sum(weighted) >= 0, 1.0, -1.0)
    agree = [(d.sign() == sign).double() for d in weighted]
    total = sum(d * mask for d, mask in zip(weighted, agree, strict=True))
    return total / sum(w * m for w, m in zip(weights, agree, strict=True)).clamp(min=1e-12)


def each(rule: Callable[..., Tensor], deltas: list[Delta]) -> Delta:
    return {key: rule([file[key] for file in deltas], WEIGHTS) for key in deltas[0]}


EXPECTED: dict[str, tuple[dict[str, Any], Callable[[list[Delta]], Delta]]] = {
    "mean_of_deltas": ({}, lambda deltas: each(mean, deltas)),
    "sum_of_deltas": ({}, lambda deltas: each(mean, deltas)),
    "svd": ({"rank": 64}, lambda deltas: each(mean, deltas)),
    "ties": ({"rank": 4096}, lambda deltas: each(ties, trimmed(deltas, 0.2))),
    "magnitude_prune": ({"rank": 4096}, lambda deltas: each(mean, trimmed(deltas, 0.5))),
}


@pytest.mark.parametrize("method", EXPECTED)
@pytest.mark.parametrize("family", SHAPES)
def test_five_files_are_merged_as_dense_deltas_are(
    tmp_path: Path, family: str, method: str
) -> None:
    paths, deltas = five(tmp_path, family, ranks=(2, 3))
    more, rule = EXPECTED[method]
    out = tmp_path / "m.safetensors"
    merge_files(paths, MergedConfig(method=method, **more), out, weights=WEIGHTS)
    merged, expected = factors(read_adapter(out)), rule(deltas)
    assert merged.keys() == expected.keys() == SHAPES[family].keys()
    for key, delta in expected.items():
        a, b = merged[key]
        wrong = (b @ a - delta).abs() / delta.norm()
        if "density" in METHODS[method].settings.model_fields:
            # On which side of the border an entry falls, and near-ties of signs, rounding decides.
            wrong = wrong.flatten().sort(descending=True).values[4:]
        assert float(wrong.norm()) < 2e-6, key


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if not row.rotates])
@pytest.mark.parametrize("family", SHAPES)
def test_every_method_is_verified_on_every_family(tmp_path: Path, family: str, method: str) -> None:
    """The result goes to the original model's names, whose parts are joined, and is read back."""
    paths, deltas = five(tmp_path, family, ranks=(3,))
    more = {"rank": 4096} if "rank" in METHODS[method].settings.model_fields else {}
    out = tmp_path / "m.safetensors"
    config = MergedConfig(method=method, **more)
    _, told = merge_files(paths, config, out, weights=WEIGHTS, to="comfyui", verify=True)
    rows = told["verified"]
    assert rows.keys() == deltas[0].keys()
    for key, row in rows.items():
        assert row["relative_error"] < 3e-6, key
        norms = sorted(float(file[key].norm()) for file in deltas)
        assert sorted(row["before"].values()) == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("to", ["diffusers", "comfyui"])
@pytest.mark.parametrize("family", SHAPES)
def test_every_family_is_resized(tmp_path: Path, family: str, to: str) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "s.safetensors"
    own = adapter(SHAPES[family], ranks=(6,), shared=True)
    write(source, own, to=to)
    _, told = resize(source, out, rank=3)
    file, before = read_adapter(out), read_adapter(source)
    assert file.format == to
    small, large = factors(file), factors(own)
    together: dict[str, list[str]] = {}
    for key, layer in before.layers.items():  # what the file joins is cut as one
        together.setdefault(layer.b, []).append(key)
    for keys in together.values():
        whole = torch.cat([b @ a for a, b in (large[key] for key in keys)])
        after = torch.cat([b @ a for a, b in (small[key] for key in keys)])
        values = torch.linalg.svdvals(whole)
        best = float(values[3:].norm() / values.norm())
        assert float((after - whole).norm() / values.norm()) == pytest.approx(best, abs=1e-6)
    for key, row in told["layers"].items():
        (a, b), (c, d) = small[key], large[key]
        wrong = float((b @ a - d @ c).norm() / (d @ c).norm())
        assert row["relative_error"] == pytest.approx(wrong, abs=1e-6)
    with safetensors.safe_open(out, framework="pt") as tensors:
        ranks = {tensors.get_slice(n).get_shape()[0] for n in tensors.keys() if "lora_A" in n}  # noqa: SIM118
    assert ranks == {3}
