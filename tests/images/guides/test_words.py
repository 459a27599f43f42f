"""Which words belong together, by each reading."""

from __future__ import annotations

import pytest

from selma.images.guides.noun_phrases import noun_phrases
from selma.images.guides.words import joined, word_sets
from selma.records.parses import Parse, Word
from selma.toybox.phrases import parse


def tree(*rows: str, chunks: tuple[tuple[int, int], ...] = ()) -> tuple[str, Parse]:
    """A text and its parse, of "word TAG relation head" a row."""
    text, words = "", []
    for row in rows:
        word, tag, relation, head = row.split()
        span = (len(text), len(text) + len(word))
        words.append(Word(span=span, tag=tag, relation=relation, head=int(head)))
        text += f"{word} "
    return text.strip(), Parse(words=tuple(words), chunks=chunks)


def named(text: str, parsed: Parse, **how: object) -> list[str]:
    """Sets as words, in the order of each."""
    sets = word_sets(parsed, **{"reading": "arcs", **how})  # type: ignore[arg-type]
    return [" ".join(text[slice(*parsed.words[n].span)] for n in words) for words in sets]


UMBRELLA = tree(
    "a DET det 4",
    "black ADJ amod 4",
    "and CCONJ cc 1",
    "white ADJ conj 1",
    "umbrella NOUN ROOT 4",
    chunks=((0, 5),),
)
COPULA = tree(
    "the DET det 2",
    "small ADJ amod 2",
    "dog NOUN nsubj 3",
    "is AUX ROOT 3",
    "red ADJ acomp 3",
    "and CCONJ cc 3",
    "the DET det 7",
    "cat NOUN nsubj 8",
    "is AUX conj 3",
    "blue ADJ acomp 8",
    chunks=((0, 3), (6, 8)),
)
CLAUSES = tree(
    "a DET det 1",
    "dog NOUN ROOT 1",
    "that PRON nsubj 3",
    "is AUX relcl 1",
    "red ADJ acomp 3",
    "beside ADP prep 1",
    "a DET det 7",
    "cat NOUN pobj 5",
    "that PRON nsubj 9",
    "is AUX relcl 7",
    "blue ADJ acomp 9",
    chunks=((0, 2), (6, 8)),
)


@pytest.mark.parametrize("reading", ["chunks", "arcs", "released"])
def test_conjuncts_modify_as_well(reading: str) -> None:
    assert named(*UMBRELLA, reading=reading) == ["black white umbrella"]


@pytest.mark.parametrize("reading", ["chunks", "arcs"])
def test_a_copulas_noun_is_its_subject(reading: str) -> None:
    assert named(*COPULA, reading=reading) == ["small red dog", "blue cat"]


def test_the_released_copula_ends_with_the_adjective() -> None:
    # The first set's noun stays last where sets are joined; a copula alone ends as it comes.
    assert named(*COPULA, reading="released") == ["small red dog", "cat blue"]


def test_the_released_code_looks_for_clauses_at_the_first_noun_only() -> None:
    assert named(*CLAUSES) == ["red dog", "blue cat"]
    assert named(*CLAUSES, reading="chunks") == ["red dog", "blue cat"]
    assert named(*CLAUSES, reading="released") == ["red dog"]


def test_nouns_alone_are_sets_if_asked_for() -> None:
    text, parsed = tree("dogs NOUN ROOT 0", "run VERB acl 0")
    assert named(text, parsed) == []
    assert named(text, parsed, entities=True) == ["dogs"]


def test_sets_that_share_a_word_are_one() -> None:
    assert joined([[0, 2], [5, 6], [2, 4, 6]]) == [[0, 5, 6, 4, 2]]
    assert joined([[1, 2], [3, 4]]) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("reading", ["chunks", "arcs"])
@pytest.mark.parametrize(
    ("caption", "sets"),
    [
        ("A drawing of two sleeping red dogs left of a cup.", ["sleeping red dogs"]),
        ("a red star and a blue fish in the sea", ["red star", "blue fish"]),
        ("red dog left of blue cup, grass, 4k, cute icon", ["red dog", "blue cup"]),
        ("a dog", []),
        ("a photograph of a red zebra", []),
    ],
)
def test_toyboxs_grammar_parses_its_captions(caption: str, sets: list[str], reading: str) -> None:
    assert named(caption, parse(caption), reading=reading) == sets


def phrases(text: str, parsed: Parse, **how: bool) -> list[str]:
    return [text[slice(*span)] for span in noun_phrases(parsed, text, **how)]


def test_noun_phrases_have_more_than_one_word_and_are_not_the_prompt() -> None:
    caption = "two sleeping red dogs left of a cup on the sand"
    assert phrases(caption, parse(caption)) == ["two sleeping red dogs", "a cup"]
    tags = "red dog, star, sky"
    assert phrases(tags, parse(tags)) == ["red dog"]
    assert phrases(*UMBRELLA) == []


def test_subtrees_are_phrases_if_asked_for_and_directions_never() -> None:
    text, parsed = tree(
        "imagine VERB ROOT 0",
        "a DET det 2",
        "dog NOUN dobj 0",
        "on ADP prep 2",
        "the DET det 5",
        "left NOUN pobj 3",
        chunks=((1, 3), (4, 6)),
    )
    assert phrases(text, parsed) == ["a dog"]
    assert phrases(text, parsed, subtrees=True) == ["a dog on the left", "a dog"]
