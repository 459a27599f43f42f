"""What a row of a table needs beside selma, and what is wrong with its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from selma.errors import SelmaError


@dataclass(frozen=True, kw_only=True)
class CheckedKind:
    """A row whose settings can be checked before a model library is loaded."""

    package: str | None = None
    """What must be installed beside selma, by the name that is imported."""
    install: str | None = None
    """What pip installs it by, if not by its name."""
    look: Callable[[Any, str], Iterator[str]] = lambda settings, key: iter(())
    """(settings, key) → mistakes beside places that are not there, found without loading."""

    def mistakes(self, settings: Any, key: str) -> Iterator[str]:
        """What is wrong with the settings that stand at `key`, each as a sentence."""
        try:
            yield from self.look(settings, key)
        except SelmaError as error:
            yield str(error)
        if self.package is not None and find_spec(self.package) is None:
            install = self.install or self.package
            yield f"{key}: needs the package {self.package}: pip install '{install}'."
