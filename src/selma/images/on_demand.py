"""Images of one text, with or without adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from PIL.Image import Image

from selma.adapters.applying import applied, chosen
from selma.adapters.table import kind_of
from selma.backbones.bases import guidance_of, steps_of
from selma.backbones.drawing import load_any_text_to_image
from selma.config.guides import GuideSettings
from selma.config.networks import AnyBase, BaseConfig, ServedBase, base_of
from selma.disk import make_folder, write_bytes
from selma.errors import ConfigError
from selma.image_files import png_bytes
from selma.images.guides.applying import guide_mistakes, guided, parsed_now
from selma.paths import AnyPath, as_path
from selma.randomness import following, require_seed
from selma.records.adapters import AppliedAdapter
from selma.records.guides import AppliedGuide

if TYPE_CHECKING:
    from selma.backbones.drawing import AnyTextToImage

Adapters = AnyPath | AppliedAdapter | Sequence[AnyPath | AppliedAdapter]


def generate(
    text: str,
    *,
    adapter: Adapters = (),
    base: AnyPath | AnyBase = "toybox",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    count: int = 1,
    guide: GuideSettings | None = None,
) -> Iterator[Image]:
    """Generate `count` images of one text, with seeds `seed`, `seed + 1` and so on, modulo 2^64.

    adapter: the file or folder of one of any kind, or several, applied in their order; with another
    strength as `adapters.applying.chosen` returns them. Without one the images are the base model's
    own.  base: a short name, diffusers folder or Hub id, or settings, those of a server among them.
    steps, guidance: None is the short name's own, and 50 and 7.5 for any other base.  guide:
    settings of `config.guides`, of a method that changes how images are generated and trains
    nothing.

    The model and the adapters are loaded before this returns; an image is made when it is asked
    for. Raises ConfigError, ModelError, AdapterError or BackendError.
    """
    model_settings = base if isinstance(base, BaseConfig | ServedBase) else base_of(base)
    _require_text(text)
    steps = steps_of(model_settings) if steps is None else steps
    _require_numbers(steps=steps, count=count, guidance=guidance)
    require_seed(seed)
    adapters = _adapters(adapter)
    _require_there(adapters)
    reading = None if guide is None else _guide(text, guide, model_settings)
    model = load_any_text_to_image(model_settings)
    with ExitStack() as failing:
        failing.enter_context(applied(model, adapters))
        failing.enter_context(guided(model, reading))
        applying = failing.pop_all()  # the adapters stay until the last image
    return _images(
        model,
        applying,
        [text] * count,
        seeds=following(seed, count),
        steps=steps,
        guidance=guidance_of(model_settings) if guidance is None else guidance,
    )


def _images(
    model: AnyTextToImage,
    applying: ExitStack,
    texts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
) -> Iterator[Image]:
    with applying:
        yield from model.generate(
            texts, seeds=seeds, steps=steps, guidance=guidance, batch_size=min(len(texts), 8)
        )


def _guide(text: str, guide: GuideSettings, base: AnyBase) -> AppliedGuide:
    """Raises ConfigError unless the base can be guided so."""
    if mistakes := list(guide_mistakes(guide, base, "guide")):
        raise ConfigError(" ".join(mistakes))
    return parsed_now(text, guide, base=base)


def _adapters(given: Adapters) -> list[AppliedAdapter]:
    several: list[Any]
    if isinstance(given, str | PathLike | AppliedAdapter) or not isinstance(given, Iterable):
        several = [given]
    else:
        several = list(given)
    for each in several:
        if not isinstance(each, str | PathLike | AppliedAdapter):
            raise ConfigError(
                "adapter must be a path, several, or what adapters.applying.chosen returns, but "
                f"{each!r} came. Leave it out for none; a strength goes as chosen([PATH], [0.5])."
            )
    return [each if isinstance(each, AppliedAdapter) else chosen([each])[0] for each in several]


def _require_text(text: Any) -> None:
    if not isinstance(text, str):
        raise ConfigError(
            f"One text must come, but {text!r} did. Call generate once for each of several."
        )


def _require_there(adapters: Sequence[AppliedAdapter]) -> None:
    """Raise AdapterError for one that is missing, before a model is loaded for nothing."""
    for adapter in adapters:
        if not adapter.path.exists():
            kind_of(adapter.path).read(adapter.path)


def _require_numbers(*, steps: Any, count: Any, guidance: Any) -> None:
    for name, number in (("steps", steps), ("count", count)):
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise ConfigError(f"{name} must be a whole number, but {number!r} came.")
        if number < 1:
            raise ConfigError(f"{name} must be 1 or more, but {number} came.")
    if guidance is None:
        return
    if isinstance(guidance, bool) or not isinstance(guidance, SupportsFloat):
        raise ConfigError(f"guidance must be a number, but {guidance!r} came.")
    if not 0 <= float(guidance) < float("inf"):
        raise ConfigError(f"guidance must be 0 or more, but {guidance} came.")


def save_images(images: Iterable[Image], path: AnyPath, *, count: int) -> Iterator[Path]:
    """Save the images as `image_paths` names them."""
    for image, file in zip(images, image_paths(path, count=count), strict=True):
        make_folder(file.parent)
        write_bytes(file, png_bytes(image))
        yield file


def image_paths(path: AnyPath, *, count: int) -> list[Path]:
    """`path`, or `path` with -1, -2, ... where there are several. Raises ConfigError unless it can
    be a PNG file."""
    path = as_path(path)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"Images are saved as .png, but {path} came.")
    if path.is_dir():
        raise ConfigError(f"An image needs the name of a file, but {path} is a folder.")
    file = next((parent for parent in path.parents if parent.is_file()), None)
    if file is not None:
        raise ConfigError(f"{path} must lie in a folder, but {file} is a file.")
    return (
        [path]
        if count == 1
        else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]
    )
