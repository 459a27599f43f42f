"""The families of base models: everything in which they differ is a row, and a file, here.

A model's family is told by its pipeline's class in model_index.json and by nothing else. Another
package adds a family by an entry point of the group "selma.families". No model library is imported
until a row's functions are called.
"""

from __future__ import annotations

from selma.backbones.families import (
    chroma,
    flux,
    flux_2,
    lumina_2,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image,
)
from selma.backbones.families.family import Family
from selma.errors import ModelError
from selma.registry import Table

FAMILIES: Table[Family] = Table(
    "base family",
    "selma.families",
    [
        stable_diffusion.FAMILY,
        stable_diffusion_xl.FAMILY,
        stable_diffusion_3.FAMILY,
        flux_2.FAMILY,
        z_image.FAMILY,
        qwen_image.FAMILY,
        flux.FAMILY,
        sana.FAMILY,
        lumina_2.FAMILY,
        chroma.FAMILY,
    ],
)


def denoiser_components() -> tuple[str, ...]:
    """What the denoiser is called in the pipelines of any family, each once."""
    return tuple(dict.fromkeys(family.component for family in FAMILIES.values()))


def family_of(pipeline_class: str | None, *, model: str) -> Family:
    """The family whose pipeline has this class. Raises ModelError if there is none."""
    for family in FAMILIES.values():
        if family.pipeline_class == pipeline_class:
            return family
    known = ", ".join(family.pipeline_class for family in FAMILIES.values())
    raise ModelError(f"{model} must be one of {known}, but is {pipeline_class!r:.80}.")
