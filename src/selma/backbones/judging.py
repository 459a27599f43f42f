"""Networks that judge pictures, behind two small protocols. Torch is imported at first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from selma.backbones.hub import folder_digest
from selma.backbones.wordings import MultipleChoice
from selma.config.scores import LocalJudge, ServedJudge
from selma.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

INPUT_PX = 64  # side of the pictures that the toybox networks see
# An answer is a yes from here on; rounded first, so that sums in another order decide alike.
_YES = 0.5
_DIGITS = 4


class Judge(Protocol):
    """Answers yes/no questions about pictures."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes with all that answers depend on beside picture and question (weights, wording,
        decoding) and with nothing else; to be had without loading the weights."""
        ...

    def answer(
        self, pictures: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """For each picture and each of its questions: the raw text and P(yes), if there is one.
        An answer depends on its picture and question alone."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """A judge that can also be asked questions that come with choices."""

    def choose(
        self,
        pictures: Sequence[Image.Image],
        questions: Sequence[Sequence[MultipleChoice]],
        *,
        words: str,
    ) -> list[list[str]]:
        """The raw text for each question, put in the wording that `words` names. It may be none of
        the choices: what it then counts as is not the judge's to say."""
        ...


class Scorer(Protocol):
    """Says how well a picture fits a text; higher is better."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def score(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]: ...


def load_judge(judge: str | LocalJudge | ServedJudge, *, setting: str = "scores.judge") -> Judge:
    """The judge of these settings. What can be seen without its weights is checked for now; they
    are loaded when first asked, so that a run with nothing left to judge loads nothing.

    `setting` is where the settings stand, for messages. Raises ModelError or ConfigError.
    """
    if isinstance(judge, LocalJudge):
        from selma.backbones.vqa import VqaJudge

        return VqaJudge(judge, setting=setting)
    if isinstance(judge, ServedJudge):
        from selma.backbones.vision_served import ServedVqaJudge

        return ServedVqaJudge(judge, setting=setting)
    if judge not in ("toybox-a", "toybox-b"):
        raise ModelError(f"A judge must be toybox-a or toybox-b, but {judge!r} came.")
    return ToyboxJudge(judge, _weights("judge-" + judge[-1], judge))


def load_scorer(name: str) -> Scorer:
    """The CLIP scorer "toybox"; loaded as `load_judge` loads. Raises ModelError."""
    if name != "toybox":
        raise ModelError(f"A scorer must be toybox, but {name!r} came.")
    return ClipScorer("toybox-clip", _weights("clip", name))


class ToyboxJudge:
    """A small VQA network. Each picture is encoded once, whatever number of questions it has."""

    def __init__(self, name: str, folder: Path, *, batch_size: int = 64) -> None:
        self.name = name
        self.folder = folder
        self.batch_size = batch_size

    @cached_property
    def fingerprint(self) -> str:
        return folder_digest(self.folder)[:16]

    @cached_property
    def _network(self) -> Any:
        from selma.toybox.judges import load_vqa

        return load_vqa(self.folder)

    def answer(
        self, pictures: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """Texts are "yes" and "no"; P(yes) is rounded to four decimals."""
        import torch

        answers: list[list[tuple[str, float | None]]] = []
        with torch.inference_mode():
            for part in parts(len(pictures), self.batch_size):
                features = self._network.encode(pixels(pictures[part]))
                asked = [(i, q) for i, texts in enumerate(questions[part]) for q in texts]
                answers += [[] for _ in pictures[part]]
                first = len(answers) - len(pictures[part])
                for batch in parts(len(asked), 4 * self.batch_size):
                    rows = torch.tensor([i for i, _ in asked[batch]])
                    texts = [question for _, question in asked[batch]]
                    chances = self._network.answer(features[rows], texts).tolist()
                    for (i, _), chance in zip(asked[batch], chances, strict=True):
                        answers[first + i].append(_said(chance))
        return answers


class ClipScorer:
    """100 x cosine of picture and text by a CLIP model (arXiv:2104.08718, without its clipping)."""

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

        model = CLIPModel.from_pretrained(self.folder, local_files_only=True)
        return model.eval(), CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)

    def see(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[b, width], the image encoder's projected vectors."""
        model, _ = self._network
        seen: Tensor = model.get_image_features(pixel_values=pixels(pictures)).pooler_output
        return seen

    def score(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Rounded to four decimals; a text longer than the encoder reads is cut."""
        import torch
        from torch.nn.functional import cosine_similarity

        model, tokenizer = self._network
        scores: list[float] = []
        with torch.inference_mode():
            for part in parts(len(pictures), self.batch_size):
                tokens = tokenizer(
                    list(texts[part]),
                    padding="max_length",  # one shape for all: no text changes another's score
                    truncation=True,
                    max_length=model.config.text_config.max_position_embeddings,
                    return_tensors="pt",
                )
                seen = self.see(pictures[part])
                read = model.get_text_features(**tokens).pooler_output
                scores += (100 * cosine_similarity(seen, read)).tolist()
        return [round(score, _DIGITS) for score in scores]


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """[b, 3, 64, 64] in [-1, 1]; pictures of another size are resized."""
    import torch

    fitted = [
        picture.convert("RGB")
        if picture.size == (INPUT_PX, INPUT_PX)
        else picture.convert("RGB").resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
        for picture in pictures
    ]
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in fitted]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..count, in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _said(chance: float) -> tuple[str, float]:
    chance = round(chance, _DIGITS)
    return ("yes" if chance >= _YES else "no"), chance


def _weights(folder: str, name: str) -> Path:
    from selma.toybox import weights_folder

    path = weights_folder() / folder
    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{name} needs weights in {path}, but there are none. Reinstall selma, or make them "
            "again with python -m selma.toybox.pretraining."
        )
    return path
