"""Data sets of the papers that nobody may pass on: where each lies, and what its owners ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """One row of `selma data list`; its files are brought by whoever accepts its licence."""

    name: str
    about: str
    """What it holds, and what for."""
    source: str
    """The address of its own page."""
    licence: str
    after: str
    """What to do once the licence is accepted."""
    layout: str
    """The files that must then be there."""
    setting: str
    """What reads them."""

    def told(self) -> list[str]:
        """Its lines of the list, as a benchmark has them."""
        return [
            f"{self.name}: {self.about}",
            f"  source: {self.source}",
            f"  licence: {self.licence}",
            f"  then: {self.after}",
            f"  layout: {self.layout}",
            f"  read by: {self.setting}",
        ]
