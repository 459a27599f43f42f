"""Toybox's own judge and scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from selma.backbones.hub import folder_digest
from selma.backbones.judges.judge import NOT_READ, FirstToken, Spelled, parts
from selma.backbones.judges.wordings import QUESTION
from selma.backbones.quiet import quiet
from selma.errors import ModelError
from selma.image_modes import plain_rgb
from selma.toybox.questions import MAX_WORDS, words_of

if TYPE_CHECKING:
    from torch import Tensor

INPUT_PX = 64  # side of the images that the toybox networks see
# An answer is a yes from here on; rounded first, so that sums in another order decide alike.
_YES = 0.5
_DIGITS = 4


class ToyboxJudge:
    """A small VQA network. Each image is encoded once, whatever number of questions it has."""

    def __init__(self, name: str, folder: Path, *, batch_size: int = 64) -> None:
        self.name = name
        self.folder = folder
        self.batch_size = batch_size

    @cached_property
    def fingerprint(self) -> str:
        return folder_digest(self.folder)[:16]

    @property
    def about(self) -> dict[str, str]:
        return {"weights": self.fingerprint, "wording": QUESTION["bare"], "precision": "fp32"}

    @cached_property
    def _network(self) -> Any:
        from selma.toybox.judges import load_vqa

        return load_vqa(self.folder)

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """Texts are "yes" and "no", or NOT_READ without a probability; P(yes) is rounded to four
        decimals."""
        import torch

        unread = set(self.unread([text for texts in questions for text in texts]))

        answers: list[list[tuple[str, float | None]]] = []
        with torch.inference_mode():
            for part in parts(len(images), self.batch_size):
                features = self._network.encode(pixels(images[part]))
                asked = [(i, q) for i, texts in enumerate(questions[part]) for q in texts]
                answers += [[] for _ in images[part]]
                first = len(answers) - len(images[part])
                for batch in parts(len(asked), 4 * self.batch_size):
                    rows = torch.tensor([i for i, _ in asked[batch]])
                    texts = [question for _, question in asked[batch]]
                    chances = self._network.answer(features[rows], texts).tolist()
                    for (i, question), chance in zip(asked[batch], chances, strict=True):
                        read = question not in unread
                        answers[first + i].append(_said(chance) if read else (NOT_READ, None))
        return answers

    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        """As `judge.Speller` has it; its whole vocabulary is yes and no."""
        answers = self.answer(images, [[q.text for q in group] for group in questions])
        return [
            [
                (text, [_spelled(spelling, yes) for spelling in question.spellings])
                for question, (text, yes) in zip(asked, group, strict=True)
            ]
            for asked, group in zip(questions, answers, strict=True)
        ]

    @property
    def reads(self) -> str:
        return f"questions of at most {self._vocabulary[1]} words, all of them toybox's"

    def unread(self, questions: Sequence[str]) -> list[str]:
        """Those with a word that it was not taught, with none, or with more than it reads."""
        known, most = self._vocabulary
        words = {question: words_of(question) for question in questions}
        read = {q for q, of in words.items() if 0 < len(of) <= most and known.issuperset(of)}
        return [question for question in questions if question not in read]

    @cached_property
    def _vocabulary(self) -> tuple[frozenset[str], int]:
        """The words that it knows, and how many of a question it reads."""
        try:
            config = json.loads((self.folder / "config.json").read_text())
            return frozenset(config["vocabulary"]), int(config.get("max_words", MAX_WORDS))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{self.folder} must hold a judge's config.json, but: {error}. "
                "Make toybox's weights with python -m selma.toybox.pretraining."
            ) from error


class ClipScorer:
    """100 x cosine of image and text by a CLIP model (arXiv:2104.08718, without its clipping)."""

    def __init__(self, name: str, folder: Path, *, batch_size: int = 64) -> None:
        self.name = name
        self.folder = folder
        self.batch_size = batch_size

    @cached_property
    def fingerprint(self) -> str:
        return folder_digest(self.folder)[:16]

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPTokenizer

        quiet("transformers")
        model = CLIPModel.from_pretrained(self.folder, local_files_only=True)
        return model.eval(), CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)

    def see(self, images: Sequence[Image.Image]) -> Tensor:
        """[b, width], the image encoder's projected vectors."""
        model, _ = self._network
        seen: Tensor = model.get_image_features(pixel_values=pixels(images)).pooler_output
        return seen

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Rounded to four decimals; a text longer than the encoder reads is cut."""
        import torch
        from torch.nn.functional import cosine_similarity

        model, tokenizer = self._network
        scores: list[float] = []
        with torch.inference_mode():
            for part in parts(len(images), self.batch_size):
                tokens = tokenizer(
                    list(texts[part]),
                    padding="max_length",  # one shape for all: no text changes another's score
                    truncation=True,
                    max_length=model.config.text_config.max_position_embeddings,
                    return_tensors="pt",
                )
                seen = self.see(images[part])
                read = model.get_text_features(**tokens).pooler_output
                scores += (100 * cosine_similarity(seen, read)).tolist()
        return [round(score, _DIGITS) for score in scores]


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """[b, 3, 64, 64] in [-1, 1]; images of another size are resized."""
    import torch

    fitted = [
        plain_rgb(image)
        if image.size == (INPUT_PX, INPUT_PX)
        else plain_rgb(image).resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
        for image in images
    ]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in fitted]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def _spelled(spelling: str, yes: float | None) -> FirstToken:
    word = spelling.strip().lower()
    if yes is None or word not in ("yes", "no"):
        return "", 0.0
    return word, yes if word == "yes" else round(1 - yes, _DIGITS)


def _said(chance: float) -> tuple[str, float]:
    chance = round(chance, _DIGITS)
    return ("yes" if chance >= _YES else "no"), chance
