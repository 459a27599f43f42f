"""Makes the folder of the tests importable: `import tiny`; forgets what servers do not take; has
the same examples drawn in every run. HYPOTHESIS_PROFILE=default looks for new ones."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be given to another test's server later."""
    monkeypatch.setattr("selma.backbones.parameters._REFUSED", {})
