"""What a command writes is none of what it reads: held for every command, before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from selma.errors import ConfigError, SelmaError

_OUTPUTS, _WORDS = "selma.outputs", "selma.words"
YAML = (".yaml", ".yml")


def written(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Marks an option or argument as what the command writes: `typer.Option(callback=written)`."""
    context.meta.setdefault(_OUTPUTS, {})[parameter.name] = parameter.opts[0]
    return value


def word(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Marks an option whose value never names a file, whatever lies in this folder."""
    context.meta.setdefault(_WORDS, set()).add(parameter.name)
    return value


def with_inputs_kept(
    context: typer.Context, command: Callable[..., Any] | None
) -> Callable[..., Any] | None:
    """The command, which first refuses to write over what it is given to read (`require_apart`).
    context: the one that its own descends from, and shares its marks with."""
    if command is None:
        return None

    def run(**given: Any) -> Any:
        names = context.meta.get(_OUTPUTS, {})
        outputs = {label: given[name] for name, label in names.items() if given.get(name)}
        others = given.keys() - names.keys() - context.meta.get(_WORDS, set())
        if outputs:
            require_apart(outputs, [given[name] for name in sorted(others)])
        return command(**given)

    return run


def require_apart(outputs: Mapping[str, Path], inputs: Any) -> None:
    """Raise ConfigError for an output, by its option's name, that is an input, a folder with one
    below, a file that is there already below one, or another output.

    inputs: values as commands are given them; of texts and paths those count by which something
    exists, with all that a YAML file names.
    """
    earlier: dict[Path, str] = {}
    for label, output in outputs.items():
        path = _real(output)
        if path in earlier:
            raise ConfigError(
                f"{earlier[path]} and {label} must be two files, but both are {output}."
            )
        earlier[path] = label
        for source in _paths(inputs):
            if fault := _overlap(path, _real(source)):
                raise ConfigError(
                    f"{label} must not be what the command reads, but {output} {fault} {source}. "
                    "Nothing was done: name another one."
                )
        for source in _named_by_yaml(inputs):
            if _same(path, source) or _real(source).is_relative_to(path):
                raise ConfigError(
                    f"{label} must not be what a config names, but {output} is or has {source}. "
                    "Nothing was done: name another one."
                )


def _overlap(output: Path, source: Path) -> str:
    """How they are one another's, in words before the source's name; "" where they are not."""
    if _same(output, source):
        return "is"
    if source.is_relative_to(output):
        return "has within it"
    # Beside what is read a new file may lie; what is there may be a part of it.
    if output.is_relative_to(source) and output.is_file():
        return "is there already, and lies within"
    return ""


def _same(output: Path, source: Path) -> bool:
    with suppress(OSError, ValueError):
        return output.samefile(source)
    return output == source


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _paths(values: Any) -> Iterator[Path]:
    """Every text and path in the values, at any depth, by which something exists."""
    if isinstance(values, str | Path):
        with suppress(OSError, ValueError):
            if str(values) and os.path.lexists(values):
                yield Path(values)
    elif isinstance(values, Mapping):
        yield from _paths(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _paths(value)


def _named_by_yaml(inputs: Any) -> Iterator[Path]:
    """What the YAML files among the inputs name, read from where each lies. One that cannot be
    read is the command's own to refuse."""
    from selma.config import read_mapping

    for path in _paths(inputs):
        if path.suffix in YAML:
            with suppress(SelmaError):
                yield from (each for each in _beside(path.parent, read_mapping(path)))


def _beside(folder: Path, values: Any) -> Iterator[Path]:
    if isinstance(values, str):
        yield from _paths([folder / values] if "\0" not in values else [])
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _beside(folder, value)
    elif isinstance(values, list):
        for value in values:
            yield from _beside(folder, value)
