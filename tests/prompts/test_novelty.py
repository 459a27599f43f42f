"""The index decides as comparing with every text would, in both arithmetics."""

from __future__ import annotations

import random
import sys
from collections import Counter
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import extract_iter

from selma.errors import DataError
from selma.prompts import novelty
from selma.prompts.contamination import BenchmarkTexts, index_of
from selma.prompts.novelty import SimilarityIndex, over, rouge_words, unicode_words


def longest_common(a: list[str], b: list[str]) -> int:
    """The textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = row
        row = [0]
        for j, y in enumerate(b, 1):
            row.append(last[j - 1] + 1 if x == y else max(last[j], row[-1]))
    return row[-1]


def f_by_rouge_score(a: list[str], b: list[str]) -> float:
    """rouge_score 0.1.2, `_score_lcs` and `fmeasure`, with its order of operations."""
    if not a or not b:
        return 0.0
    common = longest_common(a, b)
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def exact_f(a: list[str], b: list[str]) -> Fraction:
    return Fraction(2 * longest_common(a, b), len(a) + len(b)) if a and b else Fraction(0)


TEXTS = st.lists(
    st.lists(st.sampled_from(list("abcdefgh")), max_size=12).map(" ".join),
    min_size=1,
    max_size=14,
)
THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])


@settings(max_examples=200, deadline=None)
@given(TEXTS, THRESHOLDS, st.sampled_from(["exact", "released"]))
def test_index_equals_comparing_with_all(texts, threshold, arithmetic):
    index = SimilarityIndex(threshold, arithmetic)
    kept: list[list[str]] = []
    for text in texts:
        words = text.split()
        if arithmetic == "exact":
            similar = any(exact_f(words, old) > Fraction(str(threshold)) for old in kept)
        else:
            similar = any(f_by_rouge_score(words, old) > threshold for old in kept)
        assert index.similar(text) == similar
        if not similar:
            index.add(text)
            kept.append(words)
    assert len(index) == len(kept)


def zipf_captions(count: int, seed: int, *, words: int = 12) -> list[str]:
    """Captions by Zipf's law over 20,000 words, a third of them near ones before."""
    draw = random.Random(seed)
    bounds = list(accumulate(1 / (rank + 3) for rank in range(20_000)))
    texts: list[str] = []
    for _ in range(count):
        if texts and draw.random() < 0.35:
            text = draw.choice(texts).split()
            for _ in range(draw.randint(1, 1 + words // 6)):
                text[draw.randrange(len(text))] = str(
                    draw.choices(range(20_000), cum_weights=bounds)[0]
                )
        else:
            length = max(2, round(draw.gauss(words, words / 3)))
            text = list(map(str, draw.choices(range(20_000), cum_weights=bounds, k=length)))
        texts.append(" ".join(text))
    return texts


def kept_by_comparing_all(texts: list[str], threshold: Fraction) -> list[str]:
    """The kept list by comparing with every text that is kept, no index between."""
    letters: dict[str, str] = {}
    kept: list[str] = []
    coded: list[str] = []
    for text in texts:
        new = "".join(letters.setdefault(word, chr(256 + len(letters))) for word in text.split())
        close = extract_iter(
            new, coded, scorer=Indel.normalized_similarity, score_cutoff=float(threshold) - 0.001
        )
        if not any(
            2 * LCSseq.similarity(new, old) > threshold * (len(new) + len(old))
            for old, _, _ in close
        ):
            kept.append(text)
            coded.append(new)
    return kept


def kept_by_index(texts: list[str], threshold: float) -> list[str]:
    index, kept = SimilarityIndex(threshold), []
    for text in texts:
        if not index.similar(text):
            index.add(text)
            kept.append(text)
    return kept


@pytest.mark.parametrize(
    ("words", "count", "threshold"),
    [(12, 1500, 0.8), (5, 800, 0.6), (40, 500, 0.8), (140, 120, 0.8)],
)
def test_texts_by_zipfs_law_are_kept_as_comparing_with_all_would(words, count, threshold):
    texts = zipf_captions(count, words, words=words)
    kept = kept_by_index(texts, threshold)
    assert kept == kept_by_comparing_all(texts, Fraction(str(threshold)))
    assert len(kept) < count


def test_ten_thousand_captions_are_kept_as_comparing_with_all_would():
    texts = zipf_captions(10_000, 1)
    assert kept_by_index(texts, 0.8) == kept_by_comparing_all(texts, Fraction(4, 5))


def test_compared_texts_grow_slower_than_kept_ones(monkeypatch):
    compared = Counter[int]()

    def counting(query, choices, **options):
        compared[size] += len(choices)
        return extract_iter(query, choices, **options)

    monkeypatch.setattr(novelty, "extract_iter", counting)
    for size in (1000, 8000):
        kept_by_index(zipf_captions(size, 3), 0.8)
    # Comparing with all would be 64 times as many; those that are near are 8 times as many.
    assert compared[8000] < 16 * compared[1000]
    assert compared[8000] < 8000 * 4


def test_words_that_are_asked_about_take_no_room():
    index = SimilarityIndex(0.8)
    index.add("a red dog")
    assert not any(index.similar(f"word{n} other{n}") for n in range(100))
    assert len(index._characters) == 3
    assert not index.similar("some blue dog")  # unknown words are no word of a kept text
    index.add("some blue dog")
    assert index.similar("some blue dog")


def test_more_words_than_characters_are_an_error():
    index = SimilarityIndex(0.8)
    index._characters = dict.fromkeys(range(sys.maxunicode - 0x800), "x")
    with pytest.raises(DataError, match="may have 1,112,063 different words"):
        index.add("a")


def test_arithmetics_differ_only_where_floats_exceed_the_threshold_itself():
    eight_of_ten = ("a b c d e f g h i j", "a b c d e f g h x y")
    verdicts = {}
    for arithmetic in ("exact", "released"):
        index = SimilarityIndex(0.8, arithmetic)
        index.add(eight_of_ten[0])
        verdicts[arithmetic] = index.similar(eight_of_ten[1])
    assert verdicts == {"exact": False, "released": True}


def test_released_arithmetic_drops_thirty_cases_more_up_to_sixty_words():
    at_threshold = [
        (common, m, n)
        for m in range(1, 61)
        for n in range(1, 61)
        for common in range(1, min(m, n) + 1)
        if 10 * common == 4 * (m + n)
    ]
    more = [case for case in at_threshold if over(*case, Fraction(4, 5), "released")]
    assert (len(more), len(at_threshold)) == (30, 264)
    assert not any(over(*case, Fraction(4, 5), "exact") for case in at_threshold)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog's 2nd-best hat!", ["a", "dog", "s", "2nd", "best", "hat"]),
        ("snake_case, tabs\tand\nlines", ["snake", "case", "tabs", "and", "lines"]),
        ("", []),
        ("?!...", []),
    ],
)
def test_for_ascii_the_words_are_rouge_scores(text, words):
    assert unicode_words(text) == rouge_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ein Café, größer", ["ein", "café", "grösser"]),
        ("Красная ЛОДКА", ["красная", "лодка"]),
        ("红色的船", ["红", "色", "的", "船"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("قطة على طاولة", ["قطة", "على", "طاولة"]),
        ("dog 🐕🐕", ["dog", "🐕", "🐕"]),
    ],
)
def test_other_scripts_have_words_too(text, words):
    assert unicode_words(text) == words


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
@pytest.mark.parametrize("text", ["红色的船在蓝色的海上", "Красная лодка на синем море", "🐕🐈🐕"])
def test_other_scripts_do_not_pass_for_free(text, arithmetic):
    index = SimilarityIndex(0.8, arithmetic)
    index.add(text)
    assert index.similar(text)
    assert not index.similar("a red boat on the blue sea")


def test_benchmark_texts_are_found_up_to_the_threshold():
    benchmark_prompts = BenchmarkTexts(["a red dog left of two blue cats"], threshold=0.8)
    assert benchmark_prompts.contains("A red dog, left of two blue cats!")
    assert benchmark_prompts.contains("a red dog left of two green cats")
    assert not benchmark_prompts.contains("three white boats in the sea")


def test_skills_share_the_benchmarks_texts_and_another_benchmark_has_its_own():
    shared = index_of(("a red dog", "a blue cat"), threshold=0.8)
    assert index_of(("a red dog", "a blue cat"), threshold=0.8) is shared
    assert not index_of(("a red dog", "a blue cat"), threshold=None).contains("a red dog")
    assert not index_of(("a red dog",), threshold=0.8).contains("a blue cat")


def test_without_a_threshold_nothing_counts_as_the_benchmarks():
    benchmark_prompts = BenchmarkTexts(["a red dog"], threshold=None)
    assert not benchmark_prompts.contains("a red dog")
