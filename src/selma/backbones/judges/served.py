"""A judge behind a server that speaks OpenAI's protocol and takes images.

Each question is a request of its own, so that no question leads another's answer. What a server
calls by one name may change behind it; the fingerprint knows only what can be known: address, name,
wording and decoding.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from PIL import Image

from selma.backbones.judges.judge import FirstToken, Spelled
from selma.backbones.judges.wordings import QUESTION, MultipleChoice, put_all, wording
from selma.backbones.language.thoughts import answer
from selma.backbones.served import Answered, Request, Requests
from selma.config.places import bare_address
from selma.config.scores import ServedJudge, judge_name
from selma.errors import ModelError
from selma.image_files import png_bytes
from selma.image_modes import plain_rgb
from selma.texts import quoted
from selma.workspace import recipe_key

_DIGITS = 4
_MOST_OF_A_IMAGE = 4096  # tokens; beyond what servers count for one image, for limits on cost
_LISTED = 20  # likeliest first tokens; the most that OpenAI lists
_ROUNDING, _ROUNDING_OF_SUM = 0.01, 0.05
"""What a listed log-probability may be above 0 by, and all of them above 1 in sum, as they come in
half precision."""


class ServedVqaJudge:
    """See `selma.backbones.judges.judge.Judge`."""

    paid = True
    """Its answers may have cost money, so that none is asked for again unbidden."""

    def __init__(
        self,
        settings: ServedJudge,
        *,
        setting: str = "scores.judge",
        first_wait_s: float = 1.0,
    ) -> None:
        """Raises ConfigError for a wording, or where the server's key is not set."""
        self.name = judge_name(settings)
        self._settings = settings
        self._words = wording(settings.prompt or "yes_or_no", QUESTION, key=f"{setting}.prompt")
        self._requests = Requests(
            settings, setting=setting, parallel=settings.parallel, first_wait_s=first_wait_s
        )

    @cached_property
    def fingerprint(self) -> str:
        """Changes with server, model, wording and decoding; not with keys, limits or patience."""
        asked = self._settings
        return recipe_key(
            {
                "server": bare_address(asked.base_url),
                "model": asked.model,
                "words": self._words,
                "temperature": asked.temperature,
                "max_new_tokens": asked.max_new_tokens,
                "logprobs": asked.logprobs,
                "omit": sorted(asked.omit),
            }
        )

    @property
    def about(self) -> dict[str, str]:
        return {"weights": "behind a server", "wording": self._words, "precision": "the server's"}

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """P(yes) is that of the first word, shared between yes and no alone; None where the server
        tells no probabilities, or neither word is among the likeliest. Raises ModelError for one
        that cannot be."""
        texts = [[self._words.format(question=text) for text in group] for group in questions]
        return [
            [self._yes_or_no(answered) for answered in group]
            for group in self._say(images, texts, logprobs=self._settings.logprobs)
        ]

    def choose(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[Sequence[MultipleChoice]],
        *,
        words: str = "selma",
    ) -> list[list[str]]:
        """Free answers to multiple-choice questions, as `VqaJudge.choose` gives them."""
        answers = self._say(images, put_all(questions, words), logprobs=False)
        return [[_read(answered)[0] for answered in group] for group in answers]

    def _yes_or_no(self, answered: Answered) -> tuple[str, float | None]:
        """The answer, and P(yes), which a thought leaves untold."""
        text, thought = _read(answered)
        with self._named():
            return text, None if thought else chance_of_yes(answered.choice)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Raises ModelError, with the server's name, for probabilities that cannot be."""
        try:
            yield
        except ValueError as error:
            raise ModelError(
                f"The judge {self.name} must have probabilities of its first token between 0 and "
                f"1, but {self._requests.where} {error}. Mend the server, name another judge, or "
                "set the judge's logprobs to false where words alone are scored."
            ) from error

    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        """As `judge.Speller` has it, by the tokens that the server lists: what is not among the
        likeliest has no probability. Raises ModelError if it tells none, or one that cannot
        be."""
        texts = [[question.text for question in group] for group in questions]
        replies = self._say(images, texts, logprobs=True)
        return [
            [
                (_read(answered)[0], self._first_tokens(answered, question))
                for answered, question in zip(group, asked, strict=True)
            ]
            for group, asked in zip(replies, questions, strict=True)
        ]

    def _first_tokens(self, answered: Answered, question: Spelled) -> list[FirstToken]:
        text, thought = _read(answered)
        tokens = _tokens(answered.choice)
        if not (text or tokens or thought):
            return [("", 0.0) for _ in question.spellings]  # it said nothing: it is unreadable
        # As the benchmarks' programs do, at the very first token, be it a blank; line breaks and
        # marks without a text are the server's template's, and begin no spelling.
        begun = [token for token in tokens if token.token.strip("\r\n")]
        first = next(iter(begun or tokens), None)
        with self._named():
            listed = None if first is None or thought else _listed(first)
        if listed is None:
            raise ModelError(
                f"The judge {self.name} tells no probability of its answer's first word, of which "
                f"the score of {question.text!r} is made. Name a judge whose server does, or one "
                "that runs here."
            )
        return [_spelled(spelling, listed) for spelling in question.spellings]

    def _say(
        self,
        images: Sequence[Image.Image],
        texts: Sequence[Sequence[str]],
        *,
        logprobs: bool,
    ) -> list[list[Answered]]:
        requests = []
        for image, group in zip(images, texts, strict=True):
            shown = _data_uri(image) if group else ""
            requests += [self._request(shown, text, logprobs) for text in group]
        answered = iter(self._requests.answers(requests))
        return [[next(answered) for _ in group] for group in texts]

    def _request(self, image: str, text: str, logprobs: bool) -> Request:
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": text},
        ]
        asked: dict[str, Any] = {
            "messages": [{"role": "user", "content": content}],
            "temperature": self._settings.temperature,
            "seed": 0,
        }
        if logprobs:
            asked |= {"logprobs": True, "top_logprobs": _LISTED}
        return Request(
            asked,
            self._settings.max_new_tokens,
            most_tokens=len(text.encode()) + _MOST_OF_A_IMAGE,
        )


def _read(answered: Answered) -> tuple[str, bool]:
    """The answer without a thought before it, and whether there is one."""
    text, thought, _ = answer(answered.text)
    return text.strip(), bool(thought)


def chance_of_yes(choice: Any) -> float | None:
    """P(yes) / (P(yes) + P(no)) among the likeliest tokens at the place of the first word, rounded
    to four decimals; None if they are not told or hold neither. Raises ValueError for a
    probability that cannot be, with the end of a sentence."""
    first = next((token for token in _tokens(choice) if _bare(token.token)), None)
    listed = None if first is None else _listed(first)
    if listed is None:
        return None
    mass = {"yes": 0.0, "no": 0.0}
    for token, chance in listed.items():
        if _bare(token) in mass:
            mass[_bare(token)] += chance
    total = sum(mass.values())
    return round(mass["yes"] / total, _DIGITS) if total > 0 else None


def _tokens(choice: Any) -> Sequence[Any]:
    """The reply's tokens with what the server tells of each; none where it tells nothing."""
    return _with_text(getattr(getattr(choice, "logprobs", None), "content", None))


def _with_text(tokens: Any) -> list[Any]:
    """Those of what should be a list of tokens that are."""
    every = tokens if isinstance(tokens, list) else []
    return [token for token in every if isinstance(getattr(token, "token", None), str)]


def _listed(position: Any) -> dict[str, float] | None:
    """Token → its probability, of those listed at a place; None if one of them is not told.

    Raises ValueError for what cannot be a probability, alone or with the others.
    """
    listed: dict[str, float] = {}
    for each in _with_text(getattr(position, "top_logprobs", None)) or [position]:
        token, logprob = each.token, getattr(each, "logprob", None)
        if logprob is None:
            return None
        is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
        if not is_number or math.isnan(logprob) or logprob > _ROUNDING:
            raise ValueError(f"tells the log-probability {quoted(logprob)} of {quoted(token)}")
        # Some servers list a token twice, which makes it no likelier.
        listed[token] = max(listed.get(token, 0.0), min(math.exp(logprob), 1.0))
    total = sum(listed.values())
    if total > 1 + _ROUNDING_OF_SUM:
        raise ValueError(
            f"tells probabilities of {quoted(position.token)} and others that sum to {total:.4g}"
        )
    return {token: chance / max(total, 1.0) for token, chance in listed.items()}


def _spelled(spelling: str, listed: Mapping[str, float]) -> FirstToken:
    """The longest listed token that the spelling begins with; see `judge.FirstToken`.

    A blank alone is the first token of a number in digits, and of nothing else: tokenizers have a
    word with its blank as one token.
    """
    begins = [
        token
        for token in listed
        if token and spelling.startswith(token) and (token.strip() or spelling.strip().isdigit())
    ]
    token = max(begins, key=len, default="")
    chance = float(f"{listed[token]:.4g}") if token else 0.0
    return (token if token.strip() else ""), chance


def _bare(token: str) -> str:
    """The letters of a token, in lower case."""
    return "".join(letter for letter in token if letter.isalpha()).lower()


def _data_uri(image: Image.Image) -> str:
    encoded = base64.b64encode(png_bytes(plain_rgb(image))).decode()
    return f"data:image/png;base64,{encoded}"
