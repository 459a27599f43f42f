"""What one merge is told: its method's settings, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from selma.config.merged import MergedConfig
from selma.config.section import Section, mistake
from selma.errors import ConfigError
from selma.merged.methods import METHODS, Method


@dataclass(frozen=True)
class Plan:
    """One merge, all that it depends on beside the experts' tensors."""

    method: Method
    settings: Section
    weights: Mapping[str, float]
    """Expert → weight."""
    scale: float = 1.0
    """Of the whole result."""

    @property
    def divides(self) -> bool:
        """Whether the result is divided by the weights of the experts that take part."""
        return self.method.weights == "vote" and getattr(self.settings, "normalize", True)


def planned(config: MergedConfig, weights: Mapping[str, float]) -> Plan:
    """The merge that the settings ask for. Raises ConfigError unless the method has them all."""
    return Plan(*method_of(config), weights=weights, scale=config.scale)


def method_of(config: MergedConfig) -> tuple[Method, Section]:
    """The method and its settings with defaults. Raises ConfigError with every mistake."""
    require_merged_config(config)
    mistakes = list(setting_mistakes(config.method, config.method_settings))
    if mistakes:
        raise ConfigError("The merge cannot start:\n" + "\n".join(f"  {line}" for line in mistakes))
    method = METHODS[config.method]
    return method, method.settings.model_validate(config.method_settings)


def merged_config(given: Mapping[str, Any]) -> MergedConfig:
    """The merge's settings by themselves. Raises ConfigError with every mistake."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"A merge's settings must be a mapping, as {{'method': 'ties'}}, but {given!r} came."
        )
    own = {*MergedConfig.model_fields, "lambda"}
    rest = {name: value for name, value in given.items() if name not in own}
    lines: list[str] = []
    try:
        config = MergedConfig.model_validate(given)
    except ValidationError as error:
        lines += [mistake(entry, MergedConfig).strip() for entry in error.errors()]
    method = given.get("method", MergedConfig.model_fields["method"].default)
    lines += setting_mistakes(str(method), rest, section="")
    if lines:
        raise ConfigError("The merge cannot start:\n" + "\n".join(f"  {line}" for line in lines))
    return config


def require_merged_config(config: Any) -> MergedConfig:
    """The settings. Raises ConfigError unless they are what `merged_config` returns."""
    if not isinstance(config, MergedConfig):
        raise ConfigError(
            f"A merge needs settings of the class MergedConfig, but {config!r} came: "
            "selma.merged_config({'method': 'ties'}) makes them."
        )
    return config


def setting_mistakes(
    name: str, given: Mapping[str, Any], *, section: str = "merged."
) -> Iterator[str]:
    """What is wrong with a method's name or with the settings that are given for it."""
    try:
        settings = METHODS.find(name, setting=f"{section}method").settings
    except ConfigError as error:
        yield str(error)
        return
    for key in sorted(given.keys() - settings.model_fields.keys()):
        having = [row.name for row in METHODS.values() if key in row.settings.model_fields]
        rest = f"but {', '.join(having)} have" if having else f"it has {_names(settings)}"
        yield f"{section}{key}: {name} has no {key}, {rest}."
    try:
        settings.model_validate({k: v for k, v in given.items() if k in settings.model_fields})
    except ValidationError as error:
        for entry in error.errors():
            if entry["loc"]:
                yield section + mistake(entry, settings).strip()
            else:  # about several settings together
                yield f"{section}method: {name}: {entry['msg'].removeprefix('Value error, ')}."


def _names(settings: type[Section]) -> str:
    return ", ".join(settings.model_fields) or "no settings of its own"
