"""Toybox's own byte-level tokenizer in CLIP's format: each of its words is one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
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


def _merges() -> list[tuple[str, str]]:
    """Byte-pair merges that build each word of the lexicon up to one token: the most frequent pair
    first, of equal ones the first in the alphabet.

    `tokenizers` has a trainer, but it breaks ties differently each time it is started, and a course
    that is gone on with would find its tokens exchanged.
    """
    spelt = [[*word[:-1], word[-1] + _SUFFIX] for word in words()]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in spelt):
        pairs = Counter(pair for word in spelt for pair in pairwise(word))
        chosen = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(chosen)
        spelt = [_merged(word, chosen) for word in spelt]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in word:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids [n, tokens], padded and cut to the tokenizer's length."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
