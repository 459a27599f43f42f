"""Adapters as they are applied when images are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SerializeAsAny

from selma.config.section import Section
from selma.records.experts import Expert
from selma.records.merged import Merged
from selma.records.record import Record


class AppliedAdapter(Record):
    """An adapter of any kind, and how to apply it."""

    path: Path
    """Its file or folder."""
    key: str = ""
    """Differs for adapters with other weights."""
    strength: float = 1.0
    options: SerializeAsAny[Section] | None = None
    """Settings of its application, if its kind has any (`AdapterKind.options`)."""

    @property
    def recipe(self) -> Any:
        """What images depend on: the key, with strength and options unless these are defaults."""
        if self.strength == 1 and self.options is None:
            return self.key
        options = None if self.options is None else self.options.model_dump(mode="json")
        return [self.key, self.strength, options]


def applied(adapter: Expert | Merged, *, options: Section | None = None) -> AppliedAdapter:
    """An expert or a merged adapter at full strength."""
    return AppliedAdapter(path=adapter.folder, key=adapter.key, options=options)
