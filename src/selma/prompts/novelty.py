"""Whether a text says nearly what another one says: ROUGE-L against all texts kept so far.

ROUGE-L's F of two texts with m and n words is 2 L / (m + n), L their longest common subsequence of
words. It is computed only of texts that share two words out of a few chosen pairs.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import chain, combinations
from typing import Literal

from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import extract_iter

from selma.errors import DataError

Arithmetic = Literal["exact", "released"]

# Scripts written without spaces: here every character counts as a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


def rouge_words(text: str) -> list[str]:
    """rouge_score's words: lower case, everything but a-z and 0-9 separates."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def unicode_words(text: str) -> list[str]:
    """rouge_score's rule carried over to every script; for ASCII the two are equal.

    Words are runs of letters, marks and digits of any script, in folded case. In scripts without
    spaces each character is a word, and so is each symbol (an emoji).
    """
    if text.isascii():
        return rouge_words(text)
    spaced = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(character)
        if kind == "So" or (_UNSPACED.match(character) and kind[0] != "M"):
            spaced.append(f" {character} ")
        else:
            spaced.append(character if kind[0] in "LMN" else " ")
    return "".join(spaced).split()


def words_for(text: str, arithmetic: Arithmetic) -> list[str]:
    """The words that are compared. "released" keeps rouge_score's rule, which is blind to other
    scripts, and turns to `unicode_words` only where that rule sees nothing."""
    if arithmetic == "released":
        return rouge_words(text) or unicode_words(text)
    return unicode_words(text)


def over(common: int, m: int, n: int, threshold: Fraction, arithmetic: Arithmetic) -> bool:
    """Whether F > threshold for texts of m and n words with `common` words in common order."""
    if common == 0:
        return False
    if arithmetic == "exact":
        return 2 * common * threshold.denominator > threshold.numerator * (m + n)
    # rouge_score's own order of operations, so that its rounding is met bit by bit.
    precision, recall = common / m, common / n
    return 2 * precision * recall / (precision + recall) > float(threshold)


class SimilarityIndex:
    """Texts kept so far; tells whether a new one is too similar to any of them.

    `threshold` is in [0, 1]; too similar is F above it. Texts without words are similar to none.

    A text of n words that any text is similar to shares all but some e of them, whatever the
    other's length. So of e + 1 groups of its words, none of which share a word, one is whole in
    every similar text (the pigeonhole principle). Each text is held under its groups: pairs, so
    that few texts have the same, each of one of its rarest words and another.
    """

    def __init__(self, threshold: float, arithmetic: Arithmetic = "exact") -> None:
        self._arithmetic = arithmetic
        self._threshold = Fraction(str(threshold))  # 0.8 is meant as 8/10, not as its float
        self._cutoff = max(0.0, threshold - 1e-6)
        self._characters: dict[str, str] = {}
        self._holders: dict[tuple[str, ...], list[str]] = {}
        self._sizes = set[int]()
        self._times: Counter[str] = Counter()
        self._count = 0
        self._read: tuple[str, list[str]] = ("", [])
        self._last: tuple[str, str, list[str]] | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        """Keeps a text, similar or not. Raises DataError where all that are kept have more
        different words than there are characters, a million."""
        coded, words = self._coded(text, adding=True)
        self._count += 1
        if not words:
            return
        self._times.update(words)
        for group in self._groups(words):
            self._sizes.add(len(group))
            self._holders.setdefault(group, []).append(coded)

    def similar(self, text: str) -> bool:
        """Whether F of this text and any kept one is above the threshold."""
        coded, words = self._coded(text)
        groups = chain.from_iterable(combinations(words, size) for size in self._sizes)
        near = set[str]().union(*filter(None, map(self._holders.get, groups)))
        if not near:
            return False
        # rapidfuzz goes through them, in compiled code; its floats decide nothing by themselves.
        above = extract_iter(
            coded, list(near), scorer=Indel.normalized_similarity, score_cutoff=self._cutoff
        )
        return any(self._too_close(coded, other) for other, _, _ in above)

    def _too_close(self, a: str, b: str) -> bool:
        needed = self._needed(len(a), len(b))
        if needed > min(len(a), len(b)):
            return False
        return bool(LCSseq.similarity(a, b, score_cutoff=needed) >= needed)

    def _coded(self, text: str, *, adding: bool = False) -> tuple[str, list[str]]:
        """The text with one character for each word, which rapidfuzz compares fast, and these
        characters in order, a word's second use as "ww". A text that was asked about is mostly
        added next."""
        if self._read[0] != text:
            self._read = (text, words_for(text, self._arithmetic))
        if self._last is None or self._last[0] != text or (adding and _UNKNOWN in self._last[1]):
            character = self._new_character if adding else self._character
            coded = "".join(map(character, self._read[1]))
            words = sorted(coded)
            if len(set(coded)) < len(coded):
                times = Counter(coded)
                words = sorted(word * n for word in times for n in range(1, times[word] + 1))
            self._last = (text, coded, words)
        return self._last[1:]

    def _character(self, word: str) -> str:
        return self._characters.get(word, _UNKNOWN)

    def _new_character(self, word: str) -> str:
        character = self._characters.get(word)
        if character is None:
            character = self._characters[word] = _character(len(self._characters) + 1)
        return character

    def _groups(self, words: list[str]) -> Sequence[tuple[str, ...]]:
        """The groups of a text to be kept, each in the order of its words.

        Any choice is right; that of the rarest words so far leaves the fewest texts to compare. The
        rarest goes with the most frequent of the chosen ones, so that no pair is a frequent one.
        """
        count = len(words) - _least(len(words), self._threshold, self._arithmetic) + 1
        rarest = sorted(words, key=self._times.__getitem__)
        if 2 * count > len(words) or len(words) > _LONGEST_OF_PAIRS:
            return [(word,) for word in rarest[:count]]
        chosen = rarest[: 2 * count]
        return [(min(pair), max(pair)) for pair in zip(chosen, reversed(chosen), strict=True)][
            :count
        ]

    def _needed(self, m: int, n: int) -> int:
        return _needed(m, n, self._threshold, self._arithmetic)


_UNKNOWN = "\0"
"""In a text that is asked about, any word that no kept one has."""
_LONGEST_OF_PAIRS = 120
"""Words of a text that is held under pairs: all pairs of a text that may be similar to it are
looked up, here 16,000."""


def _character(number: int) -> str:
    code = number if number < 0xD800 else number + 0x800  # surrogates are no text
    if code > sys.maxunicode:
        raise DataError(
            f"Texts that are compared may have {number - 1:,} different words, but have more. "
            "Compare them in parts, such as one skill each."
        )
    return chr(code)


@lru_cache(maxsize=4096)
def _least(m: int, threshold: Fraction, arithmetic: Arithmetic) -> int:
    """The fewest common words that any similar text must share with one of m words."""
    # The shorter the other text, the fewer; it has at least as many words as are shared.
    return next((n for n in range(1, m) if _needed(m, n, threshold, arithmetic) <= n), max(m, 1))


@lru_cache(maxsize=65536)
def _needed(m: int, n: int, threshold: Fraction, arithmetic: Arithmetic) -> int:
    """The fewest common words that put F over the threshold; more than min(m, n) if none can."""
    # Floats are within a hair of the exact bound: begin one below it.
    common = max(1, int(threshold * (m + n) / 2) - 1)
    while common <= min(m, n) and not over(common, m, n, threshold, arithmetic):
        common += 1
    return common
