"""A causal language model run by transformers: batched, seeded by sample, held to a grammar.

A reply depends on its prompt, its seed and, in the last bits of its logits, on what else is in the
batch; so callers who want equal replies keep their batches equal.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from selma.backbones.hub import hub_commit
from selma.backbones.language.decoding import can_decode, decode
from selma.backbones.language.model import Form, Reply, Sampling
from selma.backbones.language.states import Reading, read_states
from selma.backbones.language.thoughts import THOUGHT, marks_thought, opens_thought
from selma.backbones.quiet import quiet
from selma.config.networks import LocalLLM
from selma.errors import ModelError


class LocalModel:
    """A model in memory; see `selma.backbones.language.model.LanguageModel`."""

    def __init__(self, backend: LocalLLM) -> None:
        self.name = backend.model
        self.parallel = backend.batch_size
        embedded = backend.model == "smollm2"
        # The embedded model stays on the CPU in float32: it is small, and so writes the same
        # prompts with and without an accelerator.
        self.device = "cuda" if torch.cuda.is_available() and not embedded else "cpu"
        self._load(*_source(backend))
        # SmolLM2 with 135 M parameters drifts into chat when it is asked; it continues lists well.
        chats = getattr(self._tokenizer, "chat_template", None) is not None and not embedded
        self.form: Form = "instructions" if chats else "continuation"

    def _load(self, source: str, revision: str | None) -> None:
        quiet("transformers")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                source, revision=revision, padding_side="left"
            )
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                dtype=torch.float32 if self.device == "cpu" else "auto",
                use_safetensors=True,
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"The language model {self.name!r} cannot be loaded: {error}. Name a transformers "
                'folder with safetensors weights, a Hub id, or "smollm2".'
            ) from error
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._ends = _as_list(model.generation_config.eos_token_id) or [
            self._tokenizer.eos_token_id
        ]
        # Whatever the model's authors liked (top_k, penalties) must not bend the distribution.
        model.generation_config = GenerationConfig()
        self._model = model.eval().to(self.device)

    def complete(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        """See `LanguageModel.complete`; at most `parallel` prompts share a forward pass."""
        replies = []
        for start in range(0, len(prompts), self.parallel):
            batch = slice(start, start + self.parallel)
            replies += self._complete_batch(prompts[batch], seeds[batch], sampling)
        return replies

    def states(self, texts: Sequence[str], reading: Reading) -> torch.Tensor:
        """What the model thinks of each text, [n, width] float32; see `language_states`."""
        return read_states(self._model, self._tokenizer, texts, reading, rows=self.parallel)

    @torch.inference_mode()
    def likelihoods(self, texts: Sequence[str], *, after: str) -> list[float]:
        """The mean log-probability of each text's tokens, when it goes on with `after`."""
        start = self._tokenizer(after, return_tensors="pt").to(self.device)
        read = self._model(input_ids=start.input_ids, use_cache=True)
        scores: list[float] = []
        for first in range(0, len(texts), self.parallel):
            part = list(texts[first : first + self.parallel])
            rows = self._tokenizer(part, add_special_tokens=False).input_ids
            width = max(map(len, rows))
            # Padding is on the right, where nothing that counts can see it.
            ids = torch.tensor([row + [self._ends[0]] * (width - len(row)) for row in rows])
            past = copy.deepcopy(read.past_key_values)
            past.batch_repeat_interleave(len(rows))
            further = self._model(input_ids=ids.to(self.device), past_key_values=past).logits
            ahead = read.logits[:, -1:].expand(len(rows), -1, -1)
            logs = torch.cat([ahead, further[:, :-1]], dim=1).float().log_softmax(-1).cpu()
            each = logs.gather(-1, ids[:, :, None]).squeeze(-1)
            scores += [float(each[n, : len(row)].mean()) for n, row in enumerate(rows)]
        return scores

    @torch.inference_mode()
    def _complete_batch(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        chat = self.form == "instructions" and not sampling.grammar
        texts = self._chats(prompts) if chat else list(prompts)
        # A chat template writes the special tokens itself.
        asked = self._tokenizer(texts, add_special_tokens=not chat)["input_ids"]
        opened = [THOUGHT if chat and opens_thought(text) else "" for text in texts]
        matchers = self._matchers(sampling, len(prompts))
        chooser = _Chooser(seeds, sampling, matchers=matchers, end=self._ends[0])
        most = self._room(max(map(len, asked)), sampling.max_new_tokens)
        if self._decodes:
            rows = decode(
                self._model,
                asked,
                choose=chooser.choose,
                ended=lambda new: self._ended(new, sampling),
                most=most,
            )
        else:
            rows = self._generated(asked, chooser, sampling, most)
        return [
            self._reply(row, len(tokens), sampling, before=before)
            for row, tokens, before in zip(rows, asked, opened, strict=True)
        ]

    @cached_property
    def _decodes(self) -> bool:
        return can_decode(self._model)

    def _ended(self, new: Sequence[int], sampling: Sampling) -> bool:
        """Whether a reply's tokens end with the last of them."""
        if new[-1] in self._ends or not sampling.stop:
            return new[-1] in self._ends
        # A token has a byte of text at least; some more, since a tokenizer may strip the first.
        tail = decoded(self._tokenizer, new[-max(len(s.encode()) for s in sampling.stop) - 8 :])
        return any(stop in tail for stop in sampling.stop)

    def _generated(
        self, asked: Sequence[list[int]], chooser: _Chooser, sampling: Sampling, most: int
    ) -> list[list[int]]:
        """As `decode`, of a model of any kind: by transformers' own loop."""
        inputs = self._tokenizer.pad({"input_ids": list(asked)}, return_tensors="pt").to(
            self.device
        )
        width = inputs["input_ids"].shape[1]
        output = self._model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=GenerationConfig(
                do_sample=False,  # the chooser samples; generate only has one token left to take
                max_new_tokens=most,
                eos_token_id=self._ends,
                pad_token_id=self._tokenizer.pad_token_id,
                stop_strings=list(sampling.stop) or None,
            ),
            logits_processor=LogitsProcessorList([chooser]),
            tokenizer=self._tokenizer,
        )
        rows: list[list[int]] = output[:, width:].tolist()
        return rows

    def _chats(self, prompts: Sequence[str]) -> list[str]:
        """Each prompt as the one message of a chat."""
        messages = [[{"role": "user", "content": text}] for text in prompts]
        return list(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )

    def _room(self, width: int, wanted: int) -> int:
        longest = getattr(self._model.config, "max_position_embeddings", None) or width + wanted
        if width >= longest:
            raise ModelError(
                f"{self.name!r} reads at most {longest} tokens, but the request has {width}. "
                "Ask with fewer or shorter examples."
            )
        return min(wanted, longest - width)

    def _reply(
        self, row: list[int], prompt_tokens: int, sampling: Sampling, *, before: str
    ) -> Reply:
        """The reply in a row of tokens, with the tag `before` it that its template has opened."""
        end = next((at for at, token in enumerate(row) if token in self._ends), None)
        tokens = row if end is None else row[:end]
        text = before + decoded(self._tokenizer, tokens)
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        if cuts:
            text = text[: min(cuts)]
        return Reply(
            text=text,
            prompt_tokens=prompt_tokens,
            reply_tokens=len(tokens),
            truncated=end is None and not cuts,
        )

    def _matchers(self, sampling: Sampling, count: int) -> list[LLMatcher] | None:
        if sampling.grammar is None:
            return None
        first = LLMatcher(self._grammar_tokenizer, sampling.grammar)
        if first.is_error():
            raise ModelError(f"The grammar cannot be used: {first.get_error():.400}")
        return [first.deep_copy() for _ in range(count)]

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        try:
            serialised = self._tokenizer.backend_tokenizer.to_str()
        except AttributeError as error:
            raise ModelError(
                f"A lexicon needs a model with a fast tokenizer, but {self.name!r} has none. "
                "Set prompts.lexicon to null, or choose another model."
            ) from error
        width = self._model.config.get_text_config().vocab_size
        return LLTokenizer(serialised, n_vocab=width, eos_token=self._ends)


class _Chooser(LogitsProcessor):
    """Samples each row's next token with the row's own generator and leaves only that one."""

    def __init__(
        self,
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        matchers: list[LLMatcher] | None,
        end: int,
    ) -> None:
        self._random = [random.Random(seed) for seed in seeds]
        self._sampling = sampling
        self._matchers = matchers
        self._end = end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.choose(range(len(scores)), scores)
        only = torch.full_like(scores, -torch.inf)
        only[torch.arange(len(only)), torch.tensor(chosen)] = 0.0
        return only

    def choose(self, rows: Sequence[int], logits: torch.Tensor) -> list[int]:
        """The next token of each of these rows, by its logits [n, vocabulary]."""
        logits = logits.float().cpu()
        chosen = [self._choose(row, logits[n]) for n, row in enumerate(rows)]
        if self._matchers is not None:
            for row, token in zip(rows, chosen, strict=True):
                if not self._matchers[row].is_stopped():
                    self._matchers[row].consume_token(token)
        return chosen

    def _choose(self, row: int, logits: torch.Tensor) -> int:
        if self._matchers is None:
            return _sample(logits, self._sampling, self._random[row])
        matcher = self._matchers[row]
        if matcher.is_error():
            raise ModelError(
                f"The grammar is too large to be followed ({matcher.get_error():.200}). Write it "
                "with fewer exceptions (`~`) and shorter repetitions."
            )
        if matcher.is_stopped():
            return self._end
        allowed = _allowed(matcher, len(logits))
        return int(allowed[_sample(logits[allowed], self._sampling, self._random[row])])


def _allowed(matcher: LLMatcher, width: int) -> torch.Tensor:
    """The ids of the tokens that the grammar can go on with."""
    mask = allocate_token_bitmask(1, width)
    fill_next_token_bitmask(matcher, mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:width]
    return torch.from_numpy(np.flatnonzero(bits))


def _sample(logits: torch.Tensor, sampling: Sampling, rng: random.Random) -> int:
    """An index drawn from softmax(logits / temperature), cut to the nucleus of `top_p`."""
    if sampling.temperature == 0 or len(logits) == 1:
        return int(logits.argmax())
    # In float64 the cumulative sum of 50 000 probabilities stays exact enough to be searched.
    shares = torch.softmax(logits.double() / sampling.temperature, dim=0)
    order = None
    if sampling.top_p < 1:
        shares, order = shares.sort(descending=True, stable=True)
        shares = shares[: int((shares.cumsum(0) < sampling.top_p).sum()) + 1]
    reached = shares.cumsum(0)
    generated = torch.tensor(rng.random() * float(reached[-1]), dtype=torch.double)
    index = min(int(torch.searchsorted(reached, generated, right=True)), len(shares) - 1)
    return index if order is None else int(order[index])


def _source(backend: LocalLLM) -> tuple[str, str | None]:
    """Folder or Hub id, and the commit of the latter."""
    if backend.model == "smollm2":
        from selma.backbones.language.smollm2 import unpacked_folder

        return str(unpacked_folder()), None
    if Path(backend.model).is_dir():
        return str(Path(backend.model)), None
    setting = "prompts.backend.model"
    return backend.model, hub_commit(backend.model, backend.revision, setting=setting)


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text, with special tokens only where they mark a thought."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    marked = str(tokenizer.decode(tokens, skip_special_tokens=False))
    return marked if marks_thought(marked) and not marks_thought(text) else text


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [int(value)]
