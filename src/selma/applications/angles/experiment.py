"""What angles carry and what magnitudes: the toy experiment of OFT (arXiv:2306.07280, figure 2).

A small convolutional autoencoder is trained as usual. Then its last features, the inner products
<w, x> of filters and windows, are replaced by their angles alone, or by their magnitudes alone, and
decoded by the unchanged decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from selma.errors import DataError, WorkspaceError
from selma.image_files import open_image, png_bytes
from selma.image_names import Listing, list_images, say_left_out
from selma.paths import AnyPath, as_path
from selma.randomness import rng, seed_for
from selma.scores.statistics import interval
from selma.toybox.drawing import IMAGE_PX
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import FINE_GRID_PX, render, sample_scene
from selma.workspace import read_json, write_bytes, write_json

PX = IMAGE_PX
BATCH = 128
RATE = 1e-3
HELD_OUT = 100
SHOWN = 12
RELEASED_SCALE = 60.0
_GUARD = 1e-4  # under the root, as released
NAME, RECIPE = "angles", "recipe.json"


class Autoencoder(nn.Module):
    """Three convolutions 3-32-64-128 that halve, and three that double; pixels in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 3, stride=2, padding=1, output_padding=1)
            for b, a in pairwise(reversed(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.last(self.before(x)))

    @property
    def last(self) -> nn.Conv2d:
        """The convolution whose output is split into angles and magnitudes."""
        layer = self.down[-1]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def before(self, x: Tensor) -> Tensor:
        """The input of the last convolution."""
        for layer in self.down[:-1]:
            x = F.relu(layer(x))
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Images [n, 3, h, w] from the last convolution's output."""
        for layer in self.up[:-1]:
            z = F.relu(layer(z))
        return torch.tanh(self.up[-1](z))


def inner(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """<w, x> of each filter and window, without the bias."""
    return F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)


def norms(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """|w| |x| of each filter and window, in the shape of `inner`."""
    ones = torch.ones_like(layer.weight[:1])
    windows = F.conv2d(x.square(), ones, stride=layer.stride, padding=layer.padding)
    return windows.clamp(min=0).sqrt() * layer.weight.flatten(1).norm(dim=1).view(1, -1, 1, 1)


def cosines(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """cos(w, x) in [-1, 1]; 0 where a window is empty."""
    product = norms(layer, x)
    return torch.where(product > 1e-12, inner(layer, x) / product.clamp(min=1e-12), 0.0)


def released_norms(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """The released script's |x| and |w|. Its |x| is of the layer's output with its bias, summed
    over 3x3 neighbours, which is not the length of the window that the filter sees."""
    z = layer(x)
    ones = torch.ones(1, z.shape[1], 3, 3, dtype=z.dtype, device=z.device)
    windows = (F.conv2d(z.square(), ones, padding=1) + _GUARD).sqrt()
    filters = (layer.weight.square().sum((1, 2, 3)) + _GUARD).sqrt().view(1, -1, 1, 1)
    return windows, filters


def features(model: Autoencoder, x: Tensor, *, scale: float) -> dict[str, Tensor]:
    """Name → the decoder's input. `scale` is a typical |w| |x|, which gives angles the size that
    the decoder was trained on."""
    layer, inputs = model.last, model.before(x)
    windows, filters = released_norms(layer, inputs)
    return {
        "whole": layer(inputs),
        "angles": scale * cosines(layer, inputs),
        "magnitudes": norms(layer, inputs),
        "released angles": RELEASED_SCALE * layer(inputs) / windows / filters,
        "released magnitudes": windows * filters,
    }


def run_angles(
    source: str,
    out: AnyPath,
    *,
    count: int = 1000,
    epochs: int = 200,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Train on `count` images, decode 100 held-out ones from angles and from magnitudes alone, and
    write `angles.png` and `angles.json` to `out`; returns the numbers of `angles.json`.

    source: "toybox" or a folder of images. Resumes from the folder's checkpoint. Raises DataError
    if there are too few images, and WorkspaceError if the checkpoint is of other images, epochs or
    another seed.
    """
    out = as_path(out)
    x = loaded(source, count + HELD_OUT, seed=seed)
    digest = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    _claim(out, {"images": digest, "held_out": HELD_OUT, "epochs": epochs, "seed": seed})
    training, held = x[:-HELD_OUT], x[-HELD_OUT:]
    torch.manual_seed(seed_for(seed, "angles", "init"))
    model = Autoencoder()
    epoch_steps = max(1, len(training) // BATCH)

    def loss(step: int) -> Tensor:
        order = list(range(len(training)))
        rng(seed, "angles", "epoch", step // epoch_steps).shuffle(order)
        batch = training[order[step % epoch_steps * BATCH :][:BATCH]]
        return F.mse_loss(model(batch), batch)

    course = Course(
        NAME,
        model,
        loss,
        steps=epoch_steps * epochs,
        learning_rate=RATE,
        warmup_steps=0,
        weight_decay=0.0,
        checkpoint_every=epoch_steps * max(1, epochs // 10),
    )
    report = train(course, out)
    model.eval()
    with torch.inference_mode():
        scale = float(norms(model.last, model.before(training)).mean())
        decoded = {n: model.decode(z) for n, z in features(model, held, scale=scale).items()}
    numbers = {
        "source": "toybox" if source == "toybox" else Path(source).name,
        "images": {"trained": len(training), "held_out": len(held)},
        "steps": report["steps"],
        "scale": round(scale, 4),
        "modes": {
            n: diagnostics(held, d, seed=seed, resamples=resamples) for n, d in decoded.items()
        },
    }
    write_json(out / "angles.json", numbers)
    write_bytes(out / "angles.png", png_bytes(sheet(held[:SHOWN], decoded)))
    return numbers


def _claim(out: Path, recipe: Mapping[str, Any]) -> None:
    """Record what the folder's checkpoint is trained on. Raises WorkspaceError if it holds a
    checkpoint of anything else."""
    checkpoint, note = out / f"{NAME}.safetensors", out / RECIPE
    if checkpoint.exists() and read_json(note) != recipe:
        raise WorkspaceError(
            f"{checkpoint} must be of these images, epochs and seed, but is of others. Choose "
            "another --out, or remove it to train anew."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(note, recipe)


def diagnostics(truth: Tensor, decoded: Tensor, *, seed: int, resamples: int) -> dict[str, Any]:
    """Compare decoded images [n, 3, h, w] with the originals; 95% intervals are over images.

    correlation: of pixels with the original's, which ignores brightness and contrast.  recognised:
    percent of decoded images that correlate more with their own original than with any other.
    """
    error = (truth - decoded).square().flatten(1).mean(1)
    likeness = _standard(decoded) @ _standard(truth).T
    right = (likeness.argmax(1) == torch.arange(len(truth))).double() * 100
    measures = {"mse": error, "correlation": likeness.diagonal(), "recognised": right}
    return {
        name: interval(values.double().numpy(), seed=seed, resamples=resamples).model_dump()
        for name, values in measures.items()
    }


def loaded(source: str, count: int, *, seed: int) -> Tensor:
    """Load [count, 3, 64, 64] in [-1, 1]: toybox's images, or a folder's first ones by name.
    Raises DataError if there are fewer, or no such folder."""
    if source != "toybox" and not as_path(source).is_dir():
        raise DataError(f"{source} must be toybox or a folder of images, but is none.")
    if source == "toybox":
        arrays = []
        for number in range(count):
            draw = rng(seed, "angles", "scene", number)
            arrays.append(render(sample_scene(draw), draw, grid_px=FINE_GRID_PX))
    else:
        arrays = [np.asarray(_square(path)) for path in _files(Path(source), count)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def sheet(truth: Tensor, decoded: dict[str, Tensor]) -> Image.Image:
    """Compose a figure: a row of the images, then a row for each way of decoding them."""
    rows: Sequence[tuple[str, Tensor]] = [("image", truth), *decoded.items()]
    words, gap = 130, 4
    width = words + len(truth) * (PX + gap)
    page = Image.new("RGB", (width, len(rows) * (PX + gap) + gap), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for row, (name, pixels) in enumerate(rows):
        y = gap + row * (PX + gap)
        draw.text((6, y + PX // 2 - 7), name, fill="#1d2327", font=font)
        for column, image in enumerate(pixels[: len(truth)]):
            page.paste(_image(image), (words + column * (PX + gap), y))
    return page


def _standard(pixels: Tensor) -> Tensor:
    """[n, pixels], each of mean 0 and length 1; an image without contrast stays 0."""
    flat = pixels.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-9)


def _image(pixels: Tensor) -> Image.Image:
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def _files(folder: Path, count: int) -> list[Path]:
    listing = list_images(folder, deep=True) if folder.is_dir() else Listing()
    files = list(listing.images)
    if len(files) < count:
        raise DataError(
            f"{folder} must have {count} images ({HELD_OUT} of them to be held out), but has "
            f"{len(files)}. Lower --count."
        )
    say_left_out(str(folder), len(files), listing.left_out)
    return files[:count]


def _square(path: Path) -> Image.Image:
    """The image squeezed to 64x64, as in the released script."""
    image = open_image(path)
    return image.resize((PX, PX), Image.Resampling.BILINEAR)
