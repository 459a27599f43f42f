"""Tokens for a batch of prompts: what all of them begin with is read once, and a row that has ended
is computed no more.

A skill's requests share their rules, which are most of their tokens, and its replies end at all
lengths. `generate` of transformers reads every row from its beginning, and goes on with all of them
until the longest has ended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

_TAKES = {"position_ids", "past_key_values", "logits_to_keep"}


def can_decode(model: Any) -> bool:
    """Whether the model keeps keys and values of all tokens, and nothing else: then it does not
    matter where a prompt is padded, nor whether a row leaves the batch."""
    takes = inspect.signature(model.forward).parameters.keys()
    if getattr(model, "_is_stateful", False) or not takes >= _TAKES:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    choose: Callable[[Sequence[int], torch.Tensor], Sequence[int]],
    ended: Callable[[Sequence[int]], bool],
    most: int,
) -> list[list[int]]:
    """The tokens that go on with each prompt, in inference mode; of a model that `can_decode`.

    choose: numbers of prompts, and logits [n, vocabulary] of their next token → that token of each.
    ended: whether a prompt's new tokens are all; at `most` they are.
    """
    count, device = len(prompts), model.device
    # Each prompt keeps a token of its own, to go on from; a single one has nothing in common.
    beginnings = zip(*(prompt[:-1] for prompt in prompts), strict=False) if count > 1 else ()
    common = sum(1 for _ in takewhile(lambda tokens: len({*tokens}) == 1, beginnings))
    width = max(map(len, prompts)) - common
    past = Cache(
        layers=[
            _Rows(count, common + width + most)
            for _ in range(model.config.get_text_config().num_hidden_layers)
        ]
    )
    if common:
        beginning = torch.tensor([prompts[0][:common]], device=device)
        model(input_ids=beginning, past_key_values=past, use_cache=True, logits_to_keep=1)
    # Padding lies between the common beginning and the rest, where no token looks.
    padding = [common + width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * n + list(p[common:]) for n, p in zip(padding, prompts, strict=True)])
    seen = torch.ones(count, common + width, dtype=torch.long)
    for row, n in enumerate(padding):
        seen[row, common : common + n] = 0
    ids, seen = ids.to(device), seen.to(device)
    rows, new = list(range(count)), [list[int]() for _ in prompts]
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=seen,
            # Padding has a position, too: a model with a table of them looks it up.
            position_ids=(seen.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for row, token in zip(rows, choose(rows, logits), strict=True):
            new[row].append(token)
        live = _places([len(new[row]) < most and not ended(new[row]) for row in rows])
        if not live:
            return new
        if len(live) < len(rows):
            rows, seen = [rows[place] for place in live], seen[live]
            for layer in past.layers:
                layer.keep(live)
        ids = torch.tensor([new[row][-1:] for row in rows], device=device)
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)


def _places(live: Sequence[bool]) -> list[int]:
    """The places of live rows, in an order by which few of them move: the last ones take those of
    rows that ended."""
    places = list(range(len(live)))
    for place in reversed(places[:]):
        if not live[place]:
            places[place] = places[-1]
            places.pop()
    return places


class _Rows(DynamicLayer):
    """Keys and values [rows, heads, tokens, width] in room for all that may come; joining what is
    there with each new token would copy it every time."""

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__()
        self._rows, self._tokens = rows, tokens
        self._room: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of all tokens, the given ones last; a single row's become every row's."""
        if not self._room:
            self.lazy_initialization(key_states, value_states)
            self._room = [
                states.new_empty(self._rows, states.shape[1], self._tokens, states.shape[3])
                for states in (key_states, value_states)
            ]
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        count = len(key_states)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[: self._rows, :, start:end] = states
        self.keys, self.values = (room[:count, :, :end] for room in self._room)
        return self.keys, self.values

    def keep(self, places: Sequence[int]) -> None:
        """Keep these rows, in this order: a row moves to the place of one that is left out."""
        for room in self._room:
            for place, row in enumerate(places):
                if place != row:
                    room[place] = room[row]
        self._rows = len(places)
