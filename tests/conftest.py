"""Makes the folder of the tests importable: `import tiny`; forgets what servers do not take."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be given to another test's server later."""
    monkeypatch.setattr("selma.backbones.parameters._REFUSED", {})
