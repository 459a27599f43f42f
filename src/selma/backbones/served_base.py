"""A base on a server: what it must show before its images count, and what tells it from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from selma.backbones import hub
from selma.backbones.image_servers.dialect import SentAdapter, Wish
from selma.backbones.image_servers.sglang import ACTIVE, SET, UNSET, active, setting_of
from selma.backbones.served_images import ImageRequests, named
from selma.config.networks import ServedBase
from selma.config.places import bare_address
from selma.disk import make_folder, write_bytes
from selma.errors import AdapterError, BackendError, WorkspaceError
from selma.workspace import recipe_key

if TYPE_CHECKING:
    from PIL import Image

    from selma.backbones.image_servers.dialect import Dialect

PROBE = "a red square and a blue circle"
"""The text of the images by which a server is tried."""
_PROBE_STEPS, _PROBE_SEEDS = 4, (1, 2)
_MORE_GUIDANCE, _MOST_GUIDANCE = 1.5, 20.0  # vLLM-Omni takes no more
OURS = "selma-"
"""What the names of adapters that are sent begin with."""
_UNTOLD = "untold"
_IGNORED = {
    "seed": "Check {setting}.dialect, which says how the seed is sent.",
    "steps": "Check {setting}.dialect; a server with a cache or fixed steps cannot be used.",
    "guidance": "Set {setting}.guidance_as to the name by which it takes guidance, or to null for "
    "a model that has none.",
}
"""What was changed without an effect → what to do."""


class ServedTextToImage:
    """A base on a server, as far as it generates."""

    def __init__(
        self,
        base: ServedBase,
        *,
        note: Callable[..., None] | None = None,
        spent: float = 0.0,
        first_wait_s: float = 1.0,
    ) -> None:
        self.base = base
        self.fingerprint = served_fingerprint(base)
        self._note = note or (lambda **_: None)
        self._requests = ImageRequests(base, note=note, spent=spent, first_wait_s=first_wait_s)
        self._adapter: SentAdapter | None = None
        self._probed: dict[Wish, Image.Image] = {}

    @property
    def image_px(self) -> int:
        """Side of the square images."""
        return self.base.image_px

    @property
    def dialect(self) -> Dialect:
        return self._requests.dialect

    @property
    def where(self) -> str:
        """The server and its model, for messages."""
        return self._requests.where

    def tokens_cut(self, text: str) -> int:
        """Always 0: only the server knows its tokenizer."""
        return 0

    def generate(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        before: Callable[[Sequence[int]], None] | None = None,
    ) -> Iterator[Image.Image]:
        """See `TextToImage.generate`; `base.parallel` stands for the batch size. Raises
        BackendError, ahead of the first image if the server does not do as it is asked."""
        if len(texts) != len(seeds):
            raise ValueError(f"Each text needs one seed, but {len(texts)} and {len(seeds)} came.")
        if before is not None:
            raise BackendError(f"{self.where} cannot be changed between two images.")
        if served_fingerprint(self.base, anew=True) != self.fingerprint:
            raise BackendError(
                f"{self.where} is not of the version any more with which this began. Run the same "
                "command again: what came before is kept apart from what comes."
            )
        self._probe(steps, guidance)
        wishes = [
            Wish(self.base, text, seed, steps, guidance, self._with_request)
            for text, seed in zip(texts, seeds, strict=True)
        ]
        for drawn in self._requests.stream(wishes):
            yield drawn.image

    @contextmanager
    def adapted(self, adapter: SentAdapter) -> Iterator[None]:
        """While the block runs, images are generated with an adapter that lies where the server
        can read it. Raises AdapterError within another such block."""
        if self._adapter is not None:
            raise AdapterError("Only one adapter can be sent at a time; leave the first block.")
        self._adapter = adapter
        try:
            yield
        finally:
            self._adapter = None
            if self._requests.set_for_all is not None:
                self._take_back()

    @property
    def _with_request(self) -> SentAdapter | None:
        return self._adapter if self.dialect.adapters == "request" else None

    def _take_back(self) -> None:
        """Have the whole server draw with its base. What a run that was killed left is taken back,
        too."""
        self._requests.set_for_all = None
        names = active(self._requests.told(ACTIVE) or {})
        if others := {name for name in names if not name.startswith(OURS)}:
            raise BackendError(
                f"{self.where} has {named(others)} set, by somebody else. Take it back ({UNSET}), "
                "or name a server that nobody else uses."
            )
        if names:
            self._requests.post(UNSET, {"target": "all"})

    def _probe(self, steps: int, guidance: float) -> None:
        """Raises BackendError or AdapterError unless the server does as it is asked."""
        for_all, adapter = self.dialect.adapters == "server", self._adapter
        wish = Wish(self.base, PROBE, _PROBE_SEEDS[0], min(steps, _PROBE_STEPS), guidance)
        self._require_settled(steps, guidance)
        if for_all and (wish not in self._probed or adapter is None):
            self._take_back()
        if wish not in self._probed:
            self._probed[wish] = self._probe_base(wish)
        if adapter is None:
            return
        if for_all and self._requests.set_for_all is None:
            self._requests.post(SET, setting_of(adapter))
            self._requests.set_for_all = adapter
        adapted = replace(wish, adapter=adapter)
        if adapted in self._probed:
            return
        sent = replace(wish, adapter=self._with_request)
        self._probed[adapted] = self._requests.answers([sent])[0].image
        if self.base.deterministic and _equal(self._probed[adapted], self._probed[wish]):
            raise AdapterError(
                f"{self.where} draws the same with {adapter.path} as without: it does not apply "
                "it. See that the server reads this path, and that the adapter is of its model."
            )

    def _probe_base(self, wish: Wish) -> Image.Image:
        """The image, after all that is asked for has had its effect."""
        if self.dialect.seeds is None:
            return self._requests.answers([wish])[0].image
        changed = {
            "seed": replace(wish, seed=_PROBE_SEEDS[1]),
            "steps": replace(wish, steps=wish.steps + 1),
        }
        if self.base.guidance_as is not None:
            more = wish.guidance + _MORE_GUIDANCE
            other = more if more <= _MOST_GUIDANCE else wish.guidance - _MORE_GUIDANCE
            changed["guidance"] = replace(wish, guidance=other)
        drawn = self._requests.answers([wish, wish, *changed.values()])
        first, again, *others = (each.image for each in drawn)
        same = _equal(first, again)
        self._note(event="probe", model=self.base.model, same_seed_same_image=same)
        if not same and self.base.deterministic:
            raise BackendError(
                f"{self.where} sends other images when it is asked for the same with the same "
                "seed, so that none can be made again. Have it generate one at a time or by "
                f"deterministic kernels, or set {self.base.setting}.deterministic to false, which "
                "is recorded."
            )
        ignored = [w for w, image in zip(changed, others, strict=True) if _equal(first, image)]
        if ignored:
            hint = _IGNORED[ignored[0]].format(setting=self.base.setting)
            raise BackendError(
                f"{self.where} sends the same image for other {' and other '.join(ignored)}: it "
                f"ignores what it is asked. {hint}"
            )
        return first

    def _require_settled(self, steps: int, guidance: float) -> None:
        """Raises BackendError if the server generates with other values whatever it is asked."""
        if self.dialect.settled is None:
            return
        path, read = self.dialect.settled
        try:
            settled = read(self._requests.told(path))
        except (AttributeError, KeyError, TypeError):
            raise BackendError(
                f"{self.where} does not tell at {path} what it generates with. Check "
                f"{self.base.setting}.dialect."
            ) from None
        asked = {"num_inference_steps": steps, "guidance_scale": guidance}
        for name, value in settled.items():
            if value != asked[name]:
                raise BackendError(
                    f"{self.where} generates with {name} {value} whatever it is asked, but "
                    f"{asked[name]} is wanted. Start it with that, or set steps and guidance to "
                    "its own."
                )


def served_fingerprint(base: ServedBase, *, anew: bool = False) -> str:
    """64 hex digits that change with the server's program, its version where it tells that, the
    model's name, and what is asked of it beside text, seed, steps and guidance.

    anew: ask the server for its version, whatever is known; else `base.revision` is taken as true,
    and where the server cannot be asked what it last said. Raises BackendError if that is nothing,
    or if the server has another version than `base.revision`.
    """
    identity = {
        "dialect": base.dialect,
        "model": base.model,
        "version": _version(base, anew=anew),
        "image_px": base.image_px,
        "guidance_as": base.guidance_as,
        "negative_prompt": base.negative_prompt,
        "deterministic": base.deterministic,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


_VERSIONS: dict[tuple[str | None, str, str], str] = {}
"""(address, program, model) → what the server says of its version."""


def _version(base: ServedBase, *, anew: bool) -> str:
    if base.revision is not None and not anew:
        return base.revision
    key = (bare_address(base.base_url), base.dialect, base.model)
    if anew or key not in _VERSIONS:
        record = hub.cache_folder() / "servers" / recipe_key({"server": key})

        def ask() -> str:
            try:
                version = _ask_version(base)
            except BackendError:
                with suppress(OSError):  # what was made before can be looked at without the server
                    if not anew and (last := record.read_text("utf-8")):
                        return last
                raise
            with suppress(OSError, WorkspaceError):
                make_folder(record.parent)
                write_bytes(record, version.encode())
            return version

        version = hub.or_unknown(base.model, ask, failures=BackendError)
        if version == hub.UNKNOWN:
            return version
        _VERSIONS[key] = version
    version = _VERSIONS[key]
    if base.revision not in (None, version):
        raise BackendError(
            f"{base.setting}.revision wants version {base.revision} of the server, but it says "
            f"that it is {version}. Start that one, or take {base.setting}.revision out."
        )
    return version


def _ask_version(base: ServedBase) -> str:
    asking = ImageRequests(base)
    if asking.dialect.identity is None:
        return _UNTOLD
    path, read = asking.dialect.identity
    answer = asking.told(path)
    try:
        return (answer and read(answer, base.model)) or _UNTOLD
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return _UNTOLD


def _equal(a: Image.Image, b: Image.Image) -> bool:
    return a.tobytes() == b.tobytes()
