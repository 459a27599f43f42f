"""Records that are read when somebody asks for one of them: there may be a million."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

Row = TypeVar("Row", covariant=True)


class FinishedRows(Sequence[Row]):
    """Records of a file whose bytes are those of its item's manifest; all are read when the first
    is asked for. facts: their `count`, a `digest` of what recipes need, and what else is counted.
    """

    def __init__(
        self, file: Path, facts: Mapping[str, Any], read: Callable[[], Sequence[Row]]
    ) -> None:
        self.file = file
        self.facts = facts
        self._read = read

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return self._read()

    def __len__(self) -> int:
        return int(self.facts["count"])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
