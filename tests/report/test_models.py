"""Tables for a terminal: they fit 80 columns, and hold every name and number."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
from rich.console import Console

from selma.backbones.bases import BASES
from selma.backbones.memory import Need
from selma.report.models import print_bases, print_diagnostics, print_memory, print_trials

LONG = [f"a-skill-with-quite-a-long-name-{letter}" for letter in "abcdefghijklm"]
LAYERS = [
    f"unet.down_blocks.{n}.attentions.1.transformer_blocks.10.attn2.to_out.0" for n in range(7)
]


def shown(print_table: Any, *args: Any, **more: Any) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_table(*args, console, **more)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    return text


def unfolded(text: str, column: int) -> str:
    """A column's cells, whole again."""
    rows = [re.split("[│┃]", line) for line in text.splitlines() if line[:1] in ("│", "┃")]
    return "".join(row[column].strip() for row in rows)


def diagnostics(names: list[str], *, rotations: bool) -> dict[str, Any]:
    conflicts = {"conflict_entries": 0.123, "conflict_mass": 0.9876}
    whole = {"relative_error": 0.12345, "cosine": 0.98765, "norm": 123.4, "norm_ratio": 0.5}
    more = {"conflict": 2.345, "orthogonality": 1e-7} if rotations else {}
    numbers = itertools.count()
    layer = {**whole, **conflicts, **(more if rotations else {"rank": 1280})}
    return {
        "all": whole | conflicts | more,
        "experts": {
            name: {"weight": 2.625, "norm": 1234567.8, "cosine_to_merged": -0.987, **conflicts}
            for name in names
        },
        "cosines": {a: {b: -(1 + next(numbers)) / 1000 for b in names} for a in names},
        "layers": dict.fromkeys(LAYERS, layer),
    }


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_diagnostics_fit(count: int, rotations: bool) -> None:
    names = LONG[:count]
    text = shown(print_diagnostics, diagnostics(names, rotations=rotations), all_layers=True)
    assert all(name in unfolded(text, 2) for name in names)
    assert all(name in unfolded(text, 1) for name in LAYERS)
    assert text.count("1.235e+06") == count and text.count("98.8 %") == count + len(LAYERS)
    assert text.count("2.625") == count
    assert text.count("0.1235") == 1 + len(LAYERS)
    assert text.count("2.35" if rotations else "1280") >= len(LAYERS)
    if count > 1:
        assert all(f"-{n / 1000:.3f}" in text for n in range(1, 1 + count**2))


@pytest.mark.parametrize("count", [2, 5, 13])
def test_trials_fit(count: int) -> None:
    weights = {name: 0.12345 + n / 100 for n, name in enumerate(LONG[:count])}
    trials = [
        {"trial": n, "score": 50 + n / 100, "scale": 0.123456, "weights": weights}
        for n in range(40)
    ]
    text = shown(print_trials, trials)
    assert "50.39" in text and "0 (uniform)" in text
    assert all(f"{weight:.3g}" in text for weight in weights.values())
    assert all(name in text.replace("\n", "") for name in weights)


def test_bases_fit() -> None:
    text = shown(print_bases, BASES.values())
    licences = {base.licence for base in BASES.values() if base.licence}
    for word in (*BASES, *(word for licence in licences for word in licence.split())):
        assert word in text
    assert all(f"{base.guidance:g}" in text for base in BASES.values())


def test_memory_fits() -> None:
    gib = 2**30
    needs = [
        Need(what=f"{name}: training at full size", images=128, weights=123 * gib,
             trained=1234 * gib, fixed=0, each=12 * gib)
        for name in LONG[:3]
    ]  # fmt: skip
    text = shown(print_memory, needs, ["one change"], 24 * gib)
    assert text.count("1234.00") == text.count("1536.00") == len(needs)
    assert all(name in unfolded(text, 1) for name in LONG[:3])


def test_long_names_of_layers_are_folded_at_dots() -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    made = diagnostics(["a", "b"], rotations=False)
    made["layers"] = {name: next(iter(made["layers"].values()))}
    lines = shown(print_diagnostics, made, all_layers=True).splitlines()
    assert any("unet.down_blocks.0.attentions.0. " in line for line in lines)
    assert any(" transformer_blocks.0.attn1.to_out.0 " in line for line in lines)
