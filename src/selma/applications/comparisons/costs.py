"""What each row took, from the journal: for all items that its model came from, once each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from selma.applications.comparisons.records import Cost
from selma.applications.comparisons.sharing import DONE, WITH, SharedWorkspace, counts_of
from selma.config import RunConfig
from selma.config.preferences import PreferenceObjective
from selma.images.preferences import MOVED, MOVED_ANSWERS, PREFERENCES
from selma.records.merged import TRIAL
from selma.workspace import EXPERTS, IMAGES, SCORES, manifest

_TO_CHOOSE = tuple(f"{SCORES}/images/{kind}-" for kind in ("dev", TRIAL))


def cost_of(
    items: Iterable[str], folder: SharedWorkspace, config: RunConfig, *, but: str | None = None
) -> Cost:
    """What these items took, and all that they were made with, by the settings of their row.

    but: a stage whose items were made with what the row's model does not need.
    """
    journal = folder.told()
    wanted = _made_with(items, journal, but=but)
    last = {name: counts for name in wanted if (counts := _on_record(folder, name)) is not None}
    seconds = 0.0
    for line in journal:
        if line.get("event") == DONE and line.get("item") in wanted:
            last[line["item"]] = line
            seconds += line["seconds"]
    totals = {"generated": 0, "scored": 0, "trained": 0, "steps": 0}
    for name, line in last.items():
        for key, count in _counts(name, line, config).items():
            totals[key] += count
    return Cost(**totals, seconds=round(seconds, 3))


def _made_with(
    items: Iterable[str], journal: Iterable[Mapping[str, Any]], *, but: str | None
) -> set[str]:
    """The items, what they were made with, and so on."""
    inside: dict[str, list[str]] = {}
    for line in journal:
        if line.get("event") == WITH:
            inside.setdefault(line["item"], []).append(line["made_with"])
    every, new = set[str](), list(items)
    while new:
        item = new.pop()
        if item not in every:
            every.add(item)
            new += [] if item.partition("/")[0] == but else inside.get(item, [])
    return every


def _on_record(folder: SharedWorkspace, name: str) -> dict[str, int] | None:
    """The counts of a finished item that is there; of a killed command the journal lacks the
    last."""
    record = manifest(folder.root / name)
    return counts_of(record["summary"], record["recipe"]) if record else None


def _counts(name: str, line: dict[str, int], config: RunConfig) -> dict[str, int]:
    """The numbers of one finished item."""
    images = line.get("images", 0)
    counts = {"generated": 0, "scored": 0}
    if name.startswith(_TO_CHOOSE):
        return {"generated": images, "scored": images}
    if name.startswith(f"{IMAGES}/{PREFERENCES}/"):
        return {"trained": images}
    if name.startswith(f"{IMAGES}/"):
        copied = "not_generated" in line or name.startswith(f"{IMAGES}/{MOVED}/")
        counts["generated"] += 0 if copied else images
        counts["scored"] += line.get("candidates", 0)
        if name.startswith(f"{IMAGES}/{MOVED_ANSWERS}/"):
            counts["scored"] += line.get("prompts", 0)  # one for each image
        if name.count("/") == 2:  # a skill's pairs
            counts["trained"] = images if _learns_from_pairs(config) else 0
    if name.startswith(f"{EXPERTS}/"):
        counts["steps"] = line.get("steps", 0)
        counts["generated"] += (own := line.get("images_generated", 0))
        counts["scored"] += line.get("images_judged", 0)
        counts["trained"] = own
    return counts


def _learns_from_pairs(config: RunConfig) -> bool:
    """Whether experts learn from the images of stage 2, and neither from those that they generate
    themselves nor from preferences."""
    return config.rewarded is None and not isinstance(config.experts.objective, PreferenceObjective)
