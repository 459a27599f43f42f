"""A skill and a lexicon → the grammar that a local model's replies are held to.

Grammars are in llguidance's Lark dialect, where a terminal may be any regular expression. The model
still chooses: it is only kept from what the grammar cannot go on from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from selma.errors import ConfigError
from selma.plainfiles import plain_text
from selma.prompts.skills import Skill

MOST_BYTES = 1_000_000
"""Of a lexicon or a grammar."""

_GRAMMAR_ENDINGS = (".ebnf", ".lark")


def reply_grammar(skill: Skill, lexicon: str, *, first: int, asked: int) -> str:
    """A grammar of replies that continue a list at number `first` with `asked` captions.

    `lexicon` is "toybox" or the path of a file: of words, or (.ebnf, .lark) of a grammar whose rule
    `caption` is one text. ConfigError if it cannot be used.
    """
    rules = caption_rules(skill, lexicon)
    numbered = [f'"\\n{n}. " caption' for n in range(first + 1, first + asked)]
    grammar = "\n".join((" ".join(('start: " " caption', *numbered)), rules))
    _check(grammar, skill=skill, lexicon=lexicon)
    return grammar


def caption_rules(skill: Skill, lexicon: str) -> str:
    """The rules below `caption`, for one skill."""
    if lexicon == "toybox":
        if skill.grammar is not None:
            return skill.grammar
        from selma.toybox.lexicon import words

        return _sentences(words(), most=skill.max_words)
    text = _text(Path(lexicon))
    if lexicon.endswith(_GRAMMAR_ENDINGS):
        return text
    return _sentences(text.split(), most=skill.max_words)


def _sentences(words: Iterable[str], *, most: int) -> str:
    """Two to `most` of these words, with commas between where the model wants them."""
    choices = " | ".join(json.dumps(word, ensure_ascii=False) for word in sorted(set(words)))
    if not choices:
        raise ConfigError("A lexicon needs at least one word, but prompts.lexicon has none.")
    return (
        "caption: CAPTION\n"
        f'CAPTION: WORD ((", " | " ") WORD){{1,{max(most - 1, 1)}}} "."?\n'
        f"WORD: {choices}\n"
    )


def _text(path: Path) -> str:
    try:
        return plain_text(path, most=MOST_BYTES, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f'prompts.lexicon must be "toybox" or a text file, but {path} cannot be read: {error}.'
        ) from error


def _check(grammar: str, *, skill: Skill, lexicon: str) -> None:
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(grammar)
    if problem:
        problem = " ".join(problem.split())[:400]
        raise ConfigError(
            f"The grammar of skill {skill.name!r} with lexicon {lexicon!r} is not valid: {problem}"
        )
