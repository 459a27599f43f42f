"""The benchmark is large enough, fixed, and never seen in pre-training."""

from collections import Counter

from selma.toybox.benchmark import (
    benchmark_prompts,
    benchmark_texts,
    keyword_prompts,
    keyword_texts,
    stated,
)
from selma.toybox.captions import QUALITY_TAGS, STYLES
from selma.toybox.questions import CATEGORIES, claims


def test_both_splits_are_large_even_and_disjoint():
    dev, test = benchmark_prompts("dev"), benchmark_prompts("test")
    for split in (dev, test):
        assert len(split) >= 300
        assert set(Counter(prompt.group for prompt in split)) == set(STYLES)
        found = Counter(q.category for prompt in split for q in prompt.questions)
        assert all(found[category] >= 60 for category in CATEGORIES)
    texts = [prompt.text.lower() for prompt in dev + test]
    assert len(set(texts)) == len(texts) == len(benchmark_texts())
    assert len({prompt.id for prompt in dev + test}) == len(texts)


def test_the_benchmark_does_not_change():
    """A changed benchmark makes earlier scores incomparable: raise its seed's number knowingly."""
    assert benchmark_prompts("test")[0].id == FIRST and benchmark_prompts("test")[-1].id == LAST


def test_pre_training_rejects_the_benchmarks_texts():
    from selma.toybox.pretraining.denoiser import web_caption, web_scene

    captions = set()
    for index in range(3000):
        style, scene, _, rng = web_scene(index, 0)
        captions.add(web_caption(scene, style, rng).lower())
    assert "" in captions  # the unconditional branch
    assert not captions & benchmark_texts()


FIRST = "a2839295fb98fd9e"
LAST = "63df5da7590d18b0"


def test_keyword_prompts_say_all_of_the_prompts_scene():
    for split in ("dev", "test"):
        keywords = keyword_prompts(split)
        assert set(keywords) == {prompt.id for prompt in benchmark_prompts(split)}
        for prompt in benchmark_prompts(split):
            words = keywords[prompt.id].replace(",", "").split()
            for question in prompt.questions:
                values = question.detail.split(" | ")
                if question.category in ("colour", "count", "action", "global"):
                    assert values[-1] in words, (prompt.text, keywords[prompt.id])
                elif question.category == "spatial":
                    assert values[1] in keywords[prompt.id]
            assert any(tag in keywords[prompt.id] for tag in QUALITY_TAGS)
    assert len(keyword_texts()) > 600


def test_what_a_prompt_states_is_what_it_is_asked():
    for split in ("dev", "test"):
        for prompt in benchmark_prompts(split):
            content = stated(split)[prompt.id]
            details = [(q.category, *q.detail.split(" | ")) for q in prompt.questions]
            assert details == [claim for claim, _ in claims(content.scene)]
            assert content.style == prompt.group
            assert content.keywords == keyword_prompts(split)[prompt.id]
