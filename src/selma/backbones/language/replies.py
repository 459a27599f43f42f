"""What every reply of a language model is freed from before it is read.

A reply is data: nothing in it is obeyed, formatted or used as a path.
"""

from __future__ import annotations

import re
import unicodedata

from selma.backbones.language.thoughts import Answer, answer
from selma.texts import printable

_MAX_CHARACTERS = 200_000  # far above any honest reply; a longer one is cut here
FENCE = re.compile(r"^\s*(```|~~~)[\w-]*\s*$")
"""A line that opens or closes a block of code."""

REFUSAL = re.compile(
    r"^\W*(i['’]?m (very |really |so )?sorry|(i am|we are) (very )?sorry|sorry[,.!]|"
    r"i apologi[sz]e|my apologies|i['’]?m (unable|not able)|unfortunately,? i|"
    r"(i|we) (can ?not|can['’]t|won['’]t|will not|am (unable|not able)|must decline)|"
    r"as an? (ai|artificial|language model|assistant)|"
    r"es tut mir leid|das kann ich (leider )?nicht|je (suis|regrette|ne peux)|désolée?|"
    r"lo siento|no puedo|mi dispiace|non posso|desculpe|lamento|não posso|"
    r"извините|к сожалению|я не могу)(\b|(?<=\W))|"
    r"^\W*(很?抱歉|对不起|對不起|我无法|我不能|申し訳|すみません|죄송)",
    re.IGNORECASE,
)
"""The beginning of a reply that declines."""

_TURN = re.compile(
    r"<[|｜](?:im_end|im_start|eot_id|eom_id|eos|endoftext|end|return|call|user|start_header_id"
    r"|end[_▁]of[_▁](?:text|turn|sentence))[|｜]>|<end_of_turn>|<start_of_turn>|<eos>|</s>"
)
"""Where a turn ends; what follows is another speaker's, whom the model made up."""
_GAP = re.compile(r"[^\S\n]{64,}|\n{4,}")
"""Blanks beyond any layout."""
_TOKEN = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|<bos>|^<s>")


def readable(text: str) -> str:
    """Without thoughts, later turns, carriage returns, control characters and marks that turn the
    direction."""
    return readable_answer(text).text


def readable_answer(text: str) -> Answer:
    """The same, and whether there was a thought, and one that never ended."""
    text = text[:_MAX_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n")
    text = _GAP.sub(lambda gap: gap[0][:3], text)
    rest, thought, unended = answer(text)
    rest = _first_turn(rest).replace("\u2028", "\n").replace("\u2029", "\n")
    return Answer(printable(unicodedata.normalize("NFC", rest)), thought, unended)


def _first_turn(text: str) -> str:
    for end in _TURN.finditer(text):
        if text[: end.start()].strip():
            text = text[: end.start()]
            break
    return _TOKEN.sub("", _TURN.sub("", text))
