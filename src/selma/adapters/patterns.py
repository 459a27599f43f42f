"""PEFT's rank_pattern and alpha_pattern: which of them is a layer's, in time linear in its name.

A file's author chose the patterns. PEFT runs them as they are, by `re`, where a line such as
"(a+)+$" takes longer than anybody waits; RE2 knows no such line. What it does not read (looking
around, references back) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

LONGEST, MOST, MOST_EXPRESSIONS = 500, 5000, 256
"""Characters of a pattern, patterns of a file, and those of them that are more than a name."""

_NAME = re.compile(r"\^?(?:\w|-|\\?\.)+\$?", re.ASCII)
_BYTES_OF_NAMES, _BYTES_OF_EXPRESSIONS = 64 << 20, 1 << 20  # bound what RE2 builds, and its time

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
"""What is escaped in a pattern; re's word for the end of a text is \\Z, RE2's is \\z."""

_DIFFERENT = ("{,", "[[")
"""What re and RE2 both read, but not alike."""


class Patterns:
    """A header's patterns with their values. Raises ValueError with the reason unless RE2 reads all
    of them as PEFT does, in bounded memory and time."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        if len(self.values) > MOST:
            raise ValueError(f"there may be {MOST} patterns, but there are {len(self.values)}")
        for pattern in self.values:
            _require_pattern(pattern)
        _ = self._sets

    def value(self, spelled: Sequence[str], default: Any) -> Any:
        """The value of the first pattern that PEFT finds to match a module's path, which may be
        spelled in several ways."""
        matching = [n for part in self._sets for module in spelled for n in part.matching(module)]
        return list(self.values.values())[min(matching)] if matching else default

    @cached_property
    def _sets(self) -> list[_Set]:
        numbered = list(enumerate(self.values))
        named = {n: pattern for n, pattern in numbered if _NAME.fullmatch(pattern)}
        others = {n: pattern for n, pattern in numbered if n not in named}
        if len(others) > MOST_EXPRESSIONS:
            raise ValueError(
                f"{MOST_EXPRESSIONS} patterns may be regular expressions, but {len(others)} are"
            )
        sets = ((named, _BYTES_OF_NAMES), (others, _BYTES_OF_EXPRESSIONS))
        return [_Set(patterns, size) for patterns, size in sets if patterns]


class _Set:
    """Patterns that are matched at once."""

    def __init__(self, patterns: Mapping[int, str], size: int) -> None:
        import re2

        options = re2.Options()
        options.max_mem, options.log_errors = size, False
        self.numbers = list(patterns)
        self.set = re2.Set.MatchSet(options)
        for pattern in patterns.values():
            try:
                # As peft.utils.other.get_pattern_key.
                self.set.Add(rf"(?:.*\.)?(?:{_ESCAPED.sub(_end, pattern)})$")
            except re2.error:
                raise ValueError(
                    f"{pattern!r} is no regular expression that RE2 reads (none looks around or "
                    "refers back), or too large"
                ) from None
        # It always matches: where it does not, RE2 gave up.
        self.set.Add("(?s).*")
        try:
            self.set.Compile()
        except re2.error:
            raise ValueError("the patterns together are too large") from None

    def matching(self, module: str) -> list[int]:
        matching = self.set.Match(module) or []
        if len(self.numbers) not in matching:
            raise ValueError("the patterns together are too large")
        return [self.numbers[n] for n in matching if n < len(self.numbers)]


def _end(escaped: re.Match[str]) -> str:
    return r"\z" if escaped[1] == "Z" else escaped[0]


def _require_pattern(pattern: str) -> None:
    if len(pattern) > LONGEST:
        raise ValueError(f"a pattern may have {LONGEST} characters, but one has {len(pattern)}")
    if odd := next((part for part in _DIFFERENT if part in pattern), None):
        raise ValueError(f"{pattern!r} has {odd!r}, which RE2 reads otherwise than PEFT")
