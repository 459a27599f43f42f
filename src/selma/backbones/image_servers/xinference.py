"""Xinference: what goes to diffusers is JSON within the JSON; adapters are loaded at launch."""

from __future__ import annotations

import json
from typing import Any

from selma.backbones.image_servers.dialect import Dialect, Wish

_SEEDS = 2**31


def _body(wish: Wish) -> dict[str, Any]:
    px = wish.base.image_px
    kwargs = json.dumps(wish.sampling(seeds=_SEEDS))
    return wish.plain | {"size": f"{px}*{px}", "kwargs": kwargs}


def _identity(version: Any, model: str) -> str | None:
    names = ("version", "full-revisionid")
    return " ".join(str(version[name]) for name in names if version.get(name)) or None


XINFERENCE = Dialect(
    name="xinference",
    read="xorbitsai/inference 3.2.1 (7ecec16b: schemas/requests.py, stable_diffusion/core.py)",
    body=_body,
    seeds=_SEEDS,
    identity=("/v1/cluster/version", _identity),
)
