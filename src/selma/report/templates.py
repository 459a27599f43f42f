"""What the report's pages are made with: templates, what they may call, and what a page may do."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from selma.report import models, tables


def environment(own: str = "selma.report") -> Environment:
    """Where templates find one another, and what they may call: those of the package `own`, then
    the report's."""
    jinja = Environment(
        loader=ChoiceLoader([PackageLoader(own, ""), PackageLoader("selma.report", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("points", "signed", "between", "spread", "clear", "share"):
        jinja.globals[name] = getattr(tables, name)
    jinja.globals["layer_value"] = models.layer_value
    jinja.globals["heat"] = heat
    jinja.globals["largest_change"] = largest_change
    jinja.globals["chose"] = tables.CHOSE
    jinja.globals["compared"] = tables.compared
    jinja.filters["duration"] = duration
    return jinja


def policy(script: str = "") -> str:
    """What a page may load and run: this script alone. A mistake in escaping could do no more."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def heat(value: float, scale: float = 12.0) -> int:
    """How strongly a difference is tinted, 0-70 percent; full from `scale` points on."""
    return round(70 * min(abs(value) / scale, 1))


def largest_change(energies: Mapping[str, Any]) -> float:
    """The largest share by which a layer's energy changed; 0 is a perfect rotation."""
    layers = energies["layers"].values()
    return max(abs(layer["after"] - layer["before"]) / (layer["before"] or 1.0) for layer in layers)


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
