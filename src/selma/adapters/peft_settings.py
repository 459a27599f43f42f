"""What PEFT's settings say of a file's factors: ranks, alphas, and whether B A means a change.

They lie in adapter_config.json beside a PEFT folder's file, or in the header of diffusers' file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from selma.adapters import names
from selma.adapters.files import PEFT_KEY
from selma.adapters.headers import header_json
from selma.adapters.patterns import Patterns
from selma.errors import AdapterError
from selma.plainfiles import MOST_SETTINGS, plain_text
from selma.texts import quoted

PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PEFT_DEFAULT_ALPHA = 8  # of a header that gives none: what PEFT itself would take

_HARMLESS = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "peft_version",
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "megatron_config", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PeftSettings:
    """One component's settings; none of them may change what B A means."""

    path: Path
    """Whose they are, for messages."""
    values: Mapping[str, Any]
    """Empty where the file has none."""

    def __post_init__(self) -> None:
        for key, value in self.values.items():
            if value and not _harmless(key, value):
                raise AdapterError(
                    f"{self.path} is no plain LoRA: its header sets {quoted(key)} to "
                    f"{quoted(value)}."
                )

    def rank(self, component: str, module: str, default: int) -> Any:
        """The rank that is said of a module; the default where nothing is."""
        return self._of_pattern("rank_pattern", component, module, self.values.get("r", default))

    def alpha(self, component: str, module: str, rank: int, own: float | None) -> float:
        """scale x rank of a module. own: what the file itself says beside the factors.

        Raises AdapterError unless it is a positive number.
        """
        default = self.values.get("lora_alpha", PEFT_DEFAULT_ALPHA if self.values else rank)
        alpha = own
        if own is None:
            alpha = self._of_pattern("alpha_pattern", component, module, default)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1e6:
            raise AdapterError(
                f"{self.path}: alpha of {module} must be a positive number, not {quoted(alpha)}."
            )
        if alpha == 0:
            raise AdapterError(
                f"{self.path}: alpha of {module} is 0, by which some programs leave the layer out "
                "and others take its rank. Take the layer out of the file, or write its rank."
            )
        # rsLoRA (arXiv:2312.03732) divides by the root of the rank instead of the rank.
        return alpha * math.sqrt(rank) if self.values.get("use_rslora") else alpha

    def _of_pattern(self, key: str, component: str, module: str, default: Any) -> Any:
        """The value of the header's pattern for a module, matched as PEFT matches it."""
        patterns = self._patterns.get(key)
        if patterns is None:
            return default
        # transformers' releases differ in whether a text encoder's layers are below "text_model.".
        spelled = [module, f"text_model.{module}"] if component in names.TEXTS else [module]
        try:
            return patterns.value(spelled, default)
        except ValueError as error:
            raise AdapterError(f"{self.path}: {key} cannot be read, because {error}.") from None

    @cached_property
    def _patterns(self) -> dict[str, Patterns]:
        patterns: dict[str, Patterns] = {}
        for key in ("rank_pattern", "alpha_pattern"):
            values = self.values.get(key) or {}
            if not isinstance(values, dict):
                raise AdapterError(f"{self.path}: the header's {key} must be a mapping.")
            try:
                patterns |= {key: Patterns(values)} if values else {}
            except ValueError as error:
                raise AdapterError(f"{self.path}: {key} cannot be read, because {error}.") from None
        return patterns


def header_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, PeftSettings]:
    """Component → its settings in the header of diffusers' file."""
    header = header_json(metadata, PEFT_KEY, path)
    return {
        name: PeftSettings(
            path,
            {
                key.removeprefix(f"{name}."): value
                for key, value in header.items()
                if key.startswith(f"{name}.")
            },
        )
        for name in names.components()
    }


def peft_json(path: Path) -> dict[str, Any]:
    """The settings beside a PEFT adapter's file. Raises AdapterError."""
    settings_path = path.with_name(PEFT_SETTINGS)
    try:
        value = json.loads(plain_text(settings_path, most=MOST_SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{settings_path} must be a PEFT adapter's settings, but: {error}."
        ) from error
    if not isinstance(value, dict):
        raise AdapterError(f"{settings_path} must be a mapping.")
    return value


def _harmless(key: str, value: Any) -> bool:
    """Whether a setting leaves the layer's change at scale x B A. One that is not known may not:
    a merge that passed over it could be wrong without a word."""
    if key == "init_lora_weights":
        # PiSSA, OLoRA, CorDA and LoftQ also change the frozen weights that the delta is added to.
        return value is True or value in ("gaussian", "eva", "orthogonal")
    return key in _HARMLESS or (key, value) in (("bias", "none"), ("peft_type", "LORA"))
