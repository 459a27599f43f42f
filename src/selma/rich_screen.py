"""Tables and progress on a terminal, by rich, which a command that shows none need not load."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from selma.screen import shown


class Screen(Console):
    """A console whose texts, in tables as well, are shown and never obeyed."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(shown(text), **how)


def plain(text: str) -> Text:
    """The text for a table's cell, without rich's markup."""
    return Text(shown(text))
