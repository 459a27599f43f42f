"""Which words belong to which noun: SynGen's three rules (arXiv:2306.08877), and noun chunks.

A set is a list of numbers of words, its noun last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from selma.records.parses import Parse, Word

MODIFIERS = frozenset({"amod", "nmod", "compound", "npadvmod", "advmod", "acomp"})
NOUNS = ("NOUN", "PROPN")
VERBS = ("AUX", "VERB")
DESCRIBING = ("ADJ", "ADV", "VERB", *NOUNS)
"""What modifies within a noun chunk: no article, number or conjunction."""
Set = list[int]


class Arcs:
    """The dependency tree of a parse, from heads to what depends on them."""

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self.children: list[list[int]] = [[] for _ in words]
        for number, word in enumerate(words):
            if word.head != number:
                self.children[word.head].append(number)

    def walk(
        self, number: int, relations: Collection[str], through: Collection[str] = ()
    ) -> Iterator[int]:
        """The word and what is kept below it, depth first: by these relations, or as conjuncts.
        through: tags of words that are not kept, but walked through."""
        if self.words[number].tag not in through:
            yield number
        for child in self.children[number]:
            if self.words[child].relation in {*relations, "conj"}:
                yield from self.walk(child, relations, through)

    def related(self, number: int, relations: Collection[str]) -> list[int]:
        """The word's children with one of these relations."""
        return [c for c in self.children[number] if self.words[c].relation in relations]


def of_noun_phrases(arcs: Arcs) -> list[Set]:
    """Rule A: each noun with its modifiers, "a black and white umbrella"."""
    return _of_nouns(arcs, MODIFIERS)


def of_relative_clauses(arcs: Arcs, *, released: bool = False) -> list[Set]:
    """Rule C: modifiers in a relative clause, "a dog that is red".

    released: as the code, which returns within its loop and so looks at the first noun alone.
    """
    sets = _of_nouns(arcs, MODIFIERS | {"relcl"}, VERBS, first_only=released)
    return [words for words in sets if len(words) > 1]


def _of_nouns(
    arcs: Arcs, relations: Collection[str], through: Collection[str] = (), first_only: bool = False
) -> list[Set]:
    nouns = [
        number
        for number, word in enumerate(arcs.words)
        if word.tag in NOUNS and word.relation not in relations
    ]
    sets = []
    for noun in nouns[:1] if first_only else nouns:
        modifiers = [
            word
            for child in arcs.related(noun, relations)
            for word in arcs.walk(child, relations, through)
        ]
        if modifiers:
            sets.append([*modifiers, noun])
    return sets


def of_copulas(arcs: Arcs, *, released: bool = False) -> list[Set]:
    """Rule B: "the dog is red". The noun comes last; released: whatever word does."""
    sets = []
    for number, word in enumerate(arcs.words):
        if word.tag != "AUX" or word.relation in MODIFIERS:
            continue
        parts = [
            child
            for child in arcs.children[number]
            if arcs.words[child].tag not in VERBS
            and (arcs.words[child].relation in MODIFIERS or arcs.words[child].tag in NOUNS)
        ]
        if len(parts) < 2:
            continue
        words = [w for part in parts for w in arcs.walk(part, MODIFIERS, ("AUX",))]
        nouns = [part for part in parts if arcs.words[part].tag in NOUNS]
        if nouns and not released:
            words = [*(w for w in words if w != nouns[0]), nouns[0]]
        sets.append(words)
    return sets


def of_chunks(parse: Parse) -> list[Set]:
    """Each noun chunk that describes its noun: its adjectives, participles and nouns before it."""
    sets = []
    for first, end in parse.chunks:
        *before, noun = range(first, end)
        modifiers = [number for number in before if parse.words[number].tag in DESCRIBING]
        if modifiers and parse.words[noun].tag in NOUNS:
            sets.append([*modifiers, noun])
    return sets


def joined(sets: Sequence[Set]) -> list[Set]:
    """Sets that share a word are one, whose noun is that of the first of them."""
    disjoint: list[Set] = []
    for words in sets:
        sharing = [other for other in disjoint if set(other) & set(words)]
        if not sharing:
            disjoint.append(list(dict.fromkeys(words)))
            continue
        noun = sharing[0][-1]
        union = dict.fromkeys(word for other in (*sharing, words) for word in other)
        disjoint[disjoint.index(sharing[0])] = [*(w for w in union if w != noun), noun]
        disjoint = [other for other in disjoint if other not in sharing[1:]]
    return disjoint


def word_sets(parse: Parse, *, reading: str, entities: bool = False) -> list[Set]:
    """The sets of a prompt by one of the readings of `config.guides.SynGenConfig`.

    entities: nouns that are in no set are sets of their own.
    """
    arcs, released = Arcs(parse.words), reading == "released"
    phrases = of_chunks(parse) if reading == "chunks" else of_noun_phrases(arcs)
    clauses = of_relative_clauses(arcs, released=released)
    sets = joined([*phrases, *of_copulas(arcs, released=released), *clauses])
    if entities:
        taken = {word for words in sets for word in words}
        nouns = (n for n, word in enumerate(parse.words) if word.tag in NOUNS)
        sets += [[noun] for noun in nouns if noun not in taken]
    return sets
