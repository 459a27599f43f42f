"""Pairs → what training reads: moments of the latents and text embeddings, computed once.

Moments (mean and log-variance) and not one sample: a fresh sample is taken in every step, as it
would be if the autoencoder ran inside the loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor

from selma.adapters.files import given, write_safetensors
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.families.family import Crop
from selma.errors import DataError
from selma.experts.fitting import OWN, Fitting
from selma.experts.flipping import may_flip
from selma.experts.recipes import item_folder
from selma.image_files import decode, image_bytes
from selma.progress import progress
from selma.records.images import Pair
from selma.workspace import EXPERTS, Workspace

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch

AT_ONCE = 8  # images in one pass of the autoencoder; the result is kept, so speed hardly matters
FILE = "encoded.safetensors"
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
EMPTY = "empty_"
"""Before the names of the empty prompt's tensors in that file."""


@dataclass(frozen=True)
class Encoded:
    """One skill's pairs in memory, float32."""

    mean: Tensor
    """[n, c, h, w], latents as the autoencoder has them."""
    logvar: Tensor
    mirrored_mean: Tensor | None
    """Of the mirror image; where the caption forbids mirroring, of the image itself."""
    mirrored_logvar: Tensor | None
    conditioning: Conditioning
    """Of n rows."""
    empty: Conditioning
    """Of one row, the empty prompt's, which guidance uses."""

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
        return Samples(
            latents=mean + (0.5 * logvar).exp() * batch.posterior,
            conditioning=self.conditioning.map(lambda part: part[i]).where(
                batch.dropped, self.empty
            ),
        )

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Encoded:
        """The pairs whose file holds these tensors."""
        own = [f.name for f in fields(Encoded) if f.name not in ("conditioning", "empty")]
        rest = {name: part for name, part in tensors.items() if name not in own}
        empty = {name: part for name, part in rest.items() if name.startswith(EMPTY)}
        parts: dict[str, Any] = {name: tensors.get(name) for name in own}
        return Encoded(
            **parts,
            conditioning=Conditioning.of({n: p for n, p in rest.items() if n not in empty}),
            empty=Conditioning.of({n.removeprefix(EMPTY): p for n, p in empty.items()}),
        )


@dataclass(frozen=True)
class Samples:
    """One batch as the network sees it."""

    latents: Tensor
    """[b, c, h, w], as the autoencoder has them."""
    conditioning: Conditioning

    def to(self, device: torch.device) -> Samples:
        """The same on this device."""
        return Samples(self.latents.to(device), self.conditioning.to(device))


def encode_pairs(
    pairs: Sequence[Pair],
    folder: Workspace,
    *,
    skill: str,
    flip: bool,
    digests: Sequence[str],
    recipe: Mapping[str, Any],
    model: Callable[[], TextToImage],
    fitting: Fitting = OWN,
) -> Encoded:
    """The skill's pairs, from `3-experts/_encoded/<skill>` if they are there.

    digests: the images' sha256.  recipe: all that the result depends on, what is special in
    `fitting` among it.
    Raises DataError for an image that is damaged, too large or has changed.
    """
    item = folder.item(EXPERTS, "_encoded", skill, recipe=recipe)
    if not item.done:
        path = item.begin() / FILE
        tensors = _encode(model(), pairs, digests, flip=flip, skill=skill, fitting=fitting)
        write_safetensors(path, given(tensors), metadata={"format": "pt"})
        item.finish([path], {"pairs": len(pairs)})
    return Encoded.of(safetensors.torch.load_file(item.path / FILE))


@torch.no_grad()
def _encode(
    model: TextToImage,
    pairs: Sequence[Pair],
    digests: Sequence[str],
    *,
    flip: bool,
    skill: str,
    fitting: Fitting,
) -> dict[str, Tensor]:
    model.require_unadapted()
    batches: dict[str, list[Tensor]] = {}
    known: list[Conditioning] = []

    def keep(**parts: Tensor | None) -> None:
        for name, part in parts.items():
            if part is not None:
                part = part.float() if part.is_floating_point() else part
                batches.setdefault(name, []).append(part.cpu())

    # As in a guided pass, where some pipelines have another empty prompt than an encoded "".
    empty = model.text_features([""], guided=True).negative
    assert empty is not None
    keep(**{f"{EMPTY}{name}": part for name, part in empty.tensors().items()})
    with progress(f"encoding {skill}", total=len(pairs)) as advance:
        for start in range(0, len(pairs), AT_ONCE):
            batch = pairs[start : start + AT_ONCE]
            texts = [pair.prompt.text for pair in batch]
            fitted = [
                _fit(_open(pair, digest, model.image_px, fitting), model.image_px, fitting)
                for pair, digest in zip(batch, digests[start : start + AT_ONCE], strict=True)
            ]
            mean, logvar = _moments(model, [image for image, _ in fitted])
            conditioning = model.text_features(texts, guided=False).positive
            conditioning = model.family.with_crops(conditioning, [crop for _, crop in fitted])
            keep(mean=mean, logvar=logvar)
            known.append(conditioning.to(torch.device("cpu")))
            if flip:
                mirrored = [
                    ImageOps.mirror(image) if may_flip(caption) else image
                    for (image, _), caption in zip(fitted, texts, strict=True)
                ]
                mean, logvar = _moments(model, mirrored)
                keep(mirrored_mean=mean, mirrored_logvar=logvar)
            advance(len(batch))
    # Some encoders' texts are as long as the longest of a pass.
    tokens = max(part.text.shape[1] for part in known)
    for part in known:
        keep(**part.filled_up(tokens).tensors())
    return {name: torch.cat(parts) for name, parts in batches.items()}


def _open(pair: Pair, digest: str, image_px: int, fitting: Fitting) -> Image.Image:
    data = image_bytes(pair.image)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(
            f"{pair.image} is damaged: its sha256 is not the one on record. Remove the folder "
            f"{item_folder(pair.image)} to have it generated again."
        )
    try:
        return decode(data, max_pixels=fitting.max_pixels or 4 * image_px**2)
    except DataError as error:
        raise DataError(f"{pair.image}: {error}") from error


def _fit(image: Image.Image, px: int, fitting: Fitting) -> tuple[Image.Image, Crop]:
    """The image as a px × px square, shortest side scaled and the middle cut out, and how it was
    cropped. An image of the base itself is left as it is."""
    width, height = image.size
    if (width, height) != (px, px):
        scale = px / min(width, height)
        size = (max(px, round(width * scale)), max(px, round(height * scale)))
        image = image.resize(size, _FILTERS[fitting.filter])
    left, top = (image.width - px) // 2, (image.height - px) // 2
    cut = image.crop((left, top, left + px, top + px))
    if fitting.original_size == "trained":
        width, height = image.size
    return cut, Crop(height, width, top, left, px)


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
        mean, logvar = model.family.moments(vae, x.to(model.device, vae.dtype))
    finally:
        if half:
            vae.half()
    if not torch.isfinite(mean).all():
        raise DataError("The autoencoder gave latents that are not finite. Set base.precision.")
    return mean, logvar
