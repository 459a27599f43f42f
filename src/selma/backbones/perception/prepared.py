"""A network of transformers with the processor that prepares its images.

Only safetensors are read and no code of a model's folder is run.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from selma.backbones.hub import find_device
from selma.backbones.image_processors import load_image_processor
from selma.backbones.weights import Weights, load_network
from selma.errors import ModelError


class PreparedNetwork:
    """Loaded when first asked."""

    kind: ClassVar[str]
    """transformers' class that finds the network's own."""

    def __init__(self, model: str, *, revision: str | None, device: str, setting: str) -> None:
        self._device, self._setting = device, setting
        self._files = Weights(model, revision)

    @property
    def name(self) -> str:
        return self._files.label

    @property
    def fingerprint(self) -> str:
        return self._files.fingerprint[:16]

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        """The network, and what prepares images for it. Raises ModelError."""
        import transformers

        device = find_device(self._device, setting=f"{self._setting}.device")
        model = load_network(getattr(transformers, self.kind), self._files).to(device)
        try:
            prepare = load_image_processor(self._files.source())
        except Exception as error:  # many kinds: no file, no net, none for this architecture
            raise ModelError(
                f"{self._files.name} must say how its images are prepared "
                f"(preprocessor_config.json), but: {str(error).splitlines()[0]}"
            ) from error
        return model, prepare
