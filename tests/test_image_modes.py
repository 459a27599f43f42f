"""Images of every mode, depth, orientation, opacity and profile: colours as a viewer shows them."""

from __future__ import annotations

import colorsys
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attacks import Attack
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from selma.errors import DataError
from selma.image_files import decode, png_bytes, read_image
from selma.image_modes import Reading, as_rgb

SIZE = (7, 5)
Array = NDArray[Any]
Right = Callable[[Image.Image], Array]
Image.init()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def over(colours: Array, alpha: Array, background: tuple[int, int, int] = (255, 255, 255)) -> Array:
    share = alpha[..., None] / 255
    return colours * share + np.array(background) * (1 - share)


def grey(values: Array) -> Array:
    return np.repeat(values[..., None].astype(float), 3, axis=-1)


def of_l(image: Image.Image) -> Array:
    return grey(np.asarray(image).astype(float) * (255 if image.mode == "1" else 1))


def of_la(image: Image.Image) -> Array:
    pixels = np.asarray(image).astype(float)
    return over(grey(pixels[..., 0]), pixels[..., 1])


def of_premultiplied(image: Image.Image) -> Array:
    pixels = np.asarray(image).astype(float)
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    return np.broadcast_to(colours + 255 - alpha, (*alpha.shape[:2], 3))


def of_palette(image: Image.Image) -> Array:
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    if image.mode == "P":
        return palette[np.asarray(image)].astype(float)
    pixels = np.asarray(image)
    return over(palette[pixels[..., 0]], pixels[..., 1])


def of_cmyk(image: Image.Image) -> Array:
    pixels = np.asarray(image).astype(float) / 255
    return 255 * (1 - pixels[..., :3]) * (1 - pixels[..., 3:])


def of_ycbcr(image: Image.Image) -> Array:
    y, cb, cr = np.moveaxis(np.asarray(image).astype(float), -1, 0)
    cb, cr = cb - 128, cr - 128
    rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    return np.stack(rgb, -1).clip(0, 255)


def of_hsv(image: Image.Image) -> Array:
    pixels = np.asarray(image) / 255
    colours = [colorsys.hsv_to_rgb(*pixel) for pixel in pixels.reshape(-1, 3)]
    return 255 * np.array(colours).reshape(pixels.shape)


def of_lab(image: Image.Image) -> Array:
    """CIE's formulas for D50, and the matrix to sRGB's primaries adapted by Bradford."""
    pixels = np.asarray(image)
    lightness = pixels[..., 0] / 255 * 100
    a, b = (pixels[..., n].view(np.int8).astype(float) for n in (1, 2))
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], -1)
    edge = 6 / 29
    xyz = np.where(f > edge, f**3, 3 * edge**2 * (f - 4 / 29)) * (0.96422, 1, 0.82521)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.transpose(matrix)).clip(0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, curved)


def of_integers(image: Image.Image) -> Array:
    return grey(np.asarray(image) / 65535 * 255)


def of_floats(image: Image.Image) -> Array:
    values = np.asarray(image).astype(float)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return grey(255 * values)
    return grey(255 * (values - low) / (high - low))


RIGHT: dict[str, Right] = {
    "1": of_l, "L": of_l, "LA": of_la, "La": of_premultiplied, "P": of_palette, "PA": of_palette,
    "RGB": lambda image: np.asarray(image).astype(float),
    "RGBX": lambda image: np.asarray(image)[..., :3].astype(float),
    "RGBA": lambda image: over(np.asarray(image)[..., :3], np.asarray(image)[..., 3]),
    "RGBa": of_premultiplied, "CMYK": of_cmyk, "YCbCr": of_ycbcr, "LAB": of_lab, "HSV": of_hsv,
    "I": of_integers, "I;16": of_integers, "I;16L": of_integers, "I;16B": of_integers,
    "I;16N": of_integers, "F": of_floats,
}  # fmt: skip


def noise(mode: str, seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    width, height = SIZE
    if mode in ("La", "RGBa"):
        straight = draw.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
        return Image.fromarray(straight).convert(mode)
    if mode in ("I", "F"):
        scale = 1.0 if seed % 2 else 700.0
        floats = draw.random((height, width), dtype=np.float32) * np.float32(scale)
        return Image.fromarray(
            floats if mode == "F" else draw.integers(0, 65536, (height, width), dtype=np.int32)
        )
    length = len(Image.new(mode, SIZE).tobytes())
    image = Image.frombytes(mode, SIZE, draw.integers(0, 256, length, dtype=np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(draw.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def keeping(image: Image.Image) -> list[bytes]:
    """The image in every format that gives back the same mode and values."""
    files = []
    for kind in Image.SAVE:
        try:
            data = encoded(image, kind)
            back = Image.open(io.BytesIO(data))
            back.load()
        except Exception:  # a format that has no such mode
            continue
        if back.mode == image.mode and back.tobytes() == image.tobytes():
            files.append(data)
    return files


@settings(max_examples=60, deadline=None)
@given(mode=st.sampled_from(sorted(RIGHT)), seed=st.integers(0, 2**32 - 1))
def test_every_mode_in_every_format_that_keeps_it(mode: str, seed: int) -> None:
    image = noise(mode, seed)
    right = RIGHT[mode](image)
    seen = [as_rgb(image)[0], *(decode(data) for data in keeping(image))]
    for rgb in seen:
        assert rgb.mode == "RGB" and rgb.size == SIZE
        assert np.abs(np.asarray(rgb).astype(float) - right).max() <= 1


@pytest.mark.parametrize(
    ("mode", "formats"),
    [("I;16", 4), ("F", 3), ("LA", 5), ("RGBA", 6), ("CMYK", 2), ("LAB", 1), ("P", 6), ("I", 2)],
)
def test_the_formats_are_many(mode: str, formats: int) -> None:
    assert len(keeping(noise(mode, 3))) >= formats


def test_every_mode_of_pillow_is_known() -> None:
    assert set(RIGHT) == set(Image.MODES) | {"LAB", "HSV"}


def ramp(black: float, white: float, dtype: Any = np.uint16) -> Image.Image:
    values = np.linspace(black, white, 64).reshape(8, 8)
    return Image.fromarray(values.astype(dtype))


def one_pixel(value: float) -> Image.Image:
    return Image.fromarray(np.array([[0.5, value]], np.float32))


def red(image: Image.Image) -> Array:
    return np.asarray(image)[..., 0].astype(int)


LINEAR = np.rint(np.linspace(0, 255, 64)).astype(int).reshape(8, 8)


@pytest.mark.parametrize(
    ("black", "white", "dtype", "reading", "ends"),
    [
        (0, 65535, np.uint16, Reading(), (0, 255)),
        (0, 65535, np.uint16, Reading(wide="own"), (0, 255)),
        (500, 9000, np.uint16, Reading(), (2, 35)),
        (500, 9000, np.uint16, Reading(wide="own"), (0, 255)),
        (500, 9000, np.uint16, Reading(wide=(500.0, 17500.0)), (0, 128)),
        (500, 9000, np.uint16, Reading(wide=(4750.0, 9000.0)), (0, 255)),
        (0, 65535, np.int32, Reading(), (0, 255)),
        (-70000, 70000, np.int32, Reading(), (0, 255)),
        (0, 200, np.int32, Reading(wide="as they are"), (0, 200)),
        (0, 1, np.float32, Reading(), (0, 255)),
        (0.2, 0.6, np.float32, Reading(), (51, 153)),
        (0.2, 0.6, np.float32, Reading(wide="own"), (0, 255)),
        (-3, 12, np.float32, Reading(), (0, 255)),
        (0.4, 8.5, np.float32, Reading(wide=(0.4, 16.6)), (0, 128)),
        (7, 7, np.uint16, Reading(wide="own"), (0, 0)),
    ],
)
def test_the_range_of_wide_values(
    black: float, white: float, dtype: Any, reading: Reading, ends: tuple[int, int], attack: Attack
) -> None:
    attack.injects("images of wide values")
    values = red(decode(encoded(ramp(black, white, dtype), "TIFF"), reading=reading))
    assert abs(values[0, 0] - ends[0]) <= 1 and abs(values[-1, -1] - ends[1]) <= 1
    assert (np.diff(values.reshape(-1)) >= 0).all()
    attack.held("images of wide values")


def test_twelve_bits_end_at_4095() -> None:
    low, high = 0x000, 0xFFF
    packed = bytes([low >> 4, (low & 15) << 4 | high >> 8, high & 255])
    data = _tiff(2, 1, packed, bits=12, photometric=1)
    assert red(decode(data)).tolist() == [[0, 255]]


def test_zero_is_white_where_a_tiff_says_so() -> None:
    data = _tiff(2, 1, np.array([0, 65535], "<u2").tobytes(), bits=16, photometric=0)
    assert red(decode(data)).tolist() == [[255, 0]]


def _tiff(width: int, height: int, strip: bytes, *, bits: int, photometric: int) -> bytes:
    entries = [
        (256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(strip)),
    ]  # fmt: skip
    strip += b"\0" * (len(strip) % 2)
    table = len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        table += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        table += value.to_bytes(4, "little")
    start = (8 + len(strip)).to_bytes(4, "little")
    return b"II*\0" + start + strip + table + bytes(4)


@pytest.mark.parametrize(
    ("image", "reading", "says"),
    [
        (ramp(0, 200), Reading(), "end at 200 of 65535, so that it would be black"),
        (ramp(0, 300), Reading(wide="as they are"), "0 to 255, but go from 0 to 300"),
        (ramp(0, 1, np.float32), Reading(wide="as they are"), "must be whole"),
        (one_pixel(np.inf), Reading(), "finite"),
        (one_pixel(-np.inf), Reading(wide=(0, 1)), "finite"),
        (one_pixel(np.nan), Reading(wide="own"), "finite"),
    ],
)
def test_values_without_a_meaning_are_refused(
    image: Image.Image, reading: Reading, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        decode(encoded(image, "TIFF"), reading=reading)


def test_black_is_black() -> None:
    assert red(decode(encoded(ramp(0, 0)))).max() == 0


def test_wide_images_that_scale_to_the_same_are_told_apart() -> None:
    first, second = (read_image(encoded(ramp(low, low + 20_000))) for low in (0, 1))
    assert first.image.tobytes() == second.image.tobytes() and first.wide != second.wide
    assert read_image(encoded(noise("RGB", 1))).wide == ""


def see_through(mode: str) -> Image.Image:
    """Left half green and opaque, right half transparent over hidden magenta."""
    image = Image.new("RGBA", (4, 2), (255, 0, 255, 0))
    image.paste((0, 200, 0, 255), (0, 0, 2, 2))
    return image if mode == "RGBA" else image.convert(mode)


def palette(*alpha: int) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 200, 0, 255, 0, 255])
    image.paste(0, (0, 0, 2, 2))
    return image, {"transparency": bytes(alpha)}


@pytest.mark.parametrize("background", ["white", "black", "#102030"])
@pytest.mark.parametrize(
    ("kind", "image", "options"),
    [
        ("PNG", see_through("RGBA"), {}),
        ("WEBP", see_through("RGBA"), {"lossless": True, "exact": True}),
        ("TIFF", see_through("RGBA"), {}),
        ("ICO", see_through("RGBA").resize((16, 16), Image.Resampling.NEAREST), {}),
        ("PNG", *palette(255, 0)),
        ("PNG", palette()[0], {"transparency": 1}),
        ("GIF", palette()[0], {"transparency": 1}),
        ("PNG", see_through("RGB"), {"transparency": (255, 0, 255)}),
        ("QOI", see_through("RGBA"), {}),
        ("TGA", see_through("RGBA"), {}),
        ("DDS", see_through("RGBA"), {}),
    ],
)
def test_hidden_colours_are_not_seen(
    kind: str, image: Image.Image, options: dict[str, Any], background: str
) -> None:
    opened = read_image(encoded(image, kind, **options), reading=Reading(background=background))
    seen = np.asarray(opened.image)
    middle = seen.shape[1] // 2
    assert (seen[:, :middle] == (0, 200, 0)).all()
    colour = {"white": (255,) * 3, "black": (0,) * 3, "#102030": (16, 32, 48)}[background]
    assert (seen[:, middle:] == colour).all()
    assert opened.changes == (f"transparent parts over {background}",)


def test_half_transparent_parts_are_mixed() -> None:
    image = Image.new("RGBA", (1, 1), (0, 100, 0, 51))
    assert decode(encoded(image)).getpixel((0, 0)) == (204, 224, 204)


@pytest.mark.parametrize(("mode", "value", "options"), [
    ("L", 40, {"transparency": 40}), ("I;16", 4000, {"transparency": 4000}),
    ("1", 0, {"transparency": 0}), ("L", 40, {"transparency": 41}),
])  # fmt: skip
def test_a_grey_that_is_transparent(mode: str, value: int, options: dict[str, int]) -> None:
    image = Image.new(mode, (2, 1), value)
    image.putpixel((1, 0), 1 if mode == "1" else 30_000 if mode == "I;16" else 200)
    first = decode(encoded(image, **options)).getpixel((0, 0))
    is_opaque = options["transparency"] != value
    assert first == ((40,) * 3 if is_opaque else (255,) * 3)


def test_transparent_greys_of_few_bits() -> None:
    """Two bits a pixel: values 0 to 3, of which 2 is transparent."""
    header = b"IHDR", (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([2, 0, 0, 0, 0])
    chunks = [header, (b"tRNS", b"\0\2"), (b"IDAT", zlib.compress(b"\0\x1b")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        checksum = zlib.crc32(name + body).to_bytes(4, "big")
        data += len(body).to_bytes(4, "big") + name + body + checksum
    assert red(decode(data)).tolist() == [[0, 85, 255, 255]]


ORIENTATIONS = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_images_are_upright(kind: str, orientation: int) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12] = (250, 20, 20)
    pixels[8:, 12:] = (20, 20, 250)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), kind, exif=exif, **lossless)
    opened = read_image(data)
    assert opened.changes == (("turned upright",) if orientation > 1 else ())
    seen = np.asarray(opened.image).astype(int)
    right = ORIENTATIONS[orientation](pixels.astype(int))
    assert seen.shape == right.shape
    assert np.abs(seen - right).mean() < (10 if kind in ("JPEG", "AVIF") else 1e-9)


def test_damaged_exif_leaves_an_image_as_it_is_stored() -> None:
    data = encoded(noise("RGB", 5), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(noise("RGB", 5)))


def profile(*, gamma: float, grey: bool = False) -> bytes:
    """A profile with sRGB's primaries, or of greys, and one power as curve."""
    tag = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
    tag += bytes(2)

    def xyz(*values: float) -> bytes:
        numbers = (round(value * 65536).to_bytes(4, "big", signed=True) for value in values)
        return b"XYZ " + bytes(4) + b"".join(numbers)

    text = b"power of selma's tests\0"
    named = b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text + bytes(80)
    named += bytes(-len(named) % 4)
    tags = {b"desc": named, b"wtpt": xyz(0.9642, 1, 0.8249)}
    if grey:
        tags |= {b"kTRC": tag}
    else:
        tags |= {b"rTRC": tag, b"gTRC": tag, b"bTRC": tag, b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
                 b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
                 b"bXYZ": xyz(0.14307, 0.06061, 0.71410)}  # fmt: skip
    offset, table, body = 128 + 4 + 12 * len(tags), len(tags).to_bytes(4, "big"), b""
    for name, content in tags.items():
        table += name + (offset + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    space = b"GRAY" if grey else b"RGB "
    header = bytes(4) + b"\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(24)
    header += (0).to_bytes(4, "big") + b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    header += bytes(128 - 4 - len(header))
    return (offset + len(body)).to_bytes(4, "big") + header + table + body


def srgb_of(linear: Array) -> Array:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA"])
def test_colours_of_a_profile_become_srgb(mode: str) -> None:
    image = noise(mode, 11)
    data = encoded(image, icc_profile=profile(gamma=1.0, grey=mode in ("L", "LA")))
    opened = read_image(data)
    opaque = RIGHT[{"RGBA": "RGB", "LA": "L"}.get(mode, mode)]
    if mode in ("RGBA", "LA"):
        alpha = np.asarray(image)[..., -1]
        bare = Image.fromarray(np.asarray(image)[..., :-1].squeeze())
        right = over(srgb_of(opaque(bare) / 255), alpha)
    else:
        right = srgb_of(opaque(image) / 255)
    assert np.abs(np.asarray(opened.image) - right).max() <= 1.5
    assert opened.changes[0] == "colours of power of selma's tests as sRGB"
    assert "icc_profile" not in opened.image.info
    numbers = read_image(data, reading=Reading(profile=False)).image
    assert np.abs(np.asarray(numbers) - RIGHT[mode](image)).max() <= 1


@pytest.mark.parametrize(
    "data", [b"no profile", profile(gamma=1.0, grey=True), profile(gamma=2.0)[:150], b""]
)
def test_a_profile_that_is_damaged_or_of_another_space_is_not_heeded(data: bytes) -> None:
    opened = read_image(encoded(noise("RGB", 2), icc_profile=data))
    assert np.array_equal(np.asarray(opened.image), np.asarray(noise("RGB", 2)))
    assert opened.changes == ()


def test_srgb_is_left_as_it_is() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    opened = read_image(encoded(noise("RGB", 2), icc_profile=own))
    assert np.array_equal(np.asarray(opened.image), np.asarray(noise("RGB", 2)))
    assert opened.changes == () and opened.image.info == {"icc_profile": own}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    opened = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(np.asarray(opened.image).astype(int) - (255, 0, 0)).max() <= 3
    assert opened.changes == ("the first of several frames",)


def test_a_second_view_is_no_animation() -> None:
    views = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    opened = read_image(encoded(views[0], "MPO", save_all=True, append_images=views[1:]))
    assert opened.changes == () and opened.format == "MPO"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_a_plain_image_is_what_it_was(mode: str) -> None:
    """Bytes of what is made from it do not change."""
    image = noise(mode, 4)
    plain = Image.open(io.BytesIO(encoded(image))).convert("RGB")
    opened = read_image(encoded(image))
    assert png_bytes(opened.image) == png_bytes(plain) and opened.changes == ()


def test_images_with_texts_stay_plain() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat")
    assert read_image(encoded(noise("RGB", 4), pnginfo=info)).changes == ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a program"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "decoded|pixels"),
        (b"P6\n0 5\n255\n", "pixels|decoded"),
        (b"GIF89a" + bytes(20), "pixels|decoded"),
        (b"", "cannot be decoded"),
        (encoded(noise("RGBA", 1))[:-30], "cannot be decoded"),
        (encoded(noise("F", 1), "TIFF")[:40], "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<!doctype html><p>gone", "no known kind of image begins with '<!doctype html><p>gone'"),
        (b"it's 503", 'no known kind of image begins with "it\'s 503"'),
        (bytes(99), "no known kind of image begins with '" + r"\x00" * 24 + "'"),
        (b"\xff\xd8\xff\xe0", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"", "it is empty"),
        *((encoded(noise("RGB", 3), kind)[:end], None)
          for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "AVIF", "JPEG2000")
          for end in (12, 30, 60)),
    ],
)  # fmt: skip
def test_equal_bytes_are_refused_in_equal_words(data: bytes, says: str | None) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(DataError) as refused:
            decode(data)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "0x" not in messages[0].lower() and "BytesIO" not in messages[0]
    if says is not None:
        assert messages[0] == f"The image cannot be decoded: {says}. Replace it or remove it."


def test_an_object_that_a_decoder_names_is_no_part_of_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(file: Any, **options: Any) -> Image.Image:
        raise ValueError(f"nothing can be read of {object()!r}.")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(DataError, match=r"decoded: nothing can be read of the file\. Replace"):
        decode(b"GIF89a")
