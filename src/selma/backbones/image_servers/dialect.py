"""What differs between the programs that serve images by OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selma.config.networks import ServedBase


@dataclass(frozen=True)
class SentAdapter:
    """An adapter that lies where a server can read it."""

    name: str
    path: str
    strength: float


@dataclass(frozen=True)
class Wish:
    """One image that is asked for."""

    base: ServedBase
    text: str
    seed: int
    """Below 2^64."""
    steps: int
    guidance: float
    adapter: SentAdapter | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """What OpenAI's protocol itself has, for one image as base64."""
        return {
            "model": self.base.model,
            "prompt": self.text,
            "n": 1,
            "size": f"{self.base.image_px}x{self.base.image_px}",
            "response_format": "b64_json",
        }

    def sampling(self, *, seeds: int) -> dict[str, Any]:
        """Seed, steps, guidance and negative prompt by diffusers' names, as far as they are set."""
        base = self.base
        asked: dict[str, Any] = {"seed": self.seed % seeds, "num_inference_steps": self.steps}
        if base.guidance_as is not None:
            asked[base.guidance_as] = self.guidance
        if base.negative_prompt is not None:
            asked["negative_prompt"] = base.negative_prompt
        return asked


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A row: one program. Paths are below the server's root, without its /v1."""

    name: str
    read: str
    """Which version's documentation and source the row was read in."""
    body: Callable[[Wish], dict[str, Any]]
    """What is posted to /v1/images/generations."""
    seeds: int | None
    """How many seeds it tells apart; None: it takes none, nor steps or guidance."""
    identity: tuple[str, Callable[[Any, str], str | None]] | None = None
    """Where it tells its version: a path, and (its JSON, the model) → the version."""
    settled: tuple[str, Callable[[Any], Mapping[str, Any]]] | None = None
    """Where it tells what it generates with, whatever is asked: (its JSON) → steps and guidance by
    diffusers' names."""
    sizes: tuple[int, ...] = ()
    """The only sides that it takes; any if there are none."""
    adapters: Literal["request", "server"] | None = None
    """Whether an adapter goes with a request or is set for the whole server (SGLang's way); None:
    it takes none while it runs."""
    adapter_format: Literal["peft", "diffusers"] = "peft"
