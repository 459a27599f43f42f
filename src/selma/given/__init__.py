"""Prompts and images that are given: files, folders of pairs, toybox's own. One row for each kind.

Another package adds one by an entry point of the group `selma.given` that names a `Given`.
"""

from __future__ import annotations

from selma.config.given import GIVEN_GROUP
from selma.given import files, imagefolder, toybox
from selma.given.kind import Given
from selma.registry import Table

GIVEN: Table[Given] = Table(
    "kind of given prompts or images", GIVEN_GROUP, [files.KIND, imagefolder.KIND, toybox.KIND]
)
