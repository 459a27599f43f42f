"""What benches take from the package is there: nothing else would notice until one is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import selma

SOURCE = Path(selma.__file__).parents[1]
BENCHES = sorted((Path(__file__).parents[1] / "bench").glob("*.py"))


@cache
def names_in(module: str) -> frozenset[str] | None:
    """The names that a module has by its source; None where there is no such module."""
    path = SOURCE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return None
    names = {inner.stem for inner in path.iterdir()} if path.is_dir() else set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return frozenset(names)


def missing(tree: ast.Module) -> Iterator[str]:
    """Names of selma that the source uses and that are not there."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selma"):
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                if names_in(dotted) is not None:
                    modules[alias.asname or alias.name] = dotted
                elif alias.name not in (names_in(str(node.module)) or ()):
                    yield dotted
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and node.attr not in (names_in(module) or ()):
                yield f"{module}.{node.attr}"


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: str(path.stem))
def test_names_that_a_bench_uses_exist(path: Path) -> None:
    assert [*missing(ast.parse(path.read_text("utf-8")))] == []


def test_a_name_that_is_gone_is_seen() -> None:
    source = "from selma.report import tables\nfrom selma.report.tables import gone\ntables.lost()"
    assert [*missing(ast.parse(source))] == ["selma.report.tables.gone", "selma.report.tables.lost"]
