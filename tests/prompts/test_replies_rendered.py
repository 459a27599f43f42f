"""Whatever list a model makes of captions, in whatever dress: it is read as these captions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selma.prompts.parsing import parse_reply

BEGINNINGS = [
    *("a red dog", "3 cats", "A red kite", "I saw a boat", "C major chord", "12 balloons"),
    *("2-story house", "3D render of a teapot", "½ cup of milk", "X marks the spot", "1950s diner"),
    *("Two spoons", "one of them", "Thinking robots", "Here is a lamp", "J. S. Bach", "50% off"),
    *("ein roter Hund", "un chat noir", "一只灰猫", "рыжий кот", "قطة رمادية", "灰色の猫"),
    *("Close-up: a bee", "a sign that says {open}", "a café's door", "a (torn) flag"),
    *("회색 고양이", "A+ on a test", "the old"),
]  # fmt: skip
ENDS = [
    *("on a table", "near a wall, at dusk", "in the rain", "by a lake – far away", "with a hat"),
    *("in front of door 4", "under 3.5 stars", "beside a sign", "for $5", "at 12:30", "(in oil)"),
    *("above the town", "with 'love'", 'that says "no"', "在桌子上", "под дождём", "!", "?"),
]  # fmt: skip
CAPTIONS = st.lists(
    st.builds("{} {}".format, st.sampled_from(BEGINNINGS), st.sampled_from(ENDS)),
    min_size=2,
    max_size=7,
    unique=True,
)

ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii")
CIRCLED, BLACK = "①②③④⑤⑥⑦", "❶❷❸❹❺❻❼"
SHAPES, EMOJI = "○◆■➤▶✦●", ("🐶", "🚗", "🌳", "⛵", "🏠", "❤️", "👩‍🎨")
MARKERS: dict[str, Callable[[int], str]] = {
    "decimal": lambda n: f"{n + 1}. ",
    "from four": lambda n: f"{n + 4}. ",
    "parenthesis": lambda n: f"{n + 1}) ",
    "parentheses": lambda n: f"({n + 1}) ",
    "brackets": lambda n: f"[{n + 1}] ",
    "colon": lambda n: f"{n + 1}: ",
    "dash": lambda n: f"{n + 1} - ",
    "escaped": lambda n: f"{n + 1}\\. ",
    "bold number": lambda n: f"**{n + 1}.** ",
    "hash": lambda n: f"#{n + 1}: ",
    "heading": lambda n: f"### {n + 1}. ",
    "circled": lambda n: f"{CIRCLED[n]} ",
    "black circled": lambda n: f"{BLACK[n]} ",
    "keycap": lambda n: f"{n + 1}\ufe0f\u20e3 ",
    "full width": lambda n: f"{chr(0xFF11 + n)}．",
    "roman": lambda n: f"{ROMAN[n]}. ",
    "Roman": lambda n: f"({ROMAN[n].upper()}) ",
    "letter": lambda n: f"{'abcdefg'[n]}) ",
    "Letter": lambda n: f"{'ABCDEFG'[n]}. ",
    "Cyrillic": lambda n: f"{'абвгдеж'[n]}) ",
    "Korean": lambda n: f"{'가나다라마바사'[n]}. ",
    "Chinese": lambda n: f"{'一二三四五六七'[n]}、",
    "Arabic": lambda n: f"{'١٢٣٤٥٦٧'[n]}- ",
    "hyphen": lambda _: "- ",
    "asterisk": lambda _: "* ",
    "dot": lambda _: "• ",
    "quote": lambda _: "> ",
    "circle": lambda _: "○ ",
    "shapes": lambda n: f"{SHAPES[n]} ",
    "emoji": lambda n: f"{EMOJI[n]} ",
    "box": lambda _: "- [ ] ",
    "number and emoji": lambda n: f"{n + 1}. {EMOJI[n]} ",
    "label": lambda n: f"Prompt {n + 1}: ",
    "label in bold": lambda n: f"**Caption {n + 1}:** ",
    "label in German": lambda n: f"Bildidee {n + 1}: ",
    "label in Chinese": lambda n: f"提示词{n + 1}：",
    "label above": lambda n: f"**Prompt {n + 1}**\n",
    "heading above": lambda n: f"## Image {n + 1}\n",
}
WRAPPERS: dict[str, Callable[[str], str]] = {
    "bare": str,
    "quoted": '"{}"'.format,
    "curly": "“{}”".format,
    "guillemets": "« {} »".format,
    "code": "`{}`".format,
    "bold": "**{}**".format,
    "italic": "*{}*".format,
    "bold and quoted": '**"{}"**'.format,
}
BEFORE = [
    "",
    "Sure! Here are some more:\n\n",
    "Here you go:\n",
    "<think>1. Dogs?\n2. No.</think>\n",
    "Let me think.\n1. Dogs?\n</think>\n\n",
    "以下是新的提示词：\n\n",
    "# Captions\n\n",
]
AFTER = [
    "",
    "\n",
    "\n\nI hope these help!",
    "\n\nLet me know if you need more.",
    "<|im_end|>",
    "\n\n---\n\nAll of them keep to the limit of words.",
]


@pytest.mark.parametrize("marker", MARKERS.values(), ids=MARKERS.keys())
@settings(max_examples=40, deadline=None)
@given(
    captions=CAPTIONS,
    wrapper=st.sampled_from(sorted(WRAPPERS)),
    between=st.sampled_from(["\n", "\n\n", "\r\n"]),
    before=st.sampled_from(BEFORE),
    after=st.sampled_from(AFTER),
    fenced=st.booleans(),
)
def test_a_list_gives_back_its_captions(marker, captions, wrapper, between, before, after, fenced):
    captions = [text for text in captions if wrapper == "bare" or not set(text) & set("\"'`“”«»*")]
    if len(captions) < 2:
        return
    listed = between.join(marker(n) + WRAPPERS[wrapper](text) for n, text in enumerate(captions))
    if fenced:
        listed = f"```\n{listed}\n```"
    assert parse_reply(before + listed + after).captions == tuple(captions)


JSON: dict[str, Callable[[list[str]], str]] = {
    "list": json.dumps,
    "unescaped": lambda texts: json.dumps(texts, ensure_ascii=False, indent=2),
    "plural key": lambda texts: json.dumps({"prompts": texts}),
    "objects": lambda texts: json.dumps([{"id": n, "caption": t} for n, t in enumerate(texts)]),
    "numbered keys": lambda texts: json.dumps({str(n): t for n, t in enumerate(texts, 1)}),
    "lines": lambda texts: "\n".join(json.dumps({"prompt": text}) for text in texts),
    "twice": lambda texts: json.dumps(json.dumps(texts)),
    "Python": lambda texts: f"captions = {texts!r}",
    "comma too many": lambda texts: "[" + "".join(f"{json.dumps(t)},\n" for t in texts) + "]",
    "other key": lambda texts: json.dumps({"theme": "many things", "ideas": texts}),
}


@pytest.mark.parametrize("render", JSON.values(), ids=JSON.keys())
@settings(max_examples=40, deadline=None)
@given(captions=CAPTIONS, before=st.sampled_from(BEFORE), fenced=st.booleans())
def test_json_gives_back_its_captions(render, captions, before, fenced):
    listed = render(captions)
    if fenced:
        listed = f"```json\n{listed}\n```\n\nI hope these help!"
    assert parse_reply(before + listed).captions == tuple(captions)


@pytest.mark.parametrize("render", [JSON["list"], JSON["plural key"], JSON["unescaped"]])
@settings(max_examples=100, deadline=None)
@given(captions=CAPTIONS, share=st.floats(0.2, 1))
def test_json_that_is_cut_gives_its_whole_strings(render, captions, share):
    """Wherever it is cut: the first captions, each whole."""
    text = render(captions)
    cut = text[: int(len(text) * share)]
    parsed = parse_reply(cut, truncated=True)
    assert parsed.captions == tuple(captions[: len(parsed.captions)])
    ends = [text.index(json.dumps(c, ensure_ascii="\\u" in text)) for c in captions]
    assert len(parsed.captions) >= sum(end < len(cut) for end in ends) - 1


@settings(max_examples=200, deadline=None)
@example(["a red dog on a table", "3 cats on a table", "a red dog near a wall"], "roman", 606)
@given(captions=CAPTIONS, marker=st.sampled_from(sorted(MARKERS)), seed=st.integers(0, 999))
def test_a_list_that_is_cut_gives_its_first_captions(captions, marker, seed):
    lines = [MARKERS[marker](n) + caption for n, caption in enumerate(captions)]
    text, first_two = "\n".join(lines), len("\n".join(lines[:2]))
    cut = text[: random.Random(seed).randint(first_two, len(text))]  # what is marked once is not
    got = parse_reply(cut, truncated=True).captions
    assert got == tuple(captions[: len(got)])
