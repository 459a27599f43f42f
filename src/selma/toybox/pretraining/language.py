"""Toybox's own byte-level tokenizer in CLIP's format: each of its words is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from selma.toybox.lexicon import words

MAX_TOKENS = 40
_START, _END, _SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def new_tokenizer() -> CLIPTokenizer:
    """Any text can be encoded; toybox's words take one token each."""
    letters = sorted(ByteLevel.alphabet())
    merges = _merges()
    tokens = [*letters, *(letter + _SUFFIX for letter in letters)]
    tokens += [left + right for left, right in merges]
    tokens += [_START, _END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
    )


def save_tokenizer(folder: Path) -> None:
    new_tokenizer().save_pretrained(folder)


def _merges() -> list[tuple[str, str]]:
    """Byte-pair merges that build each word of the lexicon up to one token."""
    learner = Tokenizer(BPE(end_of_word_suffix=_SUFFIX))
    learner.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=10_000, end_of_word_suffix=_SUFFIX, show_progress=False)
    learner.train_from_iterator([" ".join(words())] * 3, trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in learnt]
