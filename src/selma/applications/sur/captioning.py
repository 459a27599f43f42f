"""Captions for keyword prompts: of their images by a network, or an LLM's sentences.

Each is kept as soon as it is there. Rows go in fixed groups, since a group shares a forward pass: a
collection that was stopped ends with the words of one that was not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.sur.settings import LlmCaptioner
from selma.backbones.language.loading import load_language_model, model_identity, parallel_requests
from selma.backbones.language.model import Form, Note, Sampling
from selma.backbones.language.replies import FENCE, readable
from selma.backbones.perception.captioning import CaptionModel
from selma.config.networks import Captioner
from selma.image_files import open_image
from selma.prompts.parsing import parse_reply
from selma.prompts.remarks import is_remark
from selma.prompts.wrapping import bare
from selma.randomness import seed_for
from selma.record_files import read_rows
from selma.records.rows import Caption
from selma.row_files import fill_rows

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_WORDS = 60

EXAMPLES = (
    ("portrait of an old fisherman, weathered face, grey beard, harbour, dramatic light, 8k, photo",
     "An old fisherman with a grey beard stands in a harbour."),
    ("cute robot holding a red balloon, meadow, pastel colors, 3d render, trending, masterpiece",
     "A small robot holds a red balloon in a meadow."),
    ("two white horses, beach, sunset, long exposure, highly detailed, sharp focus",
     "Two white horses are on a beach at sunset."),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What needs a caption."""

    id: str
    prompt: str
    image: Path


def captioner_identity(config: Captioner | LlmCaptioner) -> dict[str, Any]:
    """What tells these captions from others; loads no model."""
    if isinstance(config, Captioner):
        return CaptionModel(config, setting="sur.data.captioner").identity
    settings = config.model_dump(mode="json", include={"temperature", "max_new_tokens"})
    return {"kind": "llm", "model": model_identity(config.backend), **settings}


def captions(
    rows: Sequence[Row],
    config: Captioner | LlmCaptioner,
    path: Path,
    *,
    seed: int,
    note: Note | None = None,
    spent: float = 0.0,
) -> dict[str, str]:
    """Row id → its caption, which may be empty. `path` is a file of those that are there; `note`
    and `spent` are `load_language_model`'s."""
    if isinstance(config, Captioner):
        group, make = 8, _captions(config)
    else:
        group, make = parallel_requests(config.backend), _sentences(config, seed, note, spent)
    fill_rows(
        path,
        {row.id: row for row in rows},
        lambda part: [{"text": text} for text in make(part)],
        key="id",
        title="writing captions",
        chunk=group,
    )
    return {line["id"]: line["text"] for line in read_rows(path, Caption)}


def plain(reply: str, *, truncated: bool = False) -> str:
    """The sentence in a reply, or "" where there is none; without thoughts, remarks, markers and
    what is put around it. What the limit on tokens cut is left out behind the last whole sentence.
    """
    parsed = parse_reply(reply)
    text = next(iter(parsed.captions), "")
    if not text and parsed.outcome == "unparsed":
        lines = (line.strip() for line in readable(reply).splitlines())
        lines = (line for line in lines if not (FENCE.match(line) or is_remark(line)))
        text = next((line for line in lines if line and not line.endswith(":")), "")
    text = re.sub(r"^(?:narrative|sentence|caption|description)\s*:\s*", "", text, flags=re.I)
    if truncated:
        text = re.sub(r"(?<=[.!?])\s[^.!?]*$", "", text)
    text = bare(text.strip("\"'“”*` "))
    return text if len(text.split()) <= _MOST_WORDS else ""


def wish(prompt: str, form: Form) -> str:
    """What the language model is given."""
    shown = "\n\n".join(f"Keywords: {keywords}\nSentence: {text}" for keywords, text in EXAMPLES)
    if form == "continuation":
        return f"{shown}\n\nKeywords: {prompt}\nSentence:"
    return (
        "Say in one plain sentence what a picture made from these keywords shows. Name things, "
        "their number, colour and place; leave out words about style and quality. Answer with the "
        f"sentence alone.\n\n{shown}\n\nKeywords: {prompt}\nSentence:"
    )


Make = Callable[[Sequence[Row]], Iterator[str]]


def _captions(config: Captioner) -> Make:
    model = CaptionModel(config, setting="sur.data.captioner")

    def make(rows: Sequence[Row]) -> Iterator[str]:
        seen: list[Image] = [open_image(row.image) for row in rows]
        return model.caption(seen)

    return make


def _sentences(config: LlmCaptioner, seed: int, note: Note | None, spent: float) -> Make:
    loaded: list[Any] = []  # at the first group, if there is one

    def make(rows: Sequence[Row]) -> Iterator[str]:
        if not loaded:
            loaded.append(load_language_model(config.backend, note=note, spent=spent))
        model = loaded[0]
        replies = model.complete(
            [wish(row.prompt, model.form) for row in rows],
            seeds=[seed_for(seed, "narrative", row.id) for row in rows],
            sampling=Sampling(
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                stop=("\n",) if model.form == "continuation" else (),
            ),
        )
        return (plain(reply.text, truncated=reply.truncated) for reply in replies)

    return make
