"""The index decides as comparing with every text would, in both arithmetics."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.prompts.contamination import BenchmarkTexts
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


def test_without_a_threshold_nothing_counts_as_the_benchmarks():
    benchmark_prompts = BenchmarkTexts(["a red dog"], threshold=None)
    assert not benchmark_prompts.contains("a red dog")
