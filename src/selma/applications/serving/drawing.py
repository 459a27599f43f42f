"""One model in memory that draws as the base or with any of a run's adapters, one image at a
time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from selma.adapters.applying import applied
from selma.errors import SelmaError
from selma.image_files import png_bytes
from selma.records.adapters import AppliedAdapter

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

MOST_WAITING = 32
"""Images that are asked for and not begun."""


class Busy(SelmaError):
    """More is asked for than waits in line."""


@dataclass(frozen=True)
class Order:
    """One image."""

    model: str
    text: str
    seed: int
    steps: int
    guidance: float


class Drawing:
    """Images by name of model, in the order in which they are asked for. A context manager, at
    whose end the adapter is taken off."""

    def __init__(
        self,
        model: TextToImage,
        models: Mapping[str, Sequence[AppliedAdapter]],
        *,
        fingerprints: Mapping[str, str],
        steps: int,
        guidance: float,
    ) -> None:
        """models: name → what is applied to the base.  steps, guidance: where none are asked."""
        self.models, self.fingerprints = models, fingerprints
        self.steps, self.guidance = steps, guidance
        self.px = model.image_px
        self.most_steps: int = model.pipe.scheduler.config.num_train_timesteps
        self._model = model
        self._applied: tuple[str, ExitStack] | None = None
        self._worker = ThreadPoolExecutor(1)  # one at a time: each has the whole model
        self._waiting = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.shutdown(cancel_futures=True)
        self._take_off()

    def ask(self, order: Order) -> Future[bytes]:
        """The PNG, when its turn comes. Raises Busy if too many wait."""
        with self._lock:
            if self._waiting >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} images wait already. Ask again later.")
            self._waiting += 1
        future = self._worker.submit(self._draw, order)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[bytes]) -> None:
        with self._lock:
            self._waiting -= 1

    def _draw(self, order: Order) -> bytes:
        self._put_on(order.model)
        (image,) = self._model.generate(
            [order.text],
            seeds=[order.seed],
            steps=order.steps,
            guidance=order.guidance,
            batch_size=1,
        )
        return png_bytes(image)

    def _put_on(self, name: str) -> None:
        """Apply the model's adapters, unless they are on since the last image."""
        if self._applied is not None and self._applied[0] == name:
            return
        self._take_off()
        stack = ExitStack()
        stack.enter_context(applied(self._model, self.models[name]))
        self._applied = name, stack

    def _take_off(self) -> None:
        if self._applied is not None:
            self._applied[1].close()
            self._applied = None
