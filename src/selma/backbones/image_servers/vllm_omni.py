"""vLLM-Omni: diffusers' names beside the protocol's, and one LoRA with each request."""

from __future__ import annotations

from typing import Any

from selma.backbones.image_servers.dialect import Dialect, Wish

_SEEDS = 2**63  # what the generators of torch take on every device


def _body(wish: Wish) -> dict[str, Any]:
    # Noise of the CPU is the same whatever the server runs on.
    own: dict[str, Any] = {"output_format": "png", "generator_device": "cpu"}
    if (adapter := wish.adapter) is not None:
        own["lora"] = {"name": adapter.name, "path": adapter.path, "scale": adapter.strength}
    return wish.plain | wish.sampling(seeds=_SEEDS) | own


VLLM_OMNI = Dialect(
    name="vllm-omni",
    read="vllm-project/vllm-omni 00a3619b (protocol/images.py, image_generation_api.md)",
    body=_body,
    seeds=_SEEDS,
    identity=("/version", lambda version, model: version.get("version")),
    adapters="request",
)
