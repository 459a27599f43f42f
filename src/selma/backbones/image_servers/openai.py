"""OpenAI's own protocol and nothing beside it: no seed, no steps, no guidance."""

from __future__ import annotations

from typing import Any

from selma.backbones.image_servers.dialect import Dialect, Wish


def _body(wish: Wish) -> dict[str, Any]:
    if wish.base.base_url is not None:  # somebody's server with nothing beside the protocol
        return wish.plain
    # OpenAI's own models of today send base64 always, and refuse to be told so.
    plain = {name: value for name, value in wish.plain.items() if name != "response_format"}
    return plain | {"output_format": "png"}


OPENAI = Dialect(
    name="openai",
    read="openai-python 3.54 (images.generate)",
    body=_body,
    seeds=None,
)
