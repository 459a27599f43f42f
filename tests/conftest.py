"""Makes the folder of the tests importable: `import tiny`; forgets what servers do not take; has
the same examples drawn in every run (HYPOTHESIS_PROFILE=default looks for new ones); counts what is
injected and what of it held (`make attack`); builds the commands once in each process; keeps what
is collected out of the garbage collector's way, which would go through it again and again; waits
for no disk."""

from __future__ import annotations

import gc
import os
from functools import cache
from pathlib import Path

import attacks
import pytest
import typer.testing
from hypothesis import settings
from typer.main import get_command

settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

typer.testing._get_command = cache(get_command)  # all of them, in each call of `CliRunner.invoke`
os.fsync = lambda file: os.fstat(file) and None  # power stays on; `test_disk.py` sees who asks
gc.disable()  # until all is collected: importing makes much that stays, and hardly any garbage

TABLE: attacks.Table = {}
"""What the tests of this session counted; in the main process, where there are several."""


@pytest.fixture(autouse=True)
def _other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be given to another test's server later."""
    monkeypatch.setattr("selma.backbones.parameters._REFUSED", {})
    monkeypatch.setattr("selma.backbones.served_base._VERSIONS", {})


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> attacks.Attack:
    """Counts injections and what of them held; a session in which they differ fails."""
    counts = attacks.Attack()
    request.node.user_properties.append(("attack", counts.rows))
    return counts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if attacks.ROWS:
        idle = [item for item in items if "attack" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if item not in idle]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        for name, rows in report.user_properties:
            if name == "attack":
                attacks.added(TABLE, rows)  # type: ignore[arg-type]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if attacks.failing(TABLE) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if hasattr(config, "workerinput"):  # one of several processes: the main one has its rows
        return
    if attacks.ROWS or attacks.failing(TABLE):
        for line in attacks.lines(TABLE):
            terminalreporter.write_line(line)
    if attacks.ROWS:
        attacks.save(TABLE, Path(attacks.ROWS))
