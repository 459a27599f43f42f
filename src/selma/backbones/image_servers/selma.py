"""`selma serve`: every seed that selma has, and a reply that says what was used."""

from __future__ import annotations

from typing import Any

from selma.backbones.image_servers.dialect import Dialect, Wish
from selma.randomness import SEEDS


def _body(wish: Wish) -> dict[str, Any]:
    return wish.plain | wish.sampling(seeds=SEEDS)


def _identity(models: Any, model: str) -> str | None:
    return next((str(m["fingerprint"]) for m in models["data"] if m["id"] == model), None)


SELMA = Dialect(
    name="selma",
    read="this version",
    body=_body,
    seeds=SEEDS,
    identity=("/v1/models", _identity),
)
