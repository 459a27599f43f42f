"""The exam is large enough, fixed, and never seen in pre-training."""

import random
from collections import Counter

from selma.toybox.benchmark import (
    benchmark_prompts,
    benchmark_texts,
    keyword_prompts,
    keyword_texts,
)
from selma.toybox.captions import STYLES
from selma.toybox.questions import CATEGORIES


def test_both_splits_are_large_even_and_disjoint():
    dev, test = benchmark_prompts("dev"), benchmark_prompts("test")
    for split in (dev, test):
        assert len(split) >= 300
        assert set(Counter(prompt.group for prompt in split)) == set(STYLES)
        found = Counter(q.category for prompt in split for q in prompt.questions)
        assert all(found[category] >= 80 for category in CATEGORIES)
    texts = [prompt.text.lower() for prompt in dev + test]
    assert len(set(texts)) == len(texts) == len(benchmark_texts())
    assert len({prompt.id for prompt in dev + test}) == len(texts)


def test_the_exam_does_not_change():
    """A changed exam makes earlier scores incomparable: raise its seed's number knowingly."""
    assert benchmark_prompts("test")[0].id == FIRST and benchmark_prompts("test")[-1].id == LAST


def test_pre_training_rejects_the_exams_texts():
    from selma.toybox.pretraining.denoiser import noisy_caption, scene_of

    made = set()
    for index in range(3000):
        scene, _ = scene_of(index, 0)
        made.add(noisy_caption(scene, random.Random(index)).lower())
    assert "" in made  # the unconditional branch
    assert not made & benchmark_texts()


FIRST = "ff35edc32a9fdd2e"
LAST = "c54164f6dbf61d5a"


def test_keyword_prompts_say_all_of_the_prompts_scene():
    for split in ("dev", "test"):
        rich = keyword_prompts(split)
        assert set(rich) == {prompt.id for prompt in benchmark_prompts(split)}
        for prompt in benchmark_prompts(split):
            words = rich[prompt.id].replace(",", "").split()
            for question in prompt.questions:
                said = question.detail.split(" | ")
                if question.category in ("colour", "count", "size", "global"):
                    assert said[-1] in words, (prompt.text, rich[prompt.id])
                elif question.category == "spatial":
                    assert said[1] in rich[prompt.id]
    assert len(keyword_texts()) > 600
