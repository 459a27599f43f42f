"""Images as files: decoded whole and of limited size, or refused. Nothing else opens one."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from selma.errors import DataError

MAX_PIXELS = 64_000_000
"""Of an image from anywhere, so that no file can fill the memory. Where images have a known size,
callers allow no more."""

REMEDY = "Replace it or remove it."
REMEDY_FOR_GENERATED = "Remove its folder to have it generated again."


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS, remedy: str = REMEDY) -> Image.Image:
    """The RGB image in a file, decoded whole.

    remedy: what to do about a damaged file. Raises DataError if there is no file, if the image has
    more than `max_pixels` pixels (its header is read before anything is decoded), or if any part of
    it is damaged.
    """
    if not path.is_file():  # a folder, a FIFO or a broken link would hang or confuse the decoder
        raise DataError(f"{path} must be an image, but there is no such file.")
    try:
        return decode(path.read_bytes(), max_pixels=max_pixels, remedy=remedy)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, remedy: str = REMEDY) -> Image.Image:
    """The RGB image in these bytes; see `open_image`."""
    try:
        # Pillow's own guard only warns, far above our limit; ours is the one that decides.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"An image may have {max_pixels} pixels, but this has {width}x{height}. "
                    "Make it smaller."
                )
            image.load()  # open() reads the header alone; verify() misses a cut-off JPEG
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds, struct.error among them
        raise DataError(f"The image cannot be decoded: {error}. {remedy}") from error


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format of an image that was decoded from these bytes."""
    return Image.open(io.BytesIO(data)).format


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
