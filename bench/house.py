"""Measures of the source itself, against the goals that keep it easy to find one's way in.

    python bench/house.py            prints each measure beside its goal; exits 1 if one is missed
    python bench/house.py --list     also lists what counts against each

Counted on the syntax tree of `src/selma`:

vague names     functions with a local name that names nothing (`found`, `said`, ...)
imports         circles between modules, and imports of a part from a part above it
applications    stage folders and the parts below them that speak of an application
long functions  `fit` and every function of the pipeline, in lines
size            lines of source without applications and toybox: of code, and in the files
docstrings      public functions and methods without one
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).parents[1]
ROOT = HOME / "src" / "selma"
VAGUE = frozenset(
    {"found", "said", "one", "some", "made", "kept", "told", "place", "there", "whole"}
)
STAGES = ("prompts", "images", "experts", "merged", "scores", "report")
NAMELESS = (*STAGES, "pipeline.py", "preflight.py", "config")
"""Parts that may not speak of an application."""
ADAPTER_SETTINGS = "config/adapters.py"
"""Kinds of adapters have names of their own, some of which are applications' names, too."""
sys.path.insert(0, str(HOME / "tests"))
from test_imports import LAYERS  # noqa: E402  (the order of parts is said once, where it is tested)

from selma.applications import APPLICATIONS  # noqa: E402

MOST_LINES = 39_350
"""5,000 more than before the paper's other tables: given data, another base, preferences, three
objectives by rewards, mixtures, methods without training, estimates without the Hub. And 600 for
what is verified, sealed, refused and kept; 200 for a family on straight lines to noise. 1,500 for
the families of transformers of today; 1,500 for their files: layouts that join layers, merges that
are verified, ranks that are cut, what each program would not load. 2,600 for benchmarks and judges
of today; 1,300 for what shapes, short names and outputs
of commands are held to, faces, and what is known of judges. 1,000 for bases on servers, their
programs and what they must show. 850 for runs of a million: streams, sub-folders, shards. 650 for
plans of what a run takes. 250 for what judges' probabilities and benchmarks' files are held to,
350 for folders on object stores. 100 for clusters, stores and servers that go wrong.
300 for tokens of a batch and processes of this machine."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Measure:
    """One row: what was counted, the goal, and what counts against it."""

    name: str
    value: str
    goal: str
    met: bool
    against: Sequence[str] = ()


def modules(root: Path = ROOT) -> dict[str, ast.Module]:
    """Path relative to the package → its syntax tree."""
    paths = sorted(root.rglob("*.py"))
    return {str(path.relative_to(root)): ast.parse(path.read_text("utf-8")) for path in paths}


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def local_names(function: Function) -> set[str]:
    """Arguments and names that the function itself binds, those of inner functions aside."""
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Function | ast.ClassDef):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Lambda):
            names |= {a.arg for a in node.args.args}
        if isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        nodes.extend(ast.iter_child_nodes(node))
    return names


def vague_names(trees: dict[str, ast.Module]) -> Measure:
    every = [(path, function) for path, tree in trees.items() for function in functions(tree)]
    against = [
        f"{path}:{function.lineno} {function.name}: {', '.join(sorted(vague))}"
        for path, function in every
        if (vague := local_names(function) & VAGUE)
    ]
    share = 100 * len(against) / len(every)
    value = f"{share:.1f}% ({len(against)} of {len(every)})"
    return Measure("functions with a vague name", value, "< 2%", share < 2, against)


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, at any place in it."""
    names = {"selma." + dotted(path) if dotted(path) else "selma": path for path in trees}
    graph: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                module = target if target in names else target.rpartition(".")[0]
                if module in names and names[module] != path:
                    graph[path].add(names[module])
    return graph


def dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


def part_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def upward(graph: dict[str, set[str]]) -> Measure:
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    against = []
    for path, targets in graph.items():
        mine = part_of(path)
        if path == "__init__.py":
            continue
        for target in targets:
            other = part_of(target)
            stages = mine != other and {mine, other} <= {*STAGES}
            unknown = {mine, other} - rank.keys()
            if unknown or rank[other] > rank[mine] or stages:
                against.append(f"{path} imports {target}")
    return Measure("imports upwards or across stages", str(len(against)), "0", not against, against)


def circles(graph: dict[str, set[str]]) -> Measure:
    """Circles between modules, of imports that run when a module is imported."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    against: list[str] = []

    def visit(path: str) -> None:
        order[path] = low[path] = len(order)
        stack.append(path)
        for target in graph.get(path, ()):
            if target not in order:
                visit(target)
            if target in stack:
                low[path] = min(low[path], low[target])
        if low[path] == order[path]:
            members = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(members) > 1:
                against.append(" ↔ ".join(members))

    for path in list(graph):
        if path not in order:
            visit(path)
    return Measure("import circles", str(len(against)), "0", not against, against)


def applications(trees: dict[str, ast.Module], root: Path = ROOT) -> Measure:
    """Lines of the stages, and of what may name no application, that name one."""
    names = {row.section.removesuffix("s") for row in APPLICATIONS.values() if row.section}
    word = re.compile(rf"applications|\b_?({'|'.join(names)})(s|_\w+)?\b", re.IGNORECASE)
    against = []
    for path in trees:
        if path.startswith(NAMELESS) and path != ADAPTER_SETTINGS:
            lines = (root / path).read_text("utf-8").splitlines()
            against += [
                f"{path}:{number} {line.strip()}"
                for number, line in enumerate(lines, 1)
                if word.search(code_of(line))
            ]
    return Measure(
        "lines of stages about applications", str(len(against)), "0", not against, against
    )


def code_of(line: str) -> str:
    """A line without what stands for other things than an application ("a prompt's subject")."""
    return re.sub(r"control characters?|control code|subject[- ]verb|version control", "", line)


def long_functions(trees: dict[str, ast.Module]) -> Measure:
    lengths = {
        f"{path}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in ("pipeline.py", "experts/training.py")
        for function in functions(trees[path])
    }
    against = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines >= 80]
    name = "longest function of pipeline and training"
    return Measure(name, f"{max(lengths.values())} lines", "< 80", not against, against)


def size(root: Path = ROOT) -> Measure:
    lines = code = 0
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[0] not in ("applications", "toybox"):
            text = path.read_text("utf-8")
            lines += len(text.splitlines())
            code += len(code_lines(text))
    name = "lines of code without applications and toybox"
    return Measure(name, f"{code} ({lines} in files)", f"≤ {MOST_LINES}", code <= MOST_LINES)


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no blank line, comment or docstring."""
    docs = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return {n for n, line in lines if line.strip() and not line.strip().startswith("#")} - docs


def docstrings(trees: dict[str, ast.Module]) -> Measure:
    public, against = 0, []
    for path, tree in trees.items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        owners: list[ast.Module | ast.ClassDef] = [tree, *classes]
        for owner in owners:
            if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
                continue
            for node in owner.body:
                if isinstance(node, Function) and not node.name.startswith("_"):
                    public += 1
                    if ast.get_docstring(node) is None:
                        against.append(f"{path}:{node.lineno} {node.name}")
    share = 100 * len(against) / public
    value = f"{share:.1f}% ({len(against)} of {public})"
    return Measure("public functions without a docstring", value, "< 15%", share < 15, against)


def at_import(tree: ast.Module) -> ast.Module:
    """The module without what its import does not run: functions, and imports for types alone."""

    class Trim(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...
        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Trim().visit(tree)


def measures() -> list[Measure]:
    trees = modules()
    graph = imports(trees)
    rows = [
        vague_names(trees),
        upward(graph),
        applications(trees),
        long_functions(trees),
        size(),
        docstrings(trees),
    ]
    return [*rows, circles(imports({path: at_import(tree) for path, tree in modules().items()}))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="list what counts against each measure")
    options = parser.parse_args()
    rows = measures()
    for row in rows:
        print(f"{'ok  ' if row.met else 'MISS'} {row.name:<42} {row.value:<24} {row.goal}")
        for line in row.against if options.list else ():
            print(f"       {line}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
