"""Images as files: decoded whole, upright and as 8-bit RGB, or refused. Nothing else opens one."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from selma.disk import is_regular, read_regular
from selma.errors import DataError
from selma.image_modes import PLAIN, Reading, as_rgb, has_wide_values, values_digest
from selma.image_names import register_plugins
from selma.manifests import verified

MAX_PIXELS = 64_000_000
"""Of an image from anywhere, so that no file can fill the memory. Where images have a known size,
callers allow no more."""
MAX_BYTES = 16 * MAX_PIXELS
"""Of an image's file: more than any format takes for its pixels."""

OPENER = 2
"""Belongs to recipes of what is made from images of others. 2: wide values are scaled, transparent
parts lie over a background, images are turned upright, colours are sRGB's."""

REMEDY = "Replace it or remove it."
REMEDY_FOR_GENERATED = "Remove its folder to have it generated again."

_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")
_PROGRAMS = ("EPS",)
"""Formats that Pillow would have another program run."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation → what turns the image upright."""


@dataclass(frozen=True)
class Opened:
    """An image as everything in selma sees it."""

    image: Image.Image
    """RGB, 8 bits, upright."""
    changes: tuple[str, ...]
    """What was done besides decoding; empty for a plain image."""
    format: str | None
    """Pillow's name of the file's format."""
    wide: str = ""
    """A digest of values of more than 8 bits, which scaling may make equal; else empty."""


def image_bytes(path: Path) -> bytes:
    """All bytes of an image's file. Raises DataError unless it is a regular file of at most
    `MAX_BYTES`."""
    return read_regular(path, most=MAX_BYTES)


def open_image(
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    remedy: str = REMEDY,
    reading: Reading = PLAIN,
) -> Image.Image:
    """The RGB image in a file, decoded whole and upright; `reading` says what its values mean.

    remedy: what to do about a damaged file. Raises DataError if there is no file, if the image has
    more than `max_pixels` pixels (its header is read before anything is decoded), or if any part of
    it is damaged.
    """
    if not is_regular(path):  # a folder, a FIFO or a broken link would hang or confuse the decoder
        raise DataError(f"{path} must be an image, but there is no such file.")
    data = image_bytes(verified(path))
    try:
        return read_image(data, max_pixels=max_pixels, remedy=remedy, reading=reading).image
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, remedy: str = REMEDY, reading: Reading = PLAIN
) -> Image.Image:
    """The RGB image in these bytes; see `open_image`."""
    return read_image(data, max_pixels=max_pixels, remedy=remedy, reading=reading).image


def read_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, remedy: str = REMEDY, reading: Reading = PLAIN
) -> Opened:
    """The RGB image in these bytes with what was changed in it; see `open_image`.

    Of an animation it is the first frame.
    """
    try:
        # Pillow's own guard only warns, far above our limit; ours is the one that decides.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _opened(data, max_pixels, reading)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds, struct.error among them
        raise DataError(f"The image cannot be decoded: {_reason(error, data)}. {remedy}") from error


def is_whole_png(path: Path) -> bool:
    """Whether there is a PNG all of whose parts have their checksums; nothing is decoded."""
    if not is_regular(path):
        return False
    try:
        with Image.open(io.BytesIO(image_bytes(path)), formats=["PNG"]) as image:
            image.verify()
            return True
    except Exception:  # Pillow raises many kinds, struct.error and SyntaxError among them
        return False


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _opened(data: bytes, max_pixels: int, reading: Reading) -> Opened:
    register_plugins()
    try:
        file = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise DataError(
            f"An image may have {max_pixels} pixels, but this has more than Pillow opens. "
            "Make it smaller."
        ) from error
    _check_size(file, max_pixels)
    if file.format in _PROGRAMS:
        raise DataError(f"{file.format} is a program that would have to be run. Save it as PNG.")
    _take_transparent_value(file)
    # Pillow turns a TIFF while it decodes it, and forgets that it did.
    turned = file.format == "TIFF" and _turn(file) is not None
    file.load()  # open() reads the header alone; verify() misses a cut-off JPEG
    _check_size(file, max_pixels)  # icons name their size only now
    image, changes = (file, ("turned upright",)) if turned else _upright(file)
    with suppress(Exception):  # counting frames reads on, where damage is nobody's concern
        if getattr(file, "is_animated", False) and file.format != "MPO":
            changes = ("the first of several frames", *changes)
    wide = values_digest(image) if has_wide_values(image) else ""
    rgb, further = as_rgb(image, reading)
    return Opened(rgb, (*changes, *further), file.format, wide)


def _reason(error: Exception, data: bytes) -> str:
    """The same words for the same bytes: Pillow names the object that it read them from."""
    if not data:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"no known kind of image begins with {ascii(data[:24])[1:]}"
    words = _OBJECT.sub("the file", str(error)).rstrip(".")
    return words or type(error).__name__


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"An image may have {max_pixels} pixels, but this has {width}x{height}. "
            "Make it smaller."
        )
    if not width or not height:
        raise DataError(f"An image must have pixels, but this has {width}x{height}.")


def _upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A camera held sideways notes so beside the pixels; a network would see the world lying."""
    turn = _turn(image)
    return (image, ()) if turn is None else (image.transpose(turn), ("turned upright",))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # every viewer shows an image with damaged EXIF as it is stored
        return None


def _take_transparent_value(image: Image.Image) -> None:
    """Pillow scales a PNG's values to 8 bits, but not the one that is transparent."""
    value = image.info.get("transparency")
    stored = {str(tile.args) for tile in getattr(image, "tile", ())}
    if isinstance(value, tuple) and any("16" in mode for mode in stored):
        image.info["transparency"] = tuple(channel >> 8 for channel in value)
    elif isinstance(value, int) and stored & {"L;2", "L;4"}:
        image.info["transparency"] = value * (85 if "L;2" in stored else 17)
