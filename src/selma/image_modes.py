"""Every mode of Pillow as 8-bit RGB: values scaled, colours as sRGB, transparency composited."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor

from selma.errors import DataError

Wide = Literal["type", "own", "as they are"] | tuple[float, float]
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_PROFILES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
"""Mode → the space of a profile that describes it."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


@dataclass(frozen=True)
class Reading:
    """What an image's values mean."""

    background: str = "white"
    """What transparent parts lie over: any colour that PIL.ImageColor knows."""
    wide: Wide = "type"
    """Values of more than 8 bits. "type": 16 bits by 65535, floats in 0..1 by 1, all others by
    their own smallest and largest. "own": always by these. "as they are": numbers of classes,
    0..255. Two numbers: what becomes black, and white."""
    profile: bool = True
    """Whether an embedded colour profile is applied; not to numbers that only look like colours."""


PLAIN = Reading()
"""An image that is looked at."""


def has_wide_values(image: Image.Image) -> bool:
    """Whether it has values of more than 8 bits."""
    return image.mode in _WIDE


def values_digest(image: Image.Image) -> str:
    """sha256 of the values as they are stored."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(image)).tobytes()).hexdigest()


def as_rgb(image: Image.Image, reading: Reading = PLAIN) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as RGB, and what was done. Raises DataError where its values have no meaning."""
    if has_wide_values(image):
        colours, changes = _scaled(image, reading)
    else:
        colours, changes = _colours(image, reading)
    alpha = _alpha(image)
    if alpha is None:
        return colours, changes
    canvas = Image.new("RGB", colours.size, ImageColor.getrgb(reading.background)[:3])
    canvas.paste(colours, mask=alpha)
    return canvas, (*changes, f"transparent parts over {reading.background}")


def plain_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, as its file would be opened: what is transparent lies over white, so that
    no network sees colours that are hidden. Raises DataError as `as_rgb`."""
    opaque = image.mode == "RGB" and not image.has_transparency_data
    return image if opaque else as_rgb(image)[0]


def _alpha(image: Image.Image) -> Image.Image | None:
    """The opacity as L; None where the whole image is opaque."""
    if has_wide_values(image):
        value = image.info.get("transparency")
        if not isinstance(value, int):
            return None
        alpha = Image.fromarray(np.where(np.asarray(image) == value, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        plain = image.convert("LA") if image.mode == "La" else image
        alpha = plain.convert("RGBA").getchannel("A")
    else:
        return None
    return alpha if alpha.getextrema()[0] < 255 else None  # type: ignore[operator]


def _colours(image: Image.Image, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
    """The colours without their opacity, as sRGB's."""
    data = image.info.get("icc_profile")
    plain = _without_alpha(image)
    profile = _profile(data, plain.mode) if reading.profile and data else None
    if profile is not None and "srgb" in ImageCms.getProfileDescription(profile).lower():
        rgb = plain.convert("RGB")
        rgb.info = {"icc_profile": data}  # it may go on into a PNG, since it stays true
        return rgb, ()
    changes: tuple[str, ...] = ()
    if profile is not None:
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        plain, changes = _in_srgb(plain, profile), (f"colours of {name} as sRGB",)
    elif plain.mode == "LAB":
        plain, changes = _in_srgb(plain, ImageCms.createProfile("LAB")), ("CIELAB as sRGB",)
    rgb = plain.convert("RGB")
    rgb.info = {}
    return rgb, changes


def _without_alpha(image: Image.Image) -> Image.Image:
    """The same colours as L, RGB, CMYK or LAB."""
    if image.mode in ("1", "L", "CMYK", "LAB"):
        return image if image.mode != "1" else image.convert("L")
    if image.mode in ("LA", "La"):
        return image.convert("LA").convert("L")
    if image.mode in ("P", "PA", "RGBa"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _profile(data: bytes, mode: str) -> ImageCms.ImageCmsProfile | None:
    """The profile; None where it is damaged or of other values than the image's, when viewers do
    not heed it."""
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(data))
        space = str(profile.profile.xcolor_space).strip()
    except (ImageCms.PyCMSError, OSError):
        return None
    return profile if space == _PROFILES[mode] else None


def _in_srgb(image: Image.Image, profile: Any) -> Image.Image:
    # Unoptimised, lcms is exact to a level; its tables err by 3 for grey and by 30 for CIELAB.
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if image.mode in ("L", "LAB"):
        flags |= ImageCms.Flags.NOOPTIMIZE
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=flags,
    )
    assert converted is not None  # it is only where it is done in place
    return converted


def _scaled(image: Image.Image, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
    """Values of more than 8 bits as grey."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise DataError("An image's values must be finite, but this has infinities or no numbers.")
    if not values.size:
        raise DataError("An image must have pixels, but this has none.")
    if reading.wide == "as they are":
        grey = _numbers(values)
        return Image.fromarray(grey).convert("RGB"), ()
    tags = getattr(image, "tag_v2", {})
    black, white = _ends(values, reading, tags)
    grey = _eight_bits(values, black, white)
    if grey.max() <= 1 and values.max() > max(black, 0) and reading.wide == "type":
        raise DataError(
            f"Its values end at {values.max():g} of {white:g}, so that it would be black. Scale "
            "them, or save it with 8 bits."
        )
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB"), (f"{black:g} to {white:g} as black to white",)


def _ends(values: NDArray[Any], reading: Reading, tags: Any) -> tuple[float, float]:
    """The values of black and of white."""
    if isinstance(reading.wide, tuple):
        return reading.wide
    low, high = float(values.min()), float(values.max())
    if reading.wide == "own":
        return low, high
    if values.dtype.kind == "f":
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    bits = max(tags.get(_BITS_PER_SAMPLE) or (16,))
    if bits < 16:  # 12 bits are not scaled by Pillow
        return 0.0, float(2**bits - 1)
    return (0.0, 65535.0) if low >= 0 and high <= 65535 else (low, high)


def _eight_bits(values: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    """0 for black, 255 for white; an image of one value is black."""
    wide: type[np.floating[Any]] = np.float64 if values.dtype.itemsize > 2 else np.float32
    share = (values.astype(wide) - black) / ((white - black) or 1)
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _numbers(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of classes, which no scaling may change."""
    if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
        raise DataError(
            f"Numbers of classes must be whole and 0 to 255, but go from {values.min():g} to "
            f"{values.max():g}. Save the classes as colours."
        )
    return values.astype(np.uint8)
