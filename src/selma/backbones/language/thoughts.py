"""A reply without what its model thought before it answered, however that is marked.

A thought is what a closing tag ends (its opening one may have been the chat template's), or what a
channel or heading names so. A tag between quotes is a word on a thing, and no tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Answer(NamedTuple):
    """What a reply says, whether a thought was taken from it, and whether that never ended."""

    text: str
    thought: bool
    open: bool


THOUGHT = "<think>"
"""A tag that opens a thought."""

_ROOT = (
    r"think|thought|(?<![a-z])cot(?![a-z])|draft|reason|reflect|scratch_?pad|monolog|analys|brainstorm|deliberat|ponder|planning"
    r"|denk|gedank|pensa|pensée|réflexion|raison|razona|ragion|мысл|рассужд|思考|推理|思维|생각|추론"
)
_END = r"end(?:_of)?[_▁ -]"
_TAG = re.compile(
    r"(?P<bracket>[<\[◁【])\s*[|｜]?\s*"
    rf"(?P<end>/\s*|{_END})?(?:(?:begin|start)(?:_of)?[_▁ -])?(?:\w+:)?"
    rf"(?P<name>[\w-]{{0,20}}?(?:{_ROOT})[\w-]{{0,20}}?)(?P<past>[_▁]end)?"
    r"(?P<attributes>\s+[\w-]+\s*=[^<>\[\]\n]{0,200})?\s*[|｜]?\s*(?:>|\]|▷|】)",
    re.IGNORECASE,
)
_FOLDED = re.compile(
    rf"<details\b(?=[^>]*(?:{_ROOT})|[^>]*>\s*<summary>[^<]*(?:{_ROOT})).*?(?:</details>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_FENCED = re.compile(
    rf"^[ \t]*(```|~~~)[ \t]*(?:{_ROOT})\w*[ \t]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)[^\n]*?<\|message\|>(?P<body>.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_OPEN_CHANNEL = re.compile(r"<\|channel>\s*(?:thought|analysis|\w*think\w*)\b", re.IGNORECASE)
_BARE_CHANNELS = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z])")
_THINKS = re.compile(
    r"\W*(?:(?:here(?: is|'s|’s)|this is) my |my |the )?"
    r"(?:(?:thinking|thought|reasoning)(?: process)?|thoughts|analysis|brainstorm(?:ing)?"
    r"|gedanken(?:gang)?|réflexion|razonamiento|思考(?:过程)?)\W*",
    re.IGNORECASE,
)
_ANSWERS = re.compile(
    r"\W*(?:(?:here(?: is|'s|’s| are)|this is|these are) (?:my |the )|my |the )?(?:final )?"
    r"(?:(?:answer|response|output|result|list|captions?|prompts?|antwort|réponse|respuesta"
    r"|答案|回答|最终答案)s?|facts|tuples|dependencies|questions(?: and answers)?)\W*",
    re.IGNORECASE,
)
_CONTAINER = re.compile(
    r"^[ \t]*<[|｜]?(?:begin_of_|start_)?(?P<name>(?:final[_ ]?)?(?:answer|response|output|solution"
    r"|result|conclusion)|final)[|｜]?>",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWERS_HERE = re.compile(
    r"\W*(?:final )?(?:answer|response|output|result|antwort|réponse|respuesta|答案|回答|最终答案)"
    r"\W*[:：][ \t*_]*(?=\S)",
    re.IGNORECASE,
)
"""A label of the answer, on the line on which this begins."""
_QUESTION = re.compile(
    r"^[^\w\n]{0,8}q(?:uestion)?[^\w\n]{0,3}\d{0,3}[^\w\n]{0,3}[:：]", re.IGNORECASE
)
"""A label of a question; an answer below one is the question's, not the reply's."""
_ESCAPED = re.compile(r"&lt;(/?[^\W\d][\w:|-]{0,40})&gt;")
_ELEMENT = re.compile(
    r"\s*(?P<bracket>[<\[])(?P<name>[^\W\d][\w-]{0,30})(?:\s[^<>\[\]\n]*)?[>\]](?P<body>.*?)"
    r"(?P=bracket)/(?P=name)\s*[>\]]",
    re.IGNORECASE | re.DOTALL,
)
_CONTENT = re.compile(
    r"caption|prompt|descri|(?<!con)text|sentence|scene|narrat|content|value|title|list|item|output"
    r"|answer|respon|result|solution|final|image|photo|picture|example|entr|row|data|xml|root|body"
    r"|html|document|message|reply|line|variant|option|table|head|question"
    r"|\A(?:[apbiqsu]|li|ul|ol|div|span|em|strong|code|pre|br|h[1-6]|t[dhr]|d[dlt]|small|mark|center)\Z",
    re.IGNORECASE,
)
"""Names of tags around answers, and HTML's."""
_LISTED = re.compile(
    r"^\s*(?:[(\[*_]*(?:[^\W\d]{1,12}\s)?\d+[*_]*\s?[.):|\]]+[*_]*|[-*•])\s"
    rf"|{_QUESTION.pattern}|\A\s*[\[{{<]",
    re.IGNORECASE | re.MULTILINE,
)
_PROBE = "0"
_QUOTES = "\"'`“”‘’„«»「」"


def answer(text: str) -> Answer:
    """The reply without thoughts; only what is between the tags of an answer, if it has such."""
    text = _ESCAPED.sub(r"<\1>", text)
    rest = _without(text)
    # What is put behind a reply belongs to a thought that is open there.
    closed = rest == text or _without(f"{text}\n{_PROBE}").endswith(_PROBE)
    return Answer(_in_container(rest), rest.strip() != text.strip(), not closed)


def _without(text: str) -> str:
    for take in (_of_channels, _of_open_channel, _of_blocks, _of_tags, _of_elements, _of_headings):
        text = take(text)
    return text


def marks_thought(text: str) -> bool:
    """Whether anything in the text marks a thought."""
    return "<|channel" in text or "channel|>" in text or _TAG.search(text) is not None


def opens_thought(text: str) -> bool:
    """Whether a chat template's text ends within a thought that it has opened."""
    tags = list(_TAG.finditer(text))
    return bool(tags) and not _closes(tags[-1]) and not text[tags[-1].end() :].strip()


def _of_channels(text: str) -> str:
    """The bodies of the final channel; of a text without channels, the text."""
    if "<|channel|>" in text:
        bodies = [m["body"] for m in _CHANNEL.finditer(text) if m["name"].lower() == "final"]
        return "\n".join(bodies)
    if _BARE_CHANNELS.match(text):  # the special tokens were left out
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    return text


def _of_open_channel(text: str) -> str:
    """Gemma's way: <|channel>thought ... <channel|>."""
    before, mark, after = text.rpartition("<channel|>")
    opened = _OPEN_CHANNEL.search(text)
    if mark:
        return (before[: opened.start()] if opened else "") + after
    return text[: opened.start()] if opened else text


def _of_blocks(text: str) -> str:
    return _FENCED.sub("", _FOLDED.sub("", text))


def _of_tags(text: str) -> str:
    """What stands outside all tags; what a closing tag ends begins at the start of the text if
    nothing opens it."""
    tags = list(_tags(text))
    parts: list[str] = []
    outside = 0  # where the text that is no thought goes on
    opened: re.Match[str] | None = None
    for number, tag in enumerate(tags):
        if _closes(tag):
            if opened is None:
                parts.clear()
            elif _name(opened) != _name(tag) and any(
                _closes(later) and _name(later) == _name(opened) for later in tags[number + 1 :]
            ):
                continue  # another thought inside of this one
            opened, outside = None, tag.end()
        elif opened is None and _opens(text, tag, tags[number + 1 :]):
            parts.append(text[outside : tag.start()])
            opened = tag
    if opened is None:
        parts.append(text[outside:])
    return "".join(parts)


def _tags(text: str) -> Iterator[re.Match[str]]:
    """The tags that are not words between quotes."""
    for tag in _TAG.finditer(text):
        before, after = text[: tag.start()][-1:], text[tag.end() :][:1]
        quoted = before and after and before in _QUOTES and after in _QUOTES
        if not quoted and not (_closes(tag) and after and after in _QUOTES and after != "`"):
            yield tag


def _opens(text: str, tag: re.Match[str], later: list[re.Match[str]]) -> bool:
    """An opening tag that nothing closes is one at the beginning of a line alone."""
    if any(_closes(other) and _name(other) == _name(tag) for other in later):
        return True
    starts_line = not text[: tag.start()].rpartition("\n")[2].strip()
    plain = tag["bracket"] in "<◁" or tag["name"].lower() in ("think", "thinking", "thought")
    return (starts_line and plain) or any(map(_closes, later))


def _closes(tag: re.Match[str]) -> bool:
    return tag["end"] is not None or tag["past"] is not None


def _name(tag: re.Match[str]) -> str:
    return str(tag["name"]).lower()


def _of_elements(text: str) -> str:
    """What follows elements of any name that are closed before the answer begins."""
    while (element := _ELEMENT.match(text)) and _is_aside(element, text[element.end() :]):
        text = text[element.end() :]
    return text


def _is_aside(element: re.Match[str], rest: str) -> bool:
    """Whether an element holds no answer: its name comes once and is none of an answer's, and what
    follows is a list, or more than a line where the element has no list."""
    name = re.sub(r"[\d_-]+$", "", element["name"])
    again = re.search(rf"[<\[]{re.escape(name)}[\d_-]*[\s>\]]", rest, re.IGNORECASE)
    if _CONTENT.search(name) or again or not element["body"].strip():
        return False
    lines = [line for line in rest.split("\n") if line.strip()]
    listed = _LISTED.search(rest) is not None
    return listed or (len(lines) > 1 and _LISTED.search(element["body"]) is None)


def _of_headings(text: str) -> str:
    """What follows a heading or label that names the answer, where the first line begins with one
    that names a thought."""
    lines = text.strip().split("\n")
    labelled = _THINKS.fullmatch(re.split("[:：]", lines[0])[0]) and re.search("[:：]", lines[0])
    heading = _is_heading(lines[0], _THINKS)
    if len(lines) < 2 or not (heading or labelled):
        return text
    question = next((n for n, line in enumerate(lines) if _QUESTION.match(line)), len(lines))
    for n, line in reversed([*enumerate(lines)]):
        if _is_heading(line, _ANSWERS):
            return "\n".join(lines[n + 1 :])
        if 0 < n < question and (label := _ANSWERS_HERE.match(line)):
            return "\n".join((line[label.end() :], *lines[n + 1 :]))
    return "" if heading else text


def _is_heading(line: str, names: re.Pattern[str]) -> bool:
    marked = line.rstrip().endswith((":", "：", "**")) or line.lstrip().startswith("#")
    return marked and names.fullmatch(line) is not None


def _in_container(text: str) -> str:
    opened = list(_CONTAINER.finditer(text))
    if not opened:
        return text
    name = re.escape(opened[-1]["name"])
    inside = text[opened[-1].end() :]
    end = re.search(rf"<[|｜]?(?:/|end_of_|end_)\s*{name}[|｜]?>", inside, re.IGNORECASE)
    return inside[: end.start()] if end else inside
