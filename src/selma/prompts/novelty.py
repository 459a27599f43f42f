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

from rapidfuzz.distance import LCSseq

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


def f_measure(a: str, b: str) -> float:
    """ROUGE-L's F of two texts, in [0, 1]; 0 where one of them has no words."""
    first, second = unicode_words(a), unicode_words(b)
    if not first or not second:
        return 0.0
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))


class SimilarityIndex:
    """Texts kept so far; tells whether a new one is too similar to any of them.

    `threshold` is in [0, 1]; too similar is F above it. Texts without words are similar to none.
    """

    def __init__(self, threshold: float, arithmetic: Arithmetic = "exact") -> None:
        self._arithmetic = arithmetic
        self._threshold = Fraction(str(threshold))  # 0.8 is meant as 8/10, not as its float
        self._word_ids: dict[str, int] = {}
        self._ranks: dict[tuple[int, int], int] = {}
        self._texts: list[str] = []
        self._holders: defaultdict[int, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Keeps a text, similar or not."""
        coded = self._code(text, learn=True)
        for rank in self._rare(coded, learn=True):
            self._holders[rank].append(len(self._texts))
        self._texts.append(coded)

    def similar(self, text: str) -> bool:
        """Whether F of this text and any kept one is above the threshold."""
        coded = self._code(text)
        seen: set[int] = set()
        for rank in self._rare(coded):
            for index in self._holders.get(rank, ()):
                if index not in seen:
                    seen.add(index)
                    if self._too_close(coded, self._texts[index]):
                        return True
        return False

    def _too_close(self, a: str, b: str) -> bool:
        needed = self._needed(len(a), len(b))
        if needed > min(len(a), len(b)):
            return False
        return bool(LCSseq.similarity(a, b, score_cutoff=needed) >= needed)

    def _code(self, text: str, *, learn: bool = False) -> str:
        """One character for each word: rapidfuzz compares strings faster than lists."""
        codes = []
        for word in words_for(text, self._arithmetic):
            number = self._word_ids.get(word)
            if number is None:
                # A word nobody has used matches nothing; two such words need not differ.
                number = len(self._word_ids) + 1 if learn else 0
                if learn:
                    self._word_ids[word] = number
            codes.append(chr(number if number < 0xD800 else number + 0x800))
        return "".join(codes)

    def _rare(self, coded: str, *, learn: bool = False) -> list[int]:
        """The ranks of a text's rarest words: two similar texts share at least one of these.

        A pair over the threshold has at least `least` words in common, whatever the other's length;
        so if every text is ordered by one fixed order, the first len - least + 1 of both must meet
        (prefix filtering, Chaudhuri et al. 2006). Words first seen late stand first: rare ones.
        """
        times: Counter[str] = Counter()
        ranks = []
        for character in coded:
            times[character] += 1
            key = (ord(character), times[character])
            rank = self._ranks.get(key)
            if rank is None and learn:
                rank = self._ranks[key] = len(self._ranks)
            ranks.append(len(self._ranks) if rank is None else rank)
        return sorted(ranks, reverse=True)[: len(coded) - self._least(len(coded)) + 1]

    def _least(self, m: int) -> int:
        """The fewest common words that any similar text must share with one of m words."""
        # The shorter the other text, the fewer; it has at least as many words as are shared.
        return next((n for n in range(1, m) if self._needed(m, n) <= n), max(m, 1))

    def _needed(self, m: int, n: int) -> int:
        return _needed(m, n, self._threshold, self._arithmetic)


@lru_cache(maxsize=65536)
def _needed(m: int, n: int, threshold: Fraction, arithmetic: Arithmetic) -> int:
    """The fewest common words that put F over the threshold; more than min(m, n) if none can."""
    # Floats are within a hair of the exact bound: begin one below it.
    common = max(1, int(threshold * (m + n) / 2) - 1)
    while common <= min(m, n) and not over(common, m, n, threshold, arithmetic):
        common += 1
    return common
