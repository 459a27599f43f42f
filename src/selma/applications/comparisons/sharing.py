"""A folder that all rows of a comparison share, so that nothing is made twice.

<stage>/<item>/<key>/     an item lies in a folder of its recipe's key: rows of equal recipes
                          have one, and no row takes another's place
journal.jsonl             for each item that was finished how long it took, without what was
                          finished meanwhile, and how many images it has; and which items it was
                          made with, which nobody asks for any more once it is there
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selma.finished import Finished, NotFinished
from selma.workspace import STAGES, FactsOf, Item, Workspace, asked_for

DONE, WITH = "item", "made with"
"""Events in the journal."""
COUNTS = ("images", "candidates", "steps", "images_generated", "images_judged", "prompts")
"""Numbers of an item's summary that the journal has, too."""


@dataclass
class Clock:
    """How long items take, each without those that are finished inside it."""

    running: list[tuple[str, float, list[float]]] = field(default_factory=list)
    """Item, when it began, and the seconds of items inside."""
    noted: set[tuple[str, str]] = field(default_factory=set)
    """Item, and one that it was made with, as far as the journal has been told."""

    def start(self, name: str) -> None:
        self.running.append((name, time.monotonic(), []))

    def stop(self, name: str) -> float:
        """The item's seconds; what was begun inside it and not finished counts as its own."""
        while self.running:
            running, started, inside = self.running.pop()
            if running == name:
                seconds = time.monotonic() - started
                if self.running:
                    self.running[-1][2].append(seconds)
                return seconds - sum(inside)
        return 0.0


class SharedItem(Item):
    """An item in a folder of its key."""

    by_key = True

    def __init__(self, item: Item, folder: SharedWorkspace) -> None:
        super().__init__(item.root, f"{item.name}/{item.key}", item.recipe, paid=item.paid)
        self.folder = folder

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        self.folder.note(self.name)
        self.folder.clock.start(self.name)
        return super().begin(guests=guests)

    def finish(
        self,
        files: Iterable[Path],
        summary: Mapping[str, Any],
        *,
        rows: Mapping[str, FactsOf] | None = None,
    ) -> None:
        super().finish(files, summary, rows=rows)
        self.folder.journal(
            self.name.partition("/")[0],
            event=DONE,  # its stage tells the time of its skills beside this
            item=self.name,
            seconds=round(self.folder.clock.stop(self.name), 3),
            **counts_of(summary, self.recipe),
        )


def counts_of(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, int]:
    """What a finished item counts for in costs."""
    counts = {name: summary[name] for name in COUNTS if isinstance(summary.get(name), int)}
    # Of chosen images the candidates were generated, which are an item of their own.
    copied = recipe.get("choose") or recipe.get("source")
    return counts | ({"not_generated": True} if copied else {})


class SharedWorkspace(Workspace):
    """The folder as one row sees it; `used` has the items that it asked for."""

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        super().__init__(root)
        self.clock = clock or Clock()
        self.used: set[str] = set()
        self._last: dict[str, Path] = {}
        self._told: list[dict[str, Any]] = []
        self._told_to = 0

    def told(self) -> list[dict[str, Any]]:
        """The journal's lines about items; a row after the first reads what was added since."""
        start, self._told_to = self._told_to, self.journal_end()
        lines = self.read_journal(start=start)
        self._told += [dict(line) for line in lines if line.get("event") in (DONE, WITH)]
        return self._told

    def item(
        self, stage: str, *names: str, recipe: Mapping[str, Any], paid: Collection[str] = ()
    ) -> Item:
        plain = super().item(stage, *names, recipe=recipe, paid=paid)
        item = asked_for(SharedItem(plain, self))
        self.used.add(item.name)
        self.note(item.name)
        self._last[plain.name] = item.path
        return item

    def note(self, item: str) -> None:
        """Write down which item this one is made or read for, at once, so that no kill loses it."""
        if not self.clock.running or (outer := self.clock.running[-1][0]) == item:
            return
        if (outer, item) not in self.clock.noted:
            self.clock.noted.add((outer, item))
            self.journal(item.partition("/")[0], event=WITH, item=outer, made_with=item)

    def folder_of(self, stage: str, *names: str) -> Path:
        return self._last.get("/".join((stage, *names)), super().folder_of(stage, *names))


class _SharedFinishedItem(Item):
    by_key = True
    shown_only = True

    def __init__(self, item: Item) -> None:
        super().__init__(item.root, f"{item.name}/{item.key}", item.recipe, paid=item.paid)

    @property
    def done(self) -> bool:
        if self.manifest is None:
            raise NotFinished(self, _COMMANDS)
        return True

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        raise NotFinished(self, _COMMANDS)


_COMMANDS = dict.fromkeys(STAGES, "compare")


class SharedFinished(Finished):
    """The shared folder as one row sees it, in which nothing can be made."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._last: dict[str, Path] = {}

    def item(
        self, stage: str, *names: str, recipe: Mapping[str, Any], paid: Collection[str] = ()
    ) -> Item:
        plain = Workspace.item(self, stage, *names, recipe=recipe, paid=paid)
        item = asked_for(_SharedFinishedItem(plain))
        self._last[plain.name] = item.path
        return item

    def folder_of(self, stage: str, *names: str) -> Path:
        return self._last.get("/".join((stage, *names)), super().folder_of(stage, *names))
