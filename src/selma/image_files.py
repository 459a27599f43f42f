"""Pictures as files: decoded whole and of limited size, or refused."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from selma.errors import DataError


def open_image(path: Path, *, max_pixels: int) -> Image.Image:
    """The RGB picture in a file, decoded whole.

    Raises DataError if there is none, if it has more than `max_pixels` pixels (its header is looked
    at before anything is decoded), or if any part of it is damaged.
    """
    if not path.is_file():  # a folder, a FIFO or a broken link would hang or confuse the decoder
        raise DataError(f"{path} must be a picture, but there is no such file.")
    try:
        return decode(path.read_bytes(), max_pixels=max_pixels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """The RGB picture in these bytes; see `open_picture`."""
    try:
        # Pillow's own guard only warns, far above our limit; ours is the one that decides.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"A picture may have {max_pixels} pixels, but this has {width}x{height}. "
                    "Make it smaller."
                )
            image.load()  # open() reads the header alone; verify() misses a cut-off JPEG
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds, struct.error among them
        raise DataError(
            f"The picture cannot be decoded: {error}. Replace it or remove it."
        ) from error


def png_bytes(image: Image.Image) -> bytes:
    """The picture as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
