"""Guides on a model, and what their parsers say of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from selma import processes
from selma.backbones.base_files import local_denoiser
from selma.backbones.drawing import AnyTextToImage, require_local
from selma.backbones.parsers import Parser, parser_named
from selma.config.guides import GuideSettings
from selma.config.networks import AnyBase, BaseConfig
from selma.errors import DataError, SelmaError
from selma.images.guides import GUIDES
from selma.record_files import read_rows
from selma.records.guides import AppliedGuide
from selma.records.parses import Sets
from selma.records.rows import ParsedText
from selma.row_files import write_rows
from selma.texts import quoted
from selma.workspace import SCORES, Workspace, recipe_key

FILE = "sets.jsonl"
PARSED = "parsed"


def guided(model: AnyTextToImage, guide: AppliedGuide | None) -> AbstractContextManager[None]:
    """While the block runs, the model generates with the guide. Raises ConfigError if the model
    cannot be guided so."""
    if guide is None:
        return nullcontext()
    model = require_local(model, "guide")
    kind = GUIDES[guide.settings.kind]
    kind.require_fit(model.family, model.denoiser.config, guide.settings)
    return model.guided(kind.load(model, guide.sets, guide.settings))


def parsed(
    texts: Sequence[str], settings: GuideSettings, folder: Workspace, *, base: AnyBase
) -> AppliedGuide:
    """The guide with what its parser says of these texts, which is kept in `5-scores/parsed/`, so
    that nothing is parsed twice, and images are generated where no parser is installed.

    Raises DataError if it says nothing of any of them.
    """
    parser = _parser(settings, base)
    texts = list(dict.fromkeys(texts))
    recipe = {"guide": settings.kind, "parser": parser.identity, "texts": texts}
    recipe |= settings.model_dump(mode="json", include=set(GUIDES[settings.kind].parsed_by))
    item = folder.item(SCORES, PARSED, recipe_key(recipe), recipe=recipe)
    if not item.done:
        path = item.begin() / FILE
        if processes.main():
            sets = sets_of(texts, settings, parser)
            write_rows(path, [{"text": text, "sets": sets[text]} for text in texts])
        item.finish([path], {"texts": len(texts)})
    rows: Any = read_rows(item.path / FILE, ParsedText)
    sets = {row["text"]: row["sets"] for row in rows}
    if not any(sets.values()):
        raise DataError(
            f"The parser {parser.name} must tell {settings.kind} something of at least one prompt, "
            f"but of {len(texts)} it says nothing, the first being {quoted(texts[0])}. Set another "
            "parser."
        )
    return AppliedGuide(settings=settings, key=item.key, sets=sets)


def parsed_now(text: str, settings: GuideSettings, *, base: AnyBase) -> AppliedGuide:
    """The guide with what its parser says of one text."""
    sets = sets_of([text], settings, _parser(settings, base))
    return AppliedGuide(settings=settings, key="", sets=sets)


def sets_of(texts: Sequence[str], settings: GuideSettings, parser: Parser) -> dict[str, Sets]:
    """Text → what the guide is told of it. Raises ModelError if the parser is not installed."""
    read = GUIDES[settings.kind].sets
    parses = zip(texts, parser.parse(texts), strict=True)
    return {text: read(text, parse, settings) for text, parse in parses}


def guide_mistakes(
    settings: GuideSettings, base: AnyBase, key: str, *, parsing: bool = True
) -> Iterator[str]:
    """What keeps a base from being guided so, found before a model is loaded.

    key: where the settings stand.  parsing: whether the parser itself is needed; it is not where
    what it says is at hand.
    """
    if not isinstance(base, BaseConfig):
        yield f"{key}: only a base that is loaded here can be guided, but {base.model} is served."
        return
    try:
        parser = _parser(settings, base, setting=f"{key}.parser")
        if parsing:
            yield from parser.mistakes(settings, f"{key}.parser")
        if (denoiser := local_denoiser(base)) is not None:
            GUIDES[settings.kind].require_fit(*denoiser, settings)
    except SelmaError as error:
        yield f"{key}: {error}"


def _parser(settings: GuideSettings, base: AnyBase, setting: str = "parser") -> Parser:
    return parser_named(settings.parser, base=base.model, setting=setting)
