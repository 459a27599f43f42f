"""What every reply of a language model is freed from before it is read.

A reply is data: nothing in it is obeyed, formatted or used as a path.
"""

from __future__ import annotations

import re
import unicodedata

_MAX_CHARACTERS = 200_000  # far above any honest reply; a longer one is cut here
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"^\s*(```|~~~)[\w-]*\s*$")
"""A line that opens or closes a block of code."""

REFUSAL = re.compile(
    r"^\W*(i['’]?m (very |really |so )?sorry|(i am|we are) (very )?sorry|sorry[,.!]|"
    r"i apologi[sz]e|my apologies|i['’]?m (unable|not able)|unfortunately,? i|"
    r"(i|we) (can ?not|can['’]t|won['’]t|will not|am (unable|not able)|must decline)|"
    r"as an? (ai|artificial|language model|assistant))(\b|(?<=\W))",
    re.IGNORECASE,
)
"""The beginning of a reply that declines."""


def readable(text: str) -> str:
    """Without thoughts, carriage returns, control characters and marks that turn the direction."""
    text = _THOUGHT.sub("", text[:_MAX_CHARACTERS])
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    return "".join(c for c in text if c in "\n\t" or not _unprintable(c))


def _unprintable(character: str) -> bool:
    category = unicodedata.category(character)
    # ZWNJ and ZWJ (Cf) belong to the spelling of Persian, Indic scripts and emoji.
    return category in ("Cc", "Cs", "Co", "Cn") or (
        category == "Cf" and character not in "\u200c\u200d"
    )
