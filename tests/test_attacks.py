"""Counting of what is injected: a failing injection, or one that is not counted back, shows."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import attacks
import pytest

TESTS = """
import pytest

def test_holds(attack):
    with attack("kills", 3, seed=1):
        pass

@pytest.mark.parametrize("number", range(4))
def test_each(attack, number):
    attack.injects("damages", seed=1)
    assert {fails}
    attack.held("damages", {held}, seed=1)

def test_injects_nothing():
    raise AssertionError("deselected")
"""


def session(folder: Path, *words: str, fails: str = "True", held: int = 1) -> tuple[int, list[str]]:
    """The exit code of a session of its own, and the table's lines."""
    (folder / "conftest.py").write_bytes((attacks.HOME / "conftest.py").read_bytes())
    (folder / "test_it.py").write_text(TESTS.format(fails=fails, held=held))
    source = Path(attacks.__file__).parents[1] / "src"
    environment = os.environ | {"SELMA_ATTACK_ROWS": str(folder / "rows.jsonl")}
    environment |= {"PYTHONPATH": f"{attacks.HOME}{os.pathsep}{source}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, folder],
        capture_output=True, text=True, cwd=folder, env=environment,
    )  # fmt: skip
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one process", "two"])
def test_rows_add_up_over_tests_and_processes(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, lines = session(tmp_path, *words)
    assert code == 0, lines
    assert lines[lines.index("row injections held seed") :][1:3] == ["damages 4 4 1", "kills 3 3 1"]
    saved = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert sorted(saved) == ['["damages", 1, 4, 4]', '["kills", 1, 3, 3]']


def test_a_failing_injection_is_not_held(tmp_path: Path) -> None:
    code, lines = session(tmp_path, fails="number != 2")
    assert code == 1 and "damages 4 3 1 NOT HELD" in lines


def test_what_is_not_counted_back_fails_the_session(tmp_path: Path) -> None:
    code, lines = session(tmp_path, held=0)
    assert code == 1 and "damages 4 0 1 NOT HELD" in lines


def test_each_file_that_injects_is_in_a_part() -> None:
    files = {
        path.relative_to(attacks.HOME).as_posix()
        for path in attacks.HOME.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and "attack" in [argument.arg for argument in node.args.args]
    }
    assert files == {file for part in attacks.PARTS.values() for file in part}
