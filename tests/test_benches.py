"""Benches start, and what they take from the package is there: else none would notice until one is
run."""

from __future__ import annotations

import ast
import runpy
import sys
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


@pytest.fixture
def beside_no_bench() -> Iterator[None]:
    """Forget the benches that a bench imports: they have plain names, as `study`."""
    yield
    for path in BENCHES:
        if getattr(sys.modules.get(path.stem), "__file__", None) == str(path):
            del sys.modules[path.stem]


@pytest.mark.usefixtures("beside_no_bench")
@pytest.mark.parametrize("path", BENCHES, ids=lambda path: str(path.stem))
def test_a_bench_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    if "__main__" not in path.read_text("utf-8"):  # others import it
        runpy.run_path(str(path))
        return
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out
