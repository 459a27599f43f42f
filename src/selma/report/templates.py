"""The templates' environment: their functions and filters, and a page's content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from selma.plurals import word
from selma.report import models, tables


@cache
def environment(own: str = "selma.report") -> Environment:
    """The jinja environment with the templates of the package `own`, then the report's. Kept, with
    the templates that it has compiled."""
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
    jinja.globals["word"] = word
    jinja.globals["chose"] = tables.CHOSE
    jinja.globals["compared"] = tables.compared
    jinja.filters["duration"] = duration
    return jinja


def policy(script: str = "") -> str:
    """A content security policy that allows this script alone, in case escaping has a mistake."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def heat(value: float, scale: float = 12.0) -> int:
    """Strength of a difference's tint, 0-70 percent; the full one from `scale` points on."""
    return round(70 * min(abs(value) / scale, 1))


def largest_change(energies: Mapping[str, Any]) -> float:
    """The largest share by which a layer's energy changed; 0 is a perfect rotation."""
    layers = energies["layers"].values()
    return max(abs(layer["after"] - layer["before"]) / (layer["before"] or 1.0) for layer in layers)


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "3 min" or "1 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
