"""SGLang-Diffusion: diffusers' names beside the protocol's; an adapter is the whole server's."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from selma.backbones.image_servers.dialect import Dialect, SentAdapter, Wish

SET, UNSET, ACTIVE = "/v1/set_lora", "/v1/unmerge_lora_weights", "/v1/list_loras"
"""Where an adapter is set, taken back and listed."""
_SEEDS = 2**31


def _body(wish: Wish) -> dict[str, Any]:
    # Noise of the CPU is the same whatever the server runs on; the default is a JPEG.
    own = {"output_format": "png", "generator_device": "cpu"}
    return wish.plain | wish.sampling(seeds=_SEEDS) | own


def setting_of(adapter: SentAdapter) -> dict[str, Any]:
    """What is posted to set the adapter."""
    return {
        "lora_nickname": adapter.name,
        "lora_path": adapter.path,
        "target": "all",
        "strength": adapter.strength,
    }


def active(listed: Any) -> Set[str]:
    """The names of the adapters that change the server's images now."""
    return {str(each["nickname"]) for part in listed.get("active", {}).values() for each in part}


def _identity(listed: Any, model: str) -> str | None:
    """It tells no version, but what it runs the model by."""
    card = next((each for each in listed["data"] if each["id"] == model), listed["data"][0])
    names = ("id", "pipeline_class", "dit_precision", "vae_precision")
    return " ".join(str(card[name]) for name in names if card.get(name)) or None


SGLANG = Dialect(
    name="sglang",
    read="sgl-project/sglang 0230ddc2 and 0730031c (multimodal_gen: image_api.py, common_api.py)",
    body=_body,
    seeds=_SEEDS,
    identity=("/v1/models", _identity),
    adapters="server",
    adapter_format="diffusers",
)
