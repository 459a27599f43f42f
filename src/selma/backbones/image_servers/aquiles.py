"""Aquiles-Image: seed, steps and guidance are those it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.backbones.image_servers.dialect import Dialect, Wish

_STEPS, _GUIDANCE = 30, 4  # what it takes where its settings say nothing


def _body(wish: Wish) -> dict[str, Any]:
    return wish.plain | {"output_format": "png"}


def _identity(settings: Any, model: str) -> str | None:
    versions = {name: settings["versions"].get(name) for name in ("aquiles_image", "diffusers")}
    return " ".join(f"{name} {version}" for name, version in versions.items() if version) or None


def _settled(settings: Any) -> Mapping[str, Any]:
    steps, guidance = settings.get("steps"), settings.get("guidance_scale")
    return {
        "num_inference_steps": steps or _STEPS,
        "guidance_scale": _GUIDANCE if guidance is None else guidance,
    }


AQUILES = Dialect(
    name="aquiles",
    read="Aquiles-ai/Aquiles-Image 0.7.7 (5c9d1444: main.py, models.py)",
    body=_body,
    seeds=None,
    identity=("/v1/configs", _identity),
    settled=("/v1/configs", _settled),
    sizes=(256, 512, 1024, 2048),
)
