"""Models that live in an engine's workers, used as if they were here."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partialmethod
from typing import Any

from pydantic import TypeAdapter

from selma.backbones.judges import loading as judging
from selma.backbones.judges.judge import Judge, Scorer
from selma.backbones.preference import scorers as preference
from selma.backbones.preference.scorers import PreferenceScorer
from selma.config.networks import BaseConfig
from selma.config.places import absolute
from selma.config.scores import AnyJudge, AnyScorer
from selma.config.section import Section
from selma.engines.engine import Engine, Worker
from selma.records.adapters import AppliedAdapter
from selma.records.guides import AppliedGuide
from selma.scores.networks import Loaders

ASKED = ("answer", "choose", "spell", "score")
"""What networks do with images."""
TEXTS_AT_ONCE = 1000
AHEAD = 2
"""Chunks for each worker, so that one is there when it has done another."""


class DrawnElsewhere:
    """A base in every worker; implements `images.generating.Elsewhere`."""

    def __init__(self, base: BaseConfig, engine: Callable[[], Engine]) -> None:
        self._worker = Worker(image_worker, (absolute(base).model_dump_json(),))
        self._engine = engine

    @cached_property
    def image_px(self) -> int:
        return int(self._one(("image_px", None)))

    def cut(self, texts: Sequence[str]) -> list[int]:
        parts = (
            ("cut", texts[start : start + TEXTS_AT_ONCE])
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        )
        return [count for part in self._engine().map(self._worker, parts) for count in part]

    def drawn(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        adapters: Sequence[AppliedAdapter],
        guide: AppliedGuide | None,
    ) -> Generator[bytes]:
        adapters = [a.model_copy(update={"path": a.path.absolute()}) for a in adapters]
        tasks = (
            ("draw", {
                "texts": texts[start : start + batch_size],
                "seeds": seeds[start : start + batch_size],
                "steps": steps,
                "guidance": guidance,
                "adapters": adapters,
                "guide": guide,
            })
            for start in range(0, len(texts), batch_size)
        )  # fmt: skip
        for images in self._engine().map(self._worker, tasks):
            yield from images

    def _one(self, task: tuple[str, Any]) -> Any:
        return next(iter(self._engine().map(self._worker, [task])))


def image_worker(base: str) -> Callable[[tuple[str, Any]], Any]:
    """Loads a base; does what `DrawnElsewhere` asks."""
    from selma.adapters.applying import applied
    from selma.backbones.text_to_image import load_text_to_image
    from selma.image_files import png_bytes
    from selma.images.guides.applying import guided

    model = load_text_to_image(BaseConfig.model_validate_json(base))

    def draw(task: dict[str, Any]) -> list[bytes]:
        adapters, guide = task.pop("adapters"), task.pop("guide")
        with applied(model, adapters), guided(model, guide):
            images = model.generate(batch_size=len(task["texts"]), **task)
            return [png_bytes(image) for image in images]

    def do(task: tuple[str, Any]) -> Any:
        what, value = task
        if what == "image_px":
            return model.image_px
        if what == "cut":
            return [model.tokens_cut(text) for text in value]
        return draw(value)

    return do


def loaders(engine: Callable[[], Engine]) -> Loaders:
    """As the usual loaders of scoring networks, except that what they load is asked in workers."""

    def judge(settings: AnyJudge, **where: str) -> Judge:
        own = judging.load_judge(settings, **where)
        if getattr(own, "paid", False):  # a server's, which takes several requests by itself
            return own
        asked: Judge = _asked_elsewhere(own, Worker(judge_worker, (_json(settings),)), engine)
        return asked

    def scorer(name: str) -> Scorer:
        own = judging.load_scorer(name)
        asked: Scorer = _asked_elsewhere(own, Worker(clip_worker, (name,)), engine)
        return asked

    def preferred(settings: Any) -> PreferenceScorer:
        own = preference.load_preference(settings)
        worker = Worker(scorer_worker, (_json(settings),))
        asked: PreferenceScorer = _asked_elsewhere(own, worker, engine)
        return asked

    return Loaders(judge=judge, scorer=scorer, preference=preferred)


def judge_worker(settings: str) -> Callable[[tuple[str, Any, Any]], Any]:
    return _asking(judging.load_judge(_settings(AnyJudge, settings)))


def clip_worker(name: str) -> Callable[[tuple[str, Any, Any]], Any]:
    return _asking(judging.load_scorer(name))


def scorer_worker(settings: str) -> Callable[[tuple[str, Any, Any]], Any]:
    return _asking(preference.load_preference(_settings(AnyScorer, settings)))


def _settings(kinds: Any, text: str) -> Any:
    """Settings of a kind from what `_json` made of them."""
    return TypeAdapter(kinds).validate_python(json.loads(text))


def _json(settings: str | Section) -> str:
    if isinstance(settings, Section):
        return json.dumps(absolute(settings).model_dump(mode="json"))
    return json.dumps(settings)


def _asking(network: Any) -> Callable[[tuple[str, Any, Any]], Any]:
    """Does what `_Asked` asks."""

    def do(task: tuple[str, Any, Any]) -> Any:
        method, values, named = task
        return getattr(network, method)(*values, **named)

    return do


class _Asked:
    """A network that is here but for its weights: only what it is asked about images goes to a
    worker."""

    def __init__(self, own: Any, worker: Worker, engine: Callable[[], Engine]) -> None:
        self._own = own
        self._worker = worker
        self._engine = engine

    @property
    def at_once(self) -> int:
        """How many chunks of work it may be asked at the same time."""
        return AHEAD * self._engine().workers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def _ask(self, method: str, *values: Any, **named: Any) -> Any:
        return next(iter(self._engine().map(self._worker, [(method, values, named)])))


def _asked_elsewhere(own: Any, worker: Worker, engine: Callable[[], Engine]) -> Any:
    """A network with exactly the methods that it has, by which it is told what it can be asked."""
    methods: dict[str, Any] = {
        name: partialmethod(_Asked._ask, name) for name in ASKED if hasattr(own, name)
    }
    if hasattr(own, "unread"):  # loads nothing
        methods["unread"] = lambda self, questions: own.unread(questions)
    return type("Elsewhere", (_Asked,), methods)(own, worker, engine)
