"""Images in the report: prompts chosen fairly and by extremes, cards, and a contact sheet."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from selma.image_files import REMEDY_FOR_GENERATED, open_image
from selma.image_places import image_of
from selma.records.benchmarks import Answer, BenchmarkPrompt, evenly
from selma.records.report import Findings
from selma.report.tables import model_with_role

SHOWN_PX = 256  # larger images are shrunk, so that the page stays a few megabytes
PNG_BYTES, JPEG_BYTES, SMALL_PX = 7_000_000, 13_000_000, 96
"""Of a page's images: what they have as PNGs, what with JPEGs as well, and the side of all others,
of 7 kB each at most."""
_used: ContextVar[list[int] | None] = ContextVar("bytes of the page's images", default=None)
AnswerOf = Mapping[tuple[str, str], Answer]
"""(prompt id, question id) → the answer."""
EXTREMES = 6  # number of biggest gains and of biggest losses


@dataclass(frozen=True)
class Mark:
    """How an answer counted: a sign, a word for screen readers, and the raw answer."""

    sign: str
    word: str
    raw: str


@dataclass(frozen=True)
class Line:
    """One question with both models' answers."""

    question: str
    marks: tuple[Mark, Mark]


@dataclass(frozen=True)
class Card:
    """One benchmark prompt, before and after."""

    prompt: BenchmarkPrompt
    images: tuple[str, str]
    """Base and merged, as data: URIs."""
    scores: tuple[float, float]
    """0-100."""
    lines: tuple[Line, ...]

    @property
    def change(self) -> float:
        """The merged model's score minus the base's."""
        return self.scores[1] - self.scores[0]


@dataclass(frozen=True)
class Shown:
    """One model's image of a prompt, on pages that have several models beside each other."""

    label: str
    image: str
    """A data: URI."""
    score: float
    """0-100."""
    marks: tuple[Mark, ...]


class Cards:
    """Makes the cards of one run's benchmark."""

    def __init__(self, findings: Findings) -> None:
        card = findings.scorecard
        self.findings = findings
        self.models = (model_with_role(card, "base"), model_with_role(card, "merged"))

    def fair(self, count: int) -> list[Card]:
        """Prompts evenly over the groups, chosen regardless of scores."""
        return self._make(evenly(self.findings.benchmark_prompts, count))

    def gains(self) -> list[Card]:
        """The prompts whose score rose most; ties are in the benchmark's order."""
        return self._make([p for p in self._by_change(-1)[:EXTREMES] if self._change(p) > 0])

    def losses(self) -> list[Card]:
        """The prompts whose score fell most."""
        return self._make([p for p in self._by_change(1)[:EXTREMES] if self._change(p) < 0])

    def _change(self, prompt: BenchmarkPrompt) -> float:
        base, merged = self.models
        return merged.per_prompt[prompt.id] - base.per_prompt[prompt.id]

    def _by_change(self, sign: int) -> list[BenchmarkPrompt]:
        return sorted(
            self.findings.benchmark_prompts, key=lambda prompt: sign * self._change(prompt)
        )

    def _make(self, prompts: Sequence[BenchmarkPrompt]) -> list[Card]:
        ids = {prompt.id for prompt in prompts}
        answers = [_by_question(self.findings.answers[m.model], ids) for m in self.models]
        return [self._card(prompt, answers) for prompt in prompts]

    def _card(self, prompt: BenchmarkPrompt, answers: Sequence[AnswerOf]) -> Card:
        base, merged = self.models
        return Card(
            prompt=prompt,
            images=(self._image(prompt, base.model), self._image(prompt, merged.model)),
            scores=(100 * base.per_prompt[prompt.id], 100 * merged.per_prompt[prompt.id]),
            lines=tuple(
                Line(
                    question.text,
                    (
                        mark_of(answers[0].get((prompt.id, question.id))),
                        mark_of(answers[1].get((prompt.id, question.id))),
                    ),
                )
                for question in prompt.questions
            ),
        )

    def _image(self, prompt: BenchmarkPrompt, model: str) -> str:
        return data_uri(benchmark_image(self.findings, prompt, model))


def benchmark_image(findings: Findings, prompt: BenchmarkPrompt, model: str) -> Path:
    """The file with a model's image of a benchmark prompt."""
    return image_of(findings.images[model], prompt.id)


def beside_others(
    prompt: BenchmarkPrompt, images: Path, answers: Sequence[Answer], *, label: str, score: float
) -> Shown:
    """A model's image of a prompt, from its folder, with its answers. score: 0..1."""
    of_prompt = {a.question_id: a for a in answers if a.prompt_id == prompt.id}
    return Shown(
        label=label,
        image=data_uri(image_of(images, prompt.id)),
        score=100 * score,
        marks=tuple(mark_of(of_prompt.get(question.id)) for question in prompt.questions),
    )


def shown_image(path: Path) -> Image.Image:
    """The image, at most SHOWN_PX a side. Raises DataError if it cannot be read."""
    shown = open_image(path, remedy=REMEDY_FOR_GENERATED)
    if max(shown.size) > SHOWN_PX:
        shown.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    return shown


def data_uri(path: Path) -> str:
    """An image as a PNG in a data: URI, without the file's metadata; within `bounded` a JPEG where
    the page has many already, and then a small one."""
    used, image, file = _used.get(), shown_image(path), io.BytesIO()
    so_far = 0 if used is None else sum(used)
    if so_far < PNG_BYTES:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        if so_far >= JPEG_BYTES:
            image.thumbnail((SMALL_PX, SMALL_PX), Image.Resampling.LANCZOS)
        image.convert("RGB").save(file, "JPEG", quality=80)
    uri = f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()
    if used is not None:
        used.append(len(uri))
    return uri


@contextmanager
def bounded() -> Iterator[None]:
    """The images that are shown while the block runs are of one page, which stays small."""
    token = _used.set([])
    try:
        yield
    finally:
        _used.reset(token)


def contact_sheet(findings: Findings, count: int) -> Image.Image:
    """Base and merged images of the fair choice, four prompts in a row, each with its text."""
    prompts = evenly(findings.benchmark_prompts, count)
    models = [model_with_role(findings.scorecard, role).model for role in ("base", "merged")]
    columns, side, gap, words = min(4, len(prompts)), 128, 6, 70
    width, height = 2 * side + gap + 22, side + words
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * width + 22, rows * height + 40), "white")
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column in range(columns):
        for position, name in enumerate(("base", "merged")):
            x = 22 + column * width + position * (side + gap)
            draw.text((x, 14), name, fill="#6b7075", font=small)
    for i, prompt in enumerate(prompts):
        x, y = 22 + i % columns * width, 36 + i // columns * height
        for position, model in enumerate(models):
            image = shown_image(benchmark_image(findings, prompt, model))
            resample = Image.Resampling.NEAREST if image.width < side else Image.Resampling.BOX
            sheet.paste(image.resize((side, side), resample), (x + position * (side + gap), y))
        text = textwrap.shorten(prompt.text, 108, placeholder=" …")
        draw.text((x, y + side + 5), textwrap.fill(text, 40), fill="#1d2327", font=small)
    return sheet


def _by_question(answers: Iterable[Answer], prompts: Collection[str]) -> AnswerOf:
    """The answers to these prompts alone: there may be very many others."""
    if not prompts:
        return {}
    return {(a.prompt_id, a.question_id): a for a in answers if a.prompt_id in prompts}


def mark_of(answer: Answer | None) -> Mark:
    """The mark of an answer; a dot if nothing was asked."""
    if answer is None:
        return Mark("·", "not asked", "")
    sign, word = {
        "yes": ("✓", "yes"),
        "no": ("✗", "no"),
        "zeroed": ("○", "zeroed"),
        "unreadable": ("?", "unreadable"),
        None: ("·", "answered"),
    }[answer.verdict]
    probability = "" if answer.yes is None else f", P(yes) {answer.yes:.2f}"
    return Mark(sign, word, f"{answer.text[:80]!r}{probability}")
