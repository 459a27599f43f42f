"""The text encoder: it learns to read what captions state, and is frozen then, as CLIP's is.

From nothing, a base spends most of its training on learning to read. Here a small head asks the
encoder's tokens for every fact, as a denoiser's cross-attention will.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from selma.toybox.benchmark import benchmark_texts
from selma.toybox.captions import STYLES, Style, caption
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES
from selma.toybox.mismatch import UNSAID
from selma.toybox.pretraining.language import MAX_TOKENS, new_tokenizer, tokenize
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import COLOURS, OPPOSITE, RELATIONS, Finish, Scene, sample_scene, without

NAME = "text-encoder"
TEXT_WIDTH = 128
_QUESTIONS: dict[str, tuple[object, ...]] = {
    "count": (0, None, 1, 2, 3, 4),
    "colour": (None, *COLOURS),
    "pose": POSES,
    "side": (None, *RELATIONS),
}
"""What is asked of each kind; a count of 0 is one that the caption does not name."""
_OF_ALL: dict[str, tuple[object, ...]] = {
    "background": (None, *BACKGROUNDS),
    "style": STYLES,
    "finish": (None, "crisp"),
}


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder of toybox's size."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )


class Reader(nn.Module):
    """The encoder, and a head that asks for the facts of each kind and of the whole caption."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(len(KINDS) + 1, TEXT_WIDTH))
        self.attend = nn.MultiheadAttention(TEXT_WIDTH, 4, batch_first=True)
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.of_kinds = nn.ModuleDict(
            {name: nn.Linear(TEXT_WIDTH, len(values)) for name, values in _QUESTIONS.items()}
        )
        self.of_all = nn.ModuleDict(
            {name: nn.Linear(TEXT_WIDTH, len(values)) for name, values in _OF_ALL.items()}
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Token ids [b, n] → log-odds of each question's answers: [b, kinds, answers], or
        [b, answers] of the whole caption."""
        states = self.encoder(tokens).last_hidden_state
        queries = self.queries.expand(len(tokens), -1, -1)
        x = self.norm(self.attend(queries, states, states, need_weights=False)[0])
        answers = {name: head(x[:, :-1]) for name, head in self.of_kinds.items()}
        return answers | {name: head(x[:, -1]) for name, head in self.of_all.items()}


def train_text_encoder(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves `folder/text-encoder`; returns how often it reads all facts of a held-out
    caption rightly."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    reader = Reader(new_text_encoder(tokenizer)).to(device)

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/{NAME}/{step}")
        texts, answers = lesson(rng, batch)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            read = reader(tokenize(tokenizer, texts).to(device))
        errors = (
            F.cross_entropy(read[name].float().flatten(0, -2), truth.to(device).flatten())
            for name, truth in answers.items()
        )
        return sum(errors, start=torch.zeros((), device=device))

    course = Course(
        NAME,
        reader,
        loss,
        steps=steps,
        learning_rate=1e-3,
        ema_decay=0.995,
        limit_s=limit_s,
        draws={"seed": seed, "batch": batch},
    )
    report = train(course, folder / "checkpoints")
    reader.cpu().eval().encoder.save_pretrained(folder / NAME)
    return report | {"whole": accuracy(reader, tokenizer, seed=seed)}


def lesson(rng: random.Random, count: int) -> tuple[list[str], dict[str, Tensor]]:
    """Captions of all styles, and the positions of the right answers: [n, kinds], or [n]."""
    texts: list[str] = []
    scenes: list[tuple[Scene, Style]] = []
    while len(texts) < count:
        style = rng.choice(STYLES)
        finish: Finish | None = "crisp" if style == "tags" and rng.random() < 0.5 else None
        scene = replace(
            without(sample_scene(rng), rng=rng, drop=UNSAID | {"group": 0.1}), finish=finish
        )
        text = caption(scene, style, rng)
        if text.lower() not in benchmark_texts():
            texts.append(text)
            scenes.append((scene, style))
    return texts, {
        name: torch.tensor([_answers(scene, style, name) for scene, style in scenes])
        for name in (*_QUESTIONS, *_OF_ALL)
    }


def _answers(scene: Scene, style: Style, question: str) -> list[int] | int:
    if question in _OF_ALL:
        value = style if question == "style" else getattr(scene, question)
        return _OF_ALL[question].index(value)
    answers = [0] * len(KINDS)
    for number, group in enumerate(scene.groups):
        side = scene.relation if number == 0 or not scene.relation else OPPOSITE[scene.relation]
        value = side if question == "side" else getattr(group, question)
        if question == "pose":
            value = value or "still"
        answers[KINDS.index(group.kind)] = _QUESTIONS[question].index(value)
    return answers


@torch.no_grad()
def accuracy(reader: Reader, tokenizer: CLIPTokenizer, *, seed: int, captions: int = 2000) -> float:
    """Per cent of held-out captions of which every fact is read rightly."""
    texts, answers = lesson(random.Random(f"{seed}/{NAME}/held-out"), captions)
    read = reader(tokenize(tokenizer, texts))
    right = torch.stack(
        [
            (read[name].argmax(-1) == truth).reshape(captions, -1).all(1)
            for name, truth in answers.items()
        ]
    )
    return round(100 * float(right.all(0).float().mean()), 2)
