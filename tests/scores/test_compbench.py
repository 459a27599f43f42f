"""T2I-CompBench's BLIP-VQA part: noun phrases of a parse, and the product of P(yes), by hand."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.backbones import parsers
from selma.errors import DataError, ModelError
from selma.records.benchmarks import Answer
from selma.records.parses import Parse, Word
from selma.scores.benchmarks import layout_of, read_benchmark
from selma.scores.benchmarks.compbench import COMPBENCH, noun_phrases

TEXTS = ["a green jar and a blue sled", "the sled is on the left", "Run!"]


def parse(text: str) -> Parse:
    """Articles begin noun phrases, which go on to the last word that is not a verb or a joint."""
    words, chunks, at = [], [], 0
    for number, word in enumerate(text.split()):
        start = text.index(word, at)
        at = start + len(word)
        words.append(Word(span=(start, at), tag="X", relation="x", head=number))
        if word in ("a", "the"):
            chunks.append([number, number + 1])
        elif chunks and word not in ("and", "is", "on") and chunks[-1][1] == number:
            chunks[-1][1] = number + 1
    return Parse(words=tuple(words), chunks=tuple((a, b) for a, b in chunks))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the released files, read by a parser of few words in spaCy's place."""

    def parsed(texts: Sequence[str]) -> list[Parse]:
        return [parse(text) for text in texts]

    simple = parsers.Parser(name="spacy", identity="articles", parse=parsed)
    monkeypatch.setitem(parsers.PARSERS._rows, "spacy", simple)
    (tmp_path / "color_val.txt").write_text("\n".join(TEXTS))
    (tmp_path / "texture_val.txt").write_text("a soft rug\n")
    (tmp_path / "spatial_val.txt").write_text("a jar on a sled\n")
    return tmp_path


def test_each_noun_phrase_is_a_question(folder: Path) -> None:
    assert layout_of(folder) is COMPBENCH and layout_of(folder / "color_val.txt") is COMPBENCH
    prompts = read_benchmark(folder)
    assert [prompt.id for prompt in prompts] == [
        "color_000",
        "color_001",
        "color_002",
        "texture_000",
    ]
    asked = [[question.text for question in prompt.questions] for prompt in prompts]
    assert asked == [["a green jar?", "a blue sled?"], ["the sled?"], ["run?"], ["a soft rug?"]]
    assert [prompt.group for prompt in prompts] == ["color"] * 3 + ["texture"]
    assert len(read_benchmark(folder / "color_val.txt")) == 3


def test_eight_phrases_at_most() -> None:
    text = "a a a a a a a a a a"
    assert len(noun_phrases(text, parse(text))) == 8


def scored(folder: Path, name: Any, yes: Sequence[float | None]) -> dict[str, Any]:
    prompts, chances = read_benchmark(folder), iter(yes)
    given = [
        Answer(prompt_id=prompt.id, question_id=question.id, text="yes", yes=next(chances))
        for prompt in prompts
        for question in prompt.questions
    ]
    measure = COMPBENCH.rules(name).measure
    return score_answers(prompts, given, rules=DsgRules(), measure=measure, resamples=50)


def test_a_prompt_scores_the_product(folder: Path) -> None:
    yes = [0.9123, 0.5, 0.25, 0.3, 0.8]
    sound = scored(folder, "sound", yes)
    assert sound["score"] == pytest.approx(100 * (0.9123 * 0.5 + 0.25 + 0.3 + 0.8) / 4, abs=1e-3)
    assert sound["groups"]["texture"] == pytest.approx(80)
    released = scored(folder, "released", yes)
    # "Run!" has no noun phrase and is right unseen; 0.45615 has four decimals.
    expected = 100 * (float(f"{0.9123 * 0.5:.4f}") + 0.25 + 1 + 0.8) / 4
    assert released["score"] == pytest.approx(expected, abs=1e-3)
    assert released["per_prompt"]["color_002"] == 100


def test_a_judge_without_probabilities_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="the judge told none for question 1 of color_000"):
        scored(folder, "sound", [None] * 5)


def test_an_empty_line_is_named(folder: Path) -> None:
    (folder / "texture_val.txt").write_text("a soft rug\n\na mat\n")
    with pytest.raises(DataError, match="but texture_001 has none"):
        read_benchmark(folder)


@pytest.mark.skipif(find_spec(parsers.PACKAGE) is not None, reason="the parser is installed")
def test_without_the_parser_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "color_val.txt").write_text(TEXTS[0])
    with pytest.raises(ModelError, match=r"selma\[parser\]"):
        read_benchmark(tmp_path)
