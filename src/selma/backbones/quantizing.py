"""A frozen base in 8 or 4 bits: its linear layers quantized as it is loaded, by diffusers' and
transformers' own configs. Adapters stay in full precision, and no change is ever rounded to such a
weight: a layer that an adapter changes is a plain one while it is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from selma.backbones.families.family import Family
from selma.config.networks import BaseConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
BITS = {"int8": 8, "nf4": 4}


def mistakes(base: BaseConfig, key: str) -> Iterator[str]:
    """What keeps the base from being quantized as the settings say."""
    kind = base.quantization
    if kind is None:
        return
    if base.config is not None:
        yield f"{key}.quantization: {kind} needs a folder or a Hub id, but {base.model} is a file."
    if find_spec(PACKAGES[kind]) is None:
        yield (
            f"{key}.quantization: {kind} needs the package {PACKAGES[kind]}: "
            "pip install 'selma[quantization]'."
        )
    if kind == "nf4" and base.device in ("cpu", "mps"):
        yield f"{key}.quantization: nf4 needs an NVIDIA GPU, but {key}.device is {base.device}."


def loading(base: BaseConfig, family: Family, index: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What the pipeline's loader is told, so that the denoiser and the text encoders that its
    model_index.json (`index`) names are quantized."""
    if base.quantization is None:
        return {}
    from diffusers import PipelineQuantizationConfig

    parts = (family.component, *family.text_encoders)
    origins = {part: (index.get(part) or [None])[0] for part in parts}
    mapping = {
        part: _config(base.quantization, origin, dtype)
        for part, origin in origins.items()
        if origin in ("diffusers", "transformers")
    }
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def _config(kind: str, library: str, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    module: Any = diffusers if library == "diffusers" else transformers
    if kind == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return module.TorchAoConfig(Int8WeightOnlyConfig())
    return module.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def is_quantized(layer: Any) -> bool:
    """Whether this layer holds its weight in fewer bits than it computes with."""
    weight = getattr(layer, "weight", None)
    return hasattr(weight, "quant_state") or type(weight).__module__.startswith("torchao.")


def dense(layer: Any, change: Callable[[Tensor], Tensor], dtype: torch.dtype) -> nn.Linear:
    """A plain layer whose weight is what `change` makes of the quantized one in float32."""
    import torch

    if hasattr(layer.weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        weight = layer.weight.data.dequantize()
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    changed = change(weight.float()).to(weight.device, dtype)
    plain.weight = torch.nn.Parameter(changed, requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()
