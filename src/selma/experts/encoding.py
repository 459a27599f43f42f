"""Pairs → what training reads: moments of the latents and text embeddings, computed once.

Moments (mean and log-variance) and not one sample: a fresh sample is drawn in every step, as it
would be if the autoencoder ran inside the loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor

from selma.adapters.files import given, write_safetensors
from selma.errors import DataError
from selma.experts.flipping import may_flip
from selma.image_files import decode
from selma.progress import progress
from selma.records.images import Pair
from selma.workspace import EXPERTS, Workspace

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch

AT_ONCE = 8  # pictures in one pass of the autoencoder; the result is kept, so speed hardly matters
FILE = "encoded.safetensors"


@dataclass(frozen=True)
class Encoded:
    """One skill's pairs in memory, float32."""

    mean: Tensor
    """[n, c, h, w], unscaled latents."""
    logvar: Tensor
    mirrored_mean: Tensor | None
    """Of the mirror image; where the caption forbids mirroring, of the picture itself."""
    mirrored_logvar: Tensor | None
    text: Tensor
    """[n, tokens, width]."""
    empty_text: Tensor
    """[1, tokens, width], the unconditional one that drawing uses."""
    pooled: Tensor | None = None
    """[n, width], SDXL only."""
    empty_pooled: Tensor | None = None
    time_ids: Tensor | None = None
    """[n, 6], SDXL only: original height and width, top and left of the crop, target size."""

    def __len__(self) -> int:
        return len(self.mean)

    def samples(self, batch: Batch) -> Samples:
        """What the batch's samples are trained on; its `posterior` says where in their posteriors
        the latents lie."""
        i = batch.indices
        mean, logvar = self.mean[i], self.logvar[i]
        if self.mirrored_mean is not None and self.mirrored_logvar is not None:
            flipped = batch.mirrored.view(-1, 1, 1, 1)
            mean = torch.where(flipped, self.mirrored_mean[i], mean)
            logvar = torch.where(flipped, self.mirrored_logvar[i], logvar)
        text, pooled = self.text[i], None
        text = torch.where(batch.dropped.view(-1, 1, 1), self.empty_text, text)
        if self.pooled is not None and self.empty_pooled is not None:
            pooled = torch.where(batch.dropped.view(-1, 1), self.empty_pooled, self.pooled[i])
        return Samples(
            latents=mean + (0.5 * logvar).exp() * batch.posterior,
            text=text,
            pooled=pooled,
            time_ids=None if self.time_ids is None else self.time_ids[i],
        )


@dataclass(frozen=True)
class Samples:
    """One batch as the network sees it."""

    latents: Tensor
    """[b, c, h, w], unscaled."""
    text: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None

    def to(self, device: torch.device) -> Samples:
        columns = (self.latents, self.text, self.pooled, self.time_ids)
        latents, text, *rest = (None if c is None else c.to(device) for c in columns)
        return Samples(latents, text, *rest)  # type: ignore[arg-type]

    def conditions(self, dtype: torch.dtype) -> dict[str, Tensor] | None:
        """What SDXL's network takes beside the text; None for others."""
        if self.pooled is None or self.time_ids is None:
            return None
        return {"text_embeds": self.pooled.to(dtype), "time_ids": self.time_ids.to(dtype)}


def encode_pairs(
    pairs: Sequence[Pair],
    folder: Workspace,
    *,
    skill: str,
    flip: bool,
    digests: Sequence[str],
    recipe: Mapping[str, Any],
    model: Callable[[], TextToImage],
) -> Encoded:
    """The skill's pairs, from `3-experts/_encoded/<skill>` if they are there.

    digests: the pictures' sha256.  recipe: all that the result depends on.
    Raises DataError for a picture that is damaged, too large or has changed.
    """
    item = folder.item(EXPERTS, "_encoded", skill, recipe=recipe)
    if not item.done:
        path = item.begin() / FILE
        tensors = _encode(model(), pairs, digests, flip=flip, skill=skill)
        write_safetensors(path, given(tensors), metadata={"format": "pt"})
        item.finish([path], {"pairs": len(pairs)})
    # A flipped bit in a cache would be trained on without a word; reading it costs little.
    item.verify()
    found = safetensors.torch.load_file(item.path / FILE)
    parts: dict[str, Any] = {name: found.get(name) for name in Encoded.__dataclass_fields__}
    return Encoded(**parts)


@torch.no_grad()
def _encode(
    model: TextToImage, pairs: Sequence[Pair], digests: Sequence[str], *, flip: bool, skill: str
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}

    def keep(**parts: Tensor | None) -> None:
        for name, part in parts.items():
            if part is not None:
                found.setdefault(name, []).append(part.float().cpu())

    empty_text, empty_pooled = encode_text(model, [""], unconditional=True)
    keep(empty_text=empty_text, empty_pooled=empty_pooled)
    with progress(f"encoding {skill}", total=len(pairs)) as advance:
        for start in range(0, len(pairs), AT_ONCE):
            some = pairs[start : start + AT_ONCE]
            texts = [pair.prompt.text for pair in some]
            fitted = [
                _fit(_open(pair, digest, model.image_px), model.image_px)
                for pair, digest in zip(some, digests[start : start + AT_ONCE], strict=True)
            ]
            mean, logvar = _moments(model, [image for image, _ in fitted])
            text, pooled = encode_text(model, texts)
            keep(mean=mean, logvar=logvar, text=text, pooled=pooled)
            if pooled is not None:
                keep(time_ids=torch.tensor([ids for _, ids in fitted], dtype=torch.float32))
            if flip:
                mirrored = [
                    ImageOps.mirror(image) if may_flip(caption) else image
                    for (image, _), caption in zip(fitted, texts, strict=True)
                ]
                mean, logvar = _moments(model, mirrored)
                keep(mirrored_mean=mean, mirrored_logvar=logvar)
            advance(len(some))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _open(pair: Pair, digest: str, image_px: int) -> Image.Image:
    try:
        data = pair.image.read_bytes()
    except OSError as error:
        raise DataError(f"{pair.image} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(
            f"{pair.image} is damaged: its sha256 is not the one on record. Remove the folder "
            f"{pair.image.parent.parent} to have it drawn again."
        )
    try:
        return decode(data, max_pixels=4 * image_px**2)
    except DataError as error:
        raise DataError(f"{pair.image}: {error}") from error


def _fit(image: Image.Image, px: int) -> tuple[Image.Image, list[int]]:
    """The picture as a px × px square, shortest side scaled and the middle cut out, and SDXL's
    six numbers about that. A picture of the base itself is left as it is."""
    width, height = image.size
    if (width, height) != (px, px):
        scale = px / min(width, height)
        size = (max(px, round(width * scale)), max(px, round(height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - px) // 2, (image.height - px) // 2
    cut = image.crop((left, top, left + px, top + px))
    return cut, [height, width, top, left, px, px]


def _moments(model: TextToImage, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the latents, [b, c, h, w]."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    vae = model.pipe.vae
    # SDXL's autoencoder overflows in float16; widening and narrowing again loses no bit.
    half = model.dtype is torch.float16
    if half:
        vae.float()
    try:
        posterior = vae.encode(x.to(model.device, vae.dtype)).latent_dist
    finally:
        if half:
            vae.half()
    if not torch.isfinite(posterior.mean).all():
        raise DataError("The autoencoder gave latents that are not finite. Set base.precision.")
    return posterior.mean, posterior.logvar


def encode_text(
    model: TextToImage, texts: list[str], *, unconditional: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Text embeddings [b, tokens, width] and, of SDXL, the pooled ones [b, width]."""
    out = model.pipe.encode_prompt(
        prompt=texts,
        device=model.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=unconditional,
    )
    # SD: (text, empty text).  SDXL: (text, empty text, pooled, empty pooled).
    which = 1 if unconditional else 0
    return out[which], out[2 + which] if len(out) == 4 else None
