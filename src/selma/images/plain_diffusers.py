"""The same image without selma: lines of Python for plain diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selma.adapters.layers import Layers, layer_shapes
from selma.adapters.table import kind_of
from selma.backbones.base_files import base_family, part_config
from selma.backbones.bases import guidance_of, located, rescale_of
from selma.config.networks import BaseConfig
from selma.records.adapters import AppliedAdapter
from selma.toybox import base_folder

_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}


def in_diffusers(
    text: str,
    *,
    base: BaseConfig,
    adapters: Sequence[AppliedAdapter] = (),
    seed: int,
    steps: int,
    guidance: float | None = None,
) -> str:
    """Python by which plain diffusers generates the image of `on_demand.generate`.

    Noise comes from a generator on the CPU, in float32 whatever the base's precision, so that a
    seed is the same image on every device. Adapters that diffusers has no loader for, or reads
    otherwise, are named in a comment, with what to do.
    """
    image = {
        "num_inference_steps": steps,
        "guidance_scale": guidance_of(base) if guidance is None else guidance,
        "guidance_rescale": rescale_of(base),
    }
    noise = _noise(base)
    latents = "" if noise is None else "latents=noise, "
    lines = [
        "import torch, diffusers",
        _pipeline(base),
        *_applying_all(adapters, base),
        f'seed = torch.Generator("cpu").manual_seed({seed})',
        *([] if noise is None else [noise]),
        f"image = pipe({text!r}, generator=seed, {latents}{_arguments(image)}).images[0]",
    ]
    return "\n".join(lines)


def _noise(base: BaseConfig) -> str | None:
    """A line for a pipeline in half precision, which would draw noise in that itself."""
    if base.precision == "fp32":
        return None
    family = base_family(base)
    shape = family.latent_shape(part_config(base, family.component) or {})
    return f"noise = torch.randn({(1, *shape)}, generator=seed).to(pipe.dtype)"


def _pipeline(base: BaseConfig) -> str:
    resolved, family = located(base), base_family(base)
    if (embedded := base_folder(resolved.model)) is not None:
        resolved = resolved.model_copy(update={"model": str(embedded)})
    given = {"revision": resolved.revision} if resolved.revision else {}
    arguments = f"dtype={_DTYPES[base.precision]}, {_arguments({**given, **family.loading})}"
    return (
        f"pipe = diffusers.{family.pipeline_class}.from_pretrained({resolved.model!r}, {arguments})"
    )


def _applying_all(adapters: Sequence[AppliedAdapter], base: BaseConfig) -> list[str]:
    """Weights are changed in float32 and rounded once, whatever the base's precision is."""
    if not adapters:
        return []
    layers = _layers(base)
    lines = [line for adapter in adapters for line in _applying(adapter, layers)]
    if base.precision == "fp32":
        return lines
    return ["pipe.to(torch.float32)", *lines, f"pipe.to({_DTYPES[base.precision]})"]


def _layers(base: BaseConfig) -> Layers:
    """The base's layers, by its configs."""
    family = base_family(base)
    configs = {part: part_config(base, part) for part in family.classes if part != "vae"}
    return Layers(
        base.model, layer_shapes(family, {part: c for part, c in configs.items() if c is not None})
    )


def _applying(adapter: AppliedAdapter, layers: Layers) -> list[str]:
    kind = kind_of(adapter.path)
    lines = kind.in_diffusers(kind.read(adapter.path, base=layers), adapter.strength)
    if lines is not None:
        return lines
    advice = (
        "`selma convert --to fused` makes a folder that it loads in place of the base"
        if kind.weight_changes
        else "generate with selma"
    )
    return [f"# diffusers has no loader that reads {adapter.path} ({kind.name}) right: {advice}"]


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
