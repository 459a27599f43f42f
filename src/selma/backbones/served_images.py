"""Images of a server that speaks OpenAI's images protocol.

One image a request, whose seed, size, steps and guidance are said. Every reply is looked at: an
image of another size, an address in place of an image, or other values than were asked for are no
image of this prompt.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selma.backbones.exchange import Exchange, Passing, run
from selma.backbones.image_servers import DIALECTS
from selma.backbones.image_servers.dialect import Dialect, SentAdapter, Wish
from selma.backbones.image_servers.sglang import ACTIVE, active
from selma.backbones.refusals import OF_IMAGES, reason
from selma.backbones.transport import MOST_BYTES
from selma.config.networks import ServedBase
from selma.errors import BackendError, DataError
from selma.image_files import decode
from selma.texts import quoted

if TYPE_CHECKING:
    import openai
    from PIL import Image

_PATH = "/images/generations"
_BYTES_OF_PIXEL = 8  # of a reply: PNG of noise as base64, and half as much again
_TOLD = {
    "size",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "revised_prompt",
}
"""What a reply may say of how its image came to be."""


@dataclass(frozen=True)
class Drawn:
    """One image, and what the server says beside it."""

    image: Image.Image
    told: dict[str, Any]


class ImageRequests(Exchange[Wish, Drawn]):
    """All requests for images to one server; see `Exchange`."""

    what = "reply with an image"
    advice = OF_IMAGES

    def __init__(
        self,
        base: ServedBase,
        *,
        note: Callable[..., None] | None = None,
        spent: float = 0.0,
        first_wait_s: float = 1.0,
    ) -> None:
        super().__init__(
            base,
            setting=base.setting,
            parallel=base.parallel,
            note=note,
            spent=spent,
            first_wait_s=first_wait_s,
        )
        self.base = base
        self.dialect: Dialect = DIALECTS.find(base.dialect, setting=f"{base.setting}.dialect")
        self.most_bytes = max(MOST_BYTES, _BYTES_OF_PIXEL * base.image_px**2)
        self.set_for_all: SentAdapter | None = None
        """The adapter that the whole server is to have, where it is not sent with a request."""

    def told(self, path: str) -> Any:
        """The JSON that the server has at a path below its root; None where it has nothing there.
        Raises BackendError if it cannot be reached."""
        return run(self._told(path))

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Change the server's state. Raises BackendError unless it does as it is told."""

        async def posted() -> None:
            async with self._client() as client:
                try:
                    await client.post(self._at(client, path), body=body, cast_to=object)
                except Exception as error:
                    raise BackendError(
                        f"{self.where} did not take {path}: {self._judged(error)}."
                    ) from None

        run(posted())

    async def _told(self, path: str, client: openai.AsyncOpenAI | None = None) -> Any:
        import openai

        if client is None:
            async with self._client() as own:
                return await self._told(path, own)
        try:
            return await client.get(self._at(client, path), cast_to=object)
        except openai.APIStatusError as error:
            if error.status_code < 500:
                return None
            reason: Exception = error
        except Exception as error:
            reason = error
        raise BackendError(
            f"{self.where} cannot be asked what it is: {self._judged(reason)}. Start it; to look "
            f"at what is finished, {self._setting}.revision can say its version instead."
        ) from None

    def _at(self, client: openai.AsyncOpenAI, path: str) -> str:
        root = str(client.base_url).rstrip("/").removesuffix("/v1")
        return f"{root}{path}"

    async def _ask(self, client: openai.AsyncOpenAI, request: Wish) -> Any:
        answer = await client.post(_PATH, body=self.dialect.body(request), cast_to=object)
        if self.dialect.adapters == "server":
            await self._require_set(client)
        return answer

    async def _require_set(self, client: openai.AsyncOpenAI) -> None:
        """A server that was started anew, or is used by others, has another adapter than it was
        told, or none; it draws all the same."""
        names = active(await self._told(ACTIVE, client) or {})
        wanted = {self.set_for_all.name} if self.set_for_all else set()
        if names != wanted:
            raise BackendError(
                f"{self.where} was to draw with {named(wanted)}, but has {named(names)}. It was "
                "started anew, or somebody else sets its adapters; run the same command to go on."
            )

    def _read(self, answer: Any, request: Wish, most: float) -> Drawn:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list) or not data or not isinstance(data[0], dict):
            raise Passing(f"the answer holds no image{self._without_key(_instead(answer))}")
        encoded = data[0].get("b64_json")
        if not isinstance(encoded, str) or not encoded:
            if data[0].get("url"):
                raise BackendError(
                    f"{self.where} sends the address of an image instead of the image, which is "
                    f"not fetched. Check {self._setting}.dialect, or have it send b64_json."
                )
            raise Passing("the answer holds no image")
        px = request.base.image_px
        try:
            image = decode(base64.b64decode(encoded, validate=True), max_pixels=4 * px**2)
        except (binascii.Error, DataError) as error:
            raise Passing(f"the image cannot be read: {error}") from None
        if image.size != (px, px):
            raise BackendError(
                f"{self.where} was asked for {px}x{px} pixels, but sent {image.width}x"
                f"{image.height}. Set {self._setting}.image_px to a size that it keeps to."
            )
        beside = {k: v for k, v in {**answer, **data[0]}.items() if k in _TOLD and v is not None}
        self._require_asked(request, beside)
        self._require_no_secret(json.dumps(beside))
        if beside.pop("revised_prompt", None) not in (None, request.text):
            beside["revised"] = True
        return Drawn(image, beside)

    def _require_asked(self, request: Wish, used: Mapping[str, Any]) -> None:
        """Raises BackendError where the server says that it used something else."""
        asked = {"size": request.plain["size"]}
        if (seeds := self.dialect.seeds) is not None:
            asked |= request.sampling(seeds=seeds)
        for name, value in asked.items():
            if name in used and used[name] != value:
                raise BackendError(
                    f"{self.where} was asked for {name} {quoted(value)}, but says that it used "
                    f"{quoted(used[name])}. Ask for what it takes."
                )

    def _most(self, request: Wish) -> float:
        return self.base.price_per_image

    def _cost(self, got: Drawn) -> float:
        return self.base.price_per_image

    def _facts(self, got: Drawn) -> dict[str, Any]:
        return {"told": got.told} if got.told else {}


def _instead(answer: Any) -> str:
    """What an answer without an image is, in the server's words."""
    words = answer if isinstance(answer, str) else answer and json.dumps(answer)
    return f": {said}" if isinstance(words, str) and (said := reason(words)) else ""


def named(adapters: Collection[str]) -> str:
    """Adapters in words."""
    return f"the adapter {', '.join(sorted(map(quoted, adapters)))}" if adapters else "no adapter"
