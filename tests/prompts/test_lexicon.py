"""What grammars allow, tried by walking them at random, byte by byte, without a model."""

from __future__ import annotations

import random
import re
from typing import get_args

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from selma.errors import ConfigError
from selma.prompts.lexicon import reply_grammar
from selma.prompts.parsing import parse_reply
from selma.prompts.skills import load_skills
from selma.toybox.benchmark import benchmark_prompts
from selma.toybox.captions import PLACES, Style, caption, plural
from selma.toybox.drawing import KINDS
from selma.toybox.lexicon import words
from selma.toybox.parsing import parse_caption
from selma.toybox.scenes import NATURAL

BYTES = LLTokenizer("byte")
STYLES = [f"toybox_{style}" for style in ("narratives", "count", "tags", "whoops", "coco")]


def walk(grammar: str, seed: int) -> str:
    """A text that the grammar allows, each next byte drawn evenly from those it allows."""
    matcher, rng = LLMatcher(BYTES, grammar), random.Random(seed)
    mask, text = allocate_token_bitmask(1, BYTES.vocab_size), bytearray()
    while not matcher.is_stopped():
        fill_next_token_bitmask(matcher, mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: BYTES.vocab_size]
        token = int(rng.choice(np.flatnonzero(bits).tolist()))
        assert matcher.consume_token(token)
        if token != BYTES.eos_token:
            text.append(token)
    return text.decode()


def captions(name: str, *, walks: int = 25, asked: int = 3) -> list[str]:
    (skill,) = load_skills([name])
    grammar = reply_grammar(skill, "toybox", first=4, asked=asked)
    found = []
    for seed in range(walks):
        parsed = parse_reply(f"4.{walk(grammar, seed)}")
        assert len(parsed.captions) == asked
        found += parsed.captions
    return found


SINGULAR = {kind: kind for kind in KINDS} | {plural(kind): kind for kind in KINDS}


@pytest.mark.parametrize("name", STYLES)
def test_every_text_is_one_that_the_worlds_captions_have(name):
    style = name.removeprefix("toybox_")
    (skill,) = load_skills([name])
    for text in {*captions(name, walks=60), *skill.seeds}:
        scene = parse_caption(text)
        wordings = (caption(scene, style, random.Random(seed)) for seed in range(3000))
        assert text in wordings, (text, scene)


@pytest.mark.parametrize("style", get_args(Style))
def test_the_grammar_allows_what_the_benchmark_has(style):
    """The grammar leaves out no shape that captions take."""
    (skill,) = load_skills([f"toybox_{style}"])
    grammar = reply_grammar(skill, "toybox", first=4, asked=1)
    prompts = [prompt.text for prompt in benchmark_prompts("dev") if prompt.group == style]
    allowed = []
    for text in prompts:
        matcher = LLMatcher(BYTES, grammar)
        spelt = list(f" {text}".encode())
        allowed.append(matcher.try_consume_tokens(spelt) == len(spelt) and matcher.is_accepting())
    assert all(allowed), [t for t, ok in zip(prompts, allowed, strict=True) if not ok]


@pytest.mark.parametrize("name", STYLES)
def test_shapes_places_numbers_poses_and_order_are_the_models_to_choose(name):
    texts = captions(name, walks=60)
    place = {"toybox_narratives": " is {}.", "toybox_tags": ", {}"}.get(name)
    places = [place.format(name) for name in PLACES] if place else [*PLACES.values()]
    for choices in (["two"], ["sleeping", "jumping"], ["left of", "left side"], places):
        chosen = [any(word in text for word in choices) for text in texts]
        assert sum(chosen) / len(texts) > 0.02, choices
    assert len({text.split()[0] for text in texts}) >= 4


def kinds_in(caption: str) -> list[str]:
    return [SINGULAR[word] for word in re.findall(r"[a-z]+", caption) if word in SINGULAR]


@pytest.mark.parametrize("name", STYLES)
def test_captions_are_sensible_and_made_of_toybox_words(name):
    (skill,) = load_skills([name])
    known = set(words())
    for text in captions(name):
        assert set(re.findall(r"[a-z0-9]+", text.lower())) <= known
        kinds = kinds_in(text)
        assert 1 <= len(kinds) <= 2
        assert len(set(kinds)) == len(kinds)
        assert len(text.split()) <= skill.max_words
        assert not skill.counts_too_far(text)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)


@pytest.mark.parametrize("name", STYLES)
def test_seeds_are_of_the_style_that_the_grammar_allows(name):
    (skill,) = load_skills([name])
    grammar = reply_grammar(skill, "toybox", first=4, asked=1)
    for seed in skill.seeds:
        matcher = LLMatcher(BYTES, grammar)
        text = list(f" {seed}".encode())
        assert matcher.try_consume_tokens(text) == len(text)
        assert matcher.is_accepting()


def test_whoops_gives_nothing_its_own_colour():
    for text in captions("toybox_whoops"):
        for kind, colour in NATURAL.items():
            assert f"{colour} {kind}" not in text


def test_count_always_counts():
    for text in captions("toybox_count"):
        assert re.search(r"\b(two|three|four)\b", text)


def test_a_skill_without_a_grammar_gets_the_lexicons_words():
    (skill,) = load_skills(["coco"])
    text = walk(reply_grammar(skill, "toybox", first=4, asked=1), 0)
    assert set(re.findall(r"[a-z0-9]+", text)) <= set(words())
    assert len(text.split()) <= skill.max_words


def test_a_file_of_words_is_a_lexicon(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text('blue\nred\nboat\n"quoted"\\back\nмышь\n', "utf-8")
    (skill,) = load_skills(["coco"])
    text = walk(reply_grammar(skill, str(path), first=4, asked=1), 1)
    assert {word.strip(",.") for word in text.split()} <= {
        "blue",
        "red",
        "boat",
        '"quoted"\\back',
        "мышь",
    }


def test_a_file_of_grammar_is_a_lexicon(tmp_path):
    path = tmp_path / "boats.ebnf"
    path.write_text('caption: "a " COLOUR " boat"\nCOLOUR: "red" | "blue"\n')
    (skill,) = load_skills(["coco"])
    text = walk(reply_grammar(skill, str(path), first=4, asked=2), 1)
    assert re.fullmatch(r" a (red|blue) boat\n5\. a (red|blue) boat", text)


@pytest.mark.parametrize(
    ("name", "text"), [("a.ebnf", 'caption: "open'), ("b.lark", "other: /x/"), ("c.txt", " \n")]
)
def test_a_broken_lexicon_is_a_config_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError):
        reply_grammar(load_skills(["coco"])[0], str(tmp_path / name), first=4, asked=1)


def test_a_missing_lexicon_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="none"):
        reply_grammar(load_skills(["coco"])[0], str(tmp_path / "none.txt"), first=4, asked=1)
