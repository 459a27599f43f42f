"""Guides as they are applied when images are generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SerializeAsAny

from selma.config.guides import GuideSettings
from selma.records.parses import Sets
from selma.records.record import Record


class AppliedGuide(Record):
    """A guide of any kind, and what its parser says of the prompts that it will meet."""

    settings: SerializeAsAny[GuideSettings]
    key: str
    """Differs for other prompts, parsers, and readings of what they say."""
    sets: Mapping[str, Sets]
    """Text → its sets; none of a text that has none."""

    @property
    def recipe(self) -> dict[str, Any]:
        """What images depend on. Where the sets are from is in the key."""
        settings = self.settings.model_dump(mode="json", exclude={"parser"})
        return {**settings, "parsed": self.key}
