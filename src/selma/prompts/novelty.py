"""Whether a text says nearly what another one says: ROUGE-L against all texts kept so far.

ROUGE-L's F of two texts with m and n words is 2 L / (m + n), L their longest common subsequence of
words. Most pairs are told apart by their lengths and their rarest words, before L is computed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import extract_iter

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
    """

    def __init__(self, threshold: float, arithmetic: Arithmetic = "exact") -> None:
        self._arithmetic = arithmetic
        self._threshold = Fraction(str(threshold))  # 0.8 is meant as 8/10, not as its float
        self._cutoff = max(0.0, threshold - 1e-6)
        self._characters: dict[str, str] = {}
        self._holders: defaultdict[str, list[str]] = defaultdict(list)
        self._count = 0
        self._last: tuple[str, str, list[str]] | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        """Keeps a text, similar or not."""
        coded, rare = self._coded(text)
        for word in rare:
            self._holders[word].append(coded)
        self._count += 1

    def similar(self, text: str) -> bool:
        """Whether F of this text and any kept one is above the threshold."""
        coded, rare = self._coded(text)
        near = set[str]().union(*(self._holders[word] for word in rare if word in self._holders))
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

    def _coded(self, text: str) -> tuple[str, list[str]]:
        """The text with one character for each word, which rapidfuzz compares fast, and its rarest
        words. A text that was asked about is mostly added next."""
        if self._last is None or self._last[0] != text:
            coded = "".join(map(self._character, words_for(text, self._arithmetic)))
            self._last = (text, coded, self._rare(coded))
        return self._last[1:]

    def _character(self, word: str) -> str:
        character = self._characters.get(word)
        if character is None:
            number = len(self._characters) + 1
            character = chr(number if number < 0xD800 else number + 0x800)  # surrogates are no text
            self._characters[word] = character
        return character

    def _rare(self, coded: str) -> list[str]:
        """A text's rarest words, a word's second use as "ww": similar texts share one of them.

        A pair over the threshold has at least `least` words in common, whatever the other's length;
        so if every text is ordered by one fixed order, the first len - least + 1 of both must meet
        (prefix filtering, Chaudhuri et al. 2006). Repeated words stand first, then those that were
        first seen late: rare ones.
        """
        words: list[str]
        if len(set(coded)) == len(coded):
            words = sorted(coded, reverse=True)
        else:
            times = Counter(coded)
            uses = (word * n for word in times for n in range(1, times[word] + 1))
            words = sorted(uses, key=lambda use: (len(use), use), reverse=True)
        return words[: len(coded) - _least(len(coded), self._threshold, self._arithmetic) + 1]

    def _needed(self, m: int, n: int) -> int:
        return _needed(m, n, self._threshold, self._arithmetic)


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
