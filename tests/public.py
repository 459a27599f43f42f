"""The library as its users see it: what `selma` names, what commands call, what documents name."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import selma

ROOT = Path(selma.__file__).parent
HOME = Path(__file__).parents[1]
COMMANDS = sorted([*(ROOT / "cli").glob("*.py"), *(ROOT / "applications").glob("*/command.py")])
DOCUMENTS = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]


def public_functions() -> dict[str, Callable[..., Any]]:
    """Dotted name → each function of the library that a user may call."""
    functions = {f"selma.{name}": getattr(selma, name) for name in selma.__all__}
    for path in COMMANDS:
        functions |= dict(_called_by(path))
    for path in DOCUMENTS:
        functions |= dict(_named_in(path))
    return {
        name: function
        for name, function in sorted(functions.items())
        if inspect.isfunction(function) and not function.__module__.startswith("selma.cli")
    }


def _called_by(path: Path) -> Iterator[tuple[str, Any]]:
    """What a module of commands imports of the library, and calls of modules that it imports."""
    tree = ast.parse(path.read_text("utf-8"))
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selma"):
            for alias in node.names:
                value = _attribute(str(node.module), alias.name)
                if isinstance(value, ModuleType):
                    modules[alias.asname or alias.name] = value
                else:
                    yield _dotted(value), value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and inspect.isfunction(getattr(module, node.attr, None)):
                yield _dotted(getattr(module, node.attr)), getattr(module, node.attr)


def _named_in(path: Path) -> Iterator[tuple[str, Any]]:
    """What a document's lines of Python take from the library."""
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("selma"):
                value = _attribute(ast.unparse(node.value), node.attr)
                yield _dotted(value), value
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selma"):
                for alias in node.names:
                    value = _attribute(str(node.module), alias.name)
                    yield _dotted(value), value


def _attribute(module: str, name: str) -> Any:
    value = getattr(importlib.import_module(module), name, None)
    return importlib.import_module(f"{module}.{name}") if value is None else value


def _dotted(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', value)}"
