"""What a parser finds is kept with the run, and images are generated from that alone."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from selma.backbones import parsers
from selma.backbones.parsers import PACKAGE, PARSERS, parser_named
from selma.config.guides import StructureDiffusionConfig, SynGenConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, DataError, ModelError
from selma.finished import Finished, NotFinished
from selma.images.generating import generate_benchmark
from selma.images.guides.applying import guide_mistakes, parsed
from selma.records.benchmarks import BenchmarkPrompt
from selma.workspace import Workspace, read_lines

TEXTS = ["red dog, blue cat", "a dog"]
SYNGEN = SynGenConfig(parser="toybox")
BASE = BaseConfig()


def test_prompts_are_parsed_once_and_each_reading_has_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Workspace(tmp_path)
    first = parsed([*TEXTS, *TEXTS], SYNGEN, folder, base=BASE)
    (file,) = tmp_path.glob("5-scores/parsed/*/sets.jsonl")
    assert read_lines(file) == [
        {"text": TEXTS[0], "sets": [[[0, 3], [4, 7]], [[9, 13], [14, 17]]]},
        {"text": TEXTS[1], "sets": []},
    ]
    row = replace(PARSERS["toybox"], parse=lambda texts: pytest.fail("parsed twice"))
    monkeypatch.setitem(PARSERS._rows, "toybox", row)
    looking = Finished(tmp_path)
    assert parsed(TEXTS, SYNGEN, looking, base=BASE) == first
    wider = parsed(TEXTS, SYNGEN.model_copy(update={"step_size": 1.0}), looking, base=BASE)
    assert wider.key == first.key and wider.recipe != first.recipe
    for settings in (SynGenConfig(reading="arcs"), StructureDiffusionConfig()):
        with pytest.raises(NotFinished):
            parsed(TEXTS, settings, looking, base=BASE)
    with pytest.raises(NotFinished):
        parsed(TEXTS[:1], SYNGEN, looking, base=BASE)


def test_a_parser_that_finds_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Set another parser"):
        parsed(["a photograph of a zebra"], SYNGEN, Workspace(tmp_path), base=BASE)


def test_images_of_a_benchmark_have_the_guide_in_their_recipe(tmp_path: Path) -> None:
    base, folder = tiny.base("sd1"), Workspace(tmp_path)
    model = tiny.load("sd1")
    prompts = [
        BenchmarkPrompt(id=str(n), text=t, group="", questions=()) for n, t in enumerate(TEXTS)
    ]
    guide = parsed(TEXTS, StructureDiffusionConfig(parser="toybox"), folder, base=base)

    def images(name: str, guide=None) -> list[bytes]:  # type: ignore[no-untyped-def]
        path = generate_benchmark(
            prompts, name=name, guide=guide, steps=2, guidance=5.0, batch_size=8, folder=folder,
            base=base, seed=0, model=lambda: model,
        )  # fmt: skip
        return [(path / f"{prompt.id}.png").read_bytes() for prompt in prompts]

    plain, structured = images("base"), images("structured", guide)
    assert plain[0] != structured[0] and plain[1] == structured[1]
    assert images("base", guide) == structured
    assert len(list(tmp_path.glob("superseded/*"))) == 1


def test_the_parser_is_the_bases_unless_named() -> None:
    assert parser_named(None, base="toybox", setting="parser").name == "toybox"
    assert parser_named(None, base="sd14", setting="parser").name == "spacy"
    with pytest.raises(ConfigError, match=r"row\.guide\.parser: must be a parser"):
        parser_named("nltk", base="toybox", setting="row.guide.parser")


def test_mistakes_show_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.base("sd1")
    assert not list(guide_mistakes(SYNGEN, base, "guide"))
    (side,) = guide_mistakes(SYNGEN.model_copy(update={"map_side": 5}), base, "guide")
    assert "map_side must be a side" in side
    monkeypatch.setattr("selma.backbones.packages.find_spec", lambda name: None)
    monkeypatch.setattr(parsers, "find_spec", lambda name: None)
    (absent,) = guide_mistakes(SynGenConfig(), base, "guide")
    assert "pip install 'selma[parser]'" in absent
    with pytest.raises(ModelError, match=r"selma\[parser\]"):
        PARSERS["spacy"].parse(TEXTS)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs selma[parser]")
@pytest.mark.filterwarnings("ignore")
def test_spacys_small_model_finds_modifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    from selma.images.guides.applying import sets_of

    text = "a black and white umbrella. the cat is blue."
    sets = sets_of([text], SynGenConfig(), PARSERS["spacy"])[text]
    words = [" ".join(text[slice(*span)] for span in each) for each in sets]
    assert words == ["black white umbrella", "blue cat"]
    phrases = sets_of([text], StructureDiffusionConfig(), PARSERS["spacy"])[text]
    assert [text[slice(*span)] for (span,) in phrases] == [
        "a black and white umbrella",
        "the cat",
    ]
    monkeypatch.setitem(parsers.WEIGHTS, "parser/model", "0" * 64)
    with pytest.raises(ModelError, match="weights that selma knows"):
        PARSERS["spacy"].parse([text])
