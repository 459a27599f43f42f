"""A run folder that only shows what is finished: a stage that would have to make something stops.

Handing it to the stages themselves answers "what is there?" with their own recipes, so that the
answer cannot drift from what a run would do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from selma.errors import WorkspaceError
from selma.manifests import PLAN
from selma.records.merged import MIXTURE
from selma.workspace import (
    EXPERTS,
    IMAGES,
    MERGED,
    PROMPTS,
    REPORT,
    SCORES,
    Item,
    Workspace,
    read_json,
)

COMMANDS = {
    PROMPTS: "prompts",
    IMAGES: "images",
    EXPERTS: "experts",
    f"{EXPERTS}/{MIXTURE}": "merge",
    MERGED: "merge",
    SCORES: "score",
    REPORT: "report",
}
"""Folder of a stage, or of an item in it → the command that makes it."""


class NotFinished(WorkspaceError):
    """A stage needs an item that has not been made yet, or not with these settings."""

    def __init__(self, item: Item, commands: Mapping[str, str] | None = None) -> None:
        self.item = item
        commands = {**COMMANDS, **(commands or {})}
        parts = item.name.split("/")
        above = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        command = next(commands[name] for name in above if name in commands)
        state = "not"
        if item.path.exists() and not begun(item):
            state = f"there with {item.change or 'other settings'}"
        advice = ""
        if (earlier := item.earlier()) is not None:
            state = f"there by {earlier.change}"
            advice = " --keep takes it as it is."
        subject = f"{item.path} must be finished first, but is {state}"
        if item.faults:
            name, fault = next(iter(item.faults.items()))
            subject = f"{item.path / name} is damaged: {fault}"
        super().__init__(
            f"{subject}. Run `selma {command} CONFIG`"
            + ("." if " " in command else ", or `selma run CONFIG` for everything.")
            + advice
        )


def begun(item: Item) -> bool:
    """Whether this very recipe was started, and perhaps finished."""
    plan = read_json(item.path / PLAN)
    return plan is not None and plan.get("key") == item.key


class _FinishedItem(Item):
    shown_only = True

    def __init__(self, item: Item, commands: Mapping[str, str]) -> None:
        super().__init__(item.root, item.name, item.recipe, paid=item.paid)
        self.commands = commands

    @property
    def done(self) -> bool:
        # Before a stage loads what it would need to make the item.
        if self.manifest is None:
            raise NotFinished(self, self.commands)
        return True

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        raise NotFinished(self, self.commands)


class Finished(Workspace):
    """One run's folder, in which nothing can be made.

    commands: item, or a folder above it → the command that makes it, beside those of the six
    stages; the nearest folder says.
    """

    def __init__(self, root: Path, commands: Mapping[str, str] | None = None) -> None:
        super().__init__(root)
        self.commands = dict(commands or {})

    def item(
        self, stage: str, *names: str, recipe: Mapping[str, Any], paid: Collection[str] = ()
    ) -> Item:
        item = super().item(stage, *names, recipe=recipe, paid=paid)
        return _FinishedItem(item, self.commands)

    def journal(self, stage: str, **facts: Any) -> None:
        """Nothing: looking is not part of the run's history."""
