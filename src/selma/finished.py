"""A run folder that only shows what is finished: a stage that would have to make something stops.

Handing it to the stages themselves answers "what is there?" with their own recipes, so that the
answer cannot drift from what a run would do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from selma.errors import WorkspaceError
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, REPORT, SCORES, Item, Workspace

COMMANDS = {
    PROMPTS: "prompts",
    IMAGES: "images",
    EXPERTS: "experts",
    MERGED: "merge",
    SCORES: "score",
    REPORT: "report",
    f"{IMAGES}/_triples": "sur collect",
    f"{EXPERTS}/_sur": "sur train",
    f"{IMAGES}/_control": "control prepare",
    f"{EXPERTS}/_control": "control train",
    f"{SCORES}/control": "control generate",
    f"{IMAGES}/_subjects": "subjects train",
    f"{IMAGES}/_class": "subjects train",
    f"{EXPERTS}/_subjects": "subjects train",
    f"{SCORES}/images/_subjects": "subjects generate",
}
"""Item, or a folder above it → what makes it; the nearest folder says."""


class NotFinished(WorkspaceError):
    """A stage needs an item that has not been made yet, or not with these settings."""

    def __init__(self, item: Item) -> None:
        self.item = item
        parts = item.name.split("/")
        above = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        command = next(COMMANDS[name] for name in above if name in COMMANDS)
        other = item.path.exists() and not begun(item)
        state = "there with other settings" if other else "not"
        super().__init__(
            f"{item.path} must be finished first, but is {state}. Run `selma {command} CONFIG`"
            + ("." if " " in command else ", or `selma run CONFIG` for everything.")
        )


def begun(item: Item) -> bool:
    """Whether this very recipe was started, and perhaps finished."""
    try:
        plan = json.loads((item.path / "plan.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(plan, dict) and plan.get("key") == item.key


class _FinishedItem(Item):
    @property
    def done(self) -> bool:
        # Before a stage loads what it would need to make the item.
        if self.manifest is None:
            raise NotFinished(self)
        return True

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        raise NotFinished(self)


class Finished(Workspace):
    """One run's folder, in which nothing can be made."""

    def item(self, stage: str, *names: str, recipe: Mapping[str, Any]) -> Item:
        item = super().item(stage, *names, recipe=recipe)
        return _FinishedItem(item.root, item.name, item.recipe)

    def journal(self, stage: str, **facts: Any) -> None:
        """Nothing: looking is not part of the run's history."""
