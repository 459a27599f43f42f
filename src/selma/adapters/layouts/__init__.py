"""The families of transformers whose layers files call by other names than diffusers; one row each.

A family without a row is read and written by diffusers' names alone.
"""

from __future__ import annotations

from selma.adapters.layouts import (
    chroma,
    flux,
    flux_2,
    lumina_2,
    qwen_image,
    sana,
    stable_diffusion_3,
    z_image,
)
from selma.adapters.layouts.layout import Layout

LAYOUTS: tuple[Layout, ...] = (
    stable_diffusion_3.LAYOUT,
    flux_2.LAYOUT,
    z_image.LAYOUT,
    qwen_image.LAYOUT,
    flux.LAYOUT,
    sana.LAYOUT,
    lumina_2.LAYOUT,
    chroma.LAYOUT,
)


def layout_of(transformer: str) -> Layout | None:
    """The row of diffusers' class ("diffusers:SD3Transformer2DModel", or its name alone)."""
    name = transformer.rpartition(":")[2]
    return next((row for row in LAYOUTS if row.transformer == name), None)
