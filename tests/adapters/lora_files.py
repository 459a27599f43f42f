"""LoRA files as other programs write them, put together by hand, and the deltas that they hold.

Nothing of selma's own reading or writing is used here: names, headers and scales are each program's
own, so that a layer's delta is known without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

ENDINGS = (
    ".attn1.to_q", ".attn1.to_out.0", ".attn2.to_k", ".ff.net.0.proj", ".proj_in", ".proj_out",
    ".conv1", ".time_emb_proj", ".conv_shortcut", "samplers.0.conv",
    ".q_proj", ".k_proj", ".out_proj", ".fc1", ".fc2",
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Factors of one layer: its delta is alpha / rank x B A, and B A where alpha is missing."""

    a: Tensor
    """[r, in], or [r, in, k, k] of a convolution."""
    b: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def delta(self) -> Tensor:
        """[out, in x k x k], float64."""
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        return scale * (self.b.double().flatten(1) @ self.a.double().flatten(1))


Layers = Mapping[tuple[str, str], Layer]
"""(part of the pipeline, path in the installed model) → its factors."""


def random_layers(
    pipe: Any,
    *,
    ranks: Sequence[int] = (2, 3, 4),
    alphas: Sequence[float | None] = (1.0, 2.0, 4.5),
    parts: Iterable[str] = ("unet", "text_encoder", "text_encoder_2"),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[tuple[str, str], Layer]:
    """Factors of many kinds of layers, of ranks and alphas that take turns."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for part in parts:
        for path, module in modules(pipe, part):
            number = len(layers)
            rank, alpha = ranks[number % len(ranks)], alphas[number % len(alphas)]
            out, *inside = module.weight.shape
            ones = [1] * (len(inside) - 1)
            a = torch.randn(rank, *inside, generator=generator) / math.sqrt(math.prod(inside))
            b = torch.randn(out, rank, *ones, generator=generator) * 0.3
            layers[part, path] = Layer(a.to(dtype), b.to(dtype), alpha)
    return layers


def modules(pipe: Any, part: str) -> list[tuple[str, Any]]:
    """A part's linear layers and convolutions that are changed here."""
    network = getattr(pipe, part, None)
    return [
        (path, module)
        for path, module in ([] if network is None else network.named_modules())
        if isinstance(module, nn.Linear | nn.Conv2d) and f".{path}".endswith(ENDINGS)
    ]


def add_by_hand(pipe: Any, files: Sequence[tuple[Layers, float]]) -> None:
    """Add each file's deltas, times its strength, to the pipeline's weights."""
    for name, weight in weights_by_hand(pipe, files).items():
        part, _, inside = name.partition(".")
        getattr(pipe, part).get_parameter(inside).data.copy_(weight)


def weights_by_hand(pipe: Any, files: Sequence[tuple[Layers, float]]) -> dict[str, Tensor]:
    """Parameter → what it is with each file's deltas, float64; of all parameters."""
    weights = {name: value.double().clone() for name, value in parameters(pipe).items()}
    for layers, strength in files:
        for (part, path), layer in layers.items():
            weight = weights[f"{part}.{path}.weight"]
            weight += strength * layer.delta.reshape(weight.shape)
    return weights


def parameters(pipe: Any) -> dict[str, Tensor]:
    """All parameters of denoiser and text encoders, by their names below the pipeline."""
    parts = [p for p in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, p, None)]
    return {
        f"{part}.{name}": value.detach()
        for part in parts
        for name, value in getattr(pipe, part).named_parameters()
    }


# What each program writes. All take (layers, folder) and return the file or folder.


def _saved(tensors: Mapping[str, Tensor], path: Path, **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {key: json.dumps(value) for key, value in header.items()}
    given = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(given, path, metadata={"format": "pt"} | metadata)
    return path


def _with_text_model(part: str, path: str) -> str:
    """As transformers 4 had all CLIP encoders, whose names nearly all files have."""
    inside = part != "unet" and not path.startswith("text_model.")
    return f"text_model.{path}" if inside else path


def _peft_settings(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """As PEFT writes them: one rank and alpha, and patterns for the layers that differ."""
    first = next(iter(layers.values()))
    alphas = {
        path: layer.rank if layer.alpha is None else layer.alpha for path, layer in layers.items()
    }
    start = next(iter(alphas.values()))
    return {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": start,
        "target_modules": sorted(layers),
        "rank_pattern": {p: each.rank for p, each in layers.items() if each.rank != first.rank},
        "alpha_pattern": {path: alpha for path, alpha in alphas.items() if alpha != start},
    }


def of_part(layers: Layers, part: str) -> dict[str, Layer]:
    return {path: layer for (own, path), layer in layers.items() if own == part}


def diffusers(layers: Layers, folder: Path) -> Path:
    """`save_lora_weights` of today, which says ranks and alphas in the header."""
    header = {
        f"{part}.{key}": value
        for part in dict.fromkeys(part for part, _ in layers)
        for key, value in _peft_settings(of_part(layers, part)).items()
    }
    return _saved(_lora_ab(layers), folder / "new.safetensors", lora_adapter_metadata=header)


def _lora_ab(layers: Layers) -> dict[str, Tensor]:
    return {
        f"{part}.{_with_text_model(part, path)}.lora_{factor}.weight": tensor
        for (part, path), layer in layers.items()
        for factor, tensor in (("A", layer.a), ("B", layer.b))
    }


def diffusers_with_alphas(layers: Layers, folder: Path) -> Path:
    """Alphas beside the factors, as trainers have them that convert kohya's to diffusers' names."""
    alphas = {
        f"{part}.{_with_text_model(part, path)}.alpha": torch.tensor(layer.alpha)
        for (part, path), layer in layers.items()
        if layer.alpha is not None
    }
    return _saved(_lora_ab(layers) | alphas, folder / "alphas.safetensors")


def diffusers_of_scale_one(layers: Layers, folder: Path) -> Path:
    """diffusers before it wrote a header: alpha is the rank."""
    return _saved(_lora_ab(layers), folder / "plain.safetensors")


def lora_down(layers: Layers, folder: Path) -> Path:
    """diffusers of 2023: "lora.down", and "lora_linear_layer.down" in text encoders."""
    tensors = {}
    for (part, path), layer in layers.items():
        middle = "lora" if part == "unet" else "lora_linear_layer"
        name = f"{part}.{_with_text_model(part, path)}.{middle}"
        tensors |= {f"{name}.down.weight": layer.a, f"{name}.up.weight": layer.b}
    return _saved(tensors, folder / "old.safetensors")


def processors(layers: Layers, folder: Path) -> Path:
    """diffusers' attention processors, which had names of their own."""
    tensors = {}
    for (part, path), layer in layers.items():
        attention, _, projection = path.removesuffix(".0").rpartition(".")
        name = f"{part}.{attention}.processor.{projection}_lora"
        tensors |= {f"{name}.down.weight": layer.a, f"{name}.up.weight": layer.b}
    return _saved(tensors, folder / "processors.safetensors")


# The tiny UNet's blocks in the original UNet, which counts them through.
SGM = {
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _sgm(path: str) -> str:
    block = next(name for name in SGM if path == name or path.startswith(f"{name}."))
    inside = path.removeprefix(block).removeprefix(".")
    return ".".join(filter(None, (SGM[block], SGM.get(inside, inside))))


def _kohya(layers: Layers, path: Path, *, two: bool, unet: Callable[[str], str]) -> Path:
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
    if two:
        prefixes["text_encoder"] = "lora_te1_"
    tensors = {}
    for (part, inside), layer in layers.items():
        own = unet(inside) if part == "unet" else _with_text_model(part, inside)
        name = prefixes[part] + own.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": layer.a, f"{name}.lora_up.weight": layer.b}
        if layer.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return _saved(tensors, path)


def kohya(layers: Layers, folder: Path) -> Path:
    """sd-scripts for SD 1 and SD 2; its names of SDXL by diffusers' are read, too."""
    two = any(part == "text_encoder_2" for part, _ in layers)
    return _kohya(layers, folder / "kohya.safetensors", two=two, unet=lambda path: path)


def kohya_sdxl(layers: Layers, folder: Path) -> Path:
    """sd-scripts for SDXL, by the names of the original UNet."""
    return _kohya(layers, folder / "kohya-xl.safetensors", two=True, unet=_sgm)


def comfyui(layers: Layers, folder: Path) -> Path:
    """ComfyUI's own saver: the original UNet's paths, and an encoder's behind its name."""
    encoders = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    tensors = {}
    for (part, path), layer in layers.items():
        encoder = f"text_encoders.{encoders.get(part)}.transformer."
        own = encoder + _with_text_model(part, path)
        name = f"diffusion_model.{_sgm(path)}" if part == "unet" else own
        tensors |= {f"{name}.lora_down.weight": layer.a, f"{name}.lora_up.weight": layer.b}
        if layer.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return _saved(tensors, folder / "comfyui.safetensors")


def of_the_denoiser(prefix: str) -> Callable[[Layers, Path], Path]:
    """A file of paths in the denoiser, with this before them."""

    def write(layers: Layers, folder: Path) -> Path:
        tensors = {
            f"{prefix}{path}.lora_{factor}.weight": tensor
            for path, layer in of_part(layers, "unet").items()
            for factor, tensor in (("A", layer.a), ("B", layer.b))
        }
        return _saved(tensors, folder / "denoiser.safetensors")

    return write


def peft(layers: Layers, folder: Path) -> Path:
    """A folder for each part, as PEFT saves a model."""
    classes = {
        "unet": "UNet2DConditionModel",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
    }
    for part in dict.fromkeys(part for part, _ in layers):
        own = of_part(layers, part)
        tensors = {
            f"base_model.model.{path}.lora_{factor}.weight": tensor
            for path, layer in own.items()
            for factor, tensor in (("A", layer.a), ("B", layer.b))
        }
        _saved(tensors, folder / "peft" / part / "adapter_model.safetensors")
        about = {"auto_mapping": {"base_model_class": classes[part]}, "bias": "none"}
        settings = json.dumps(_peft_settings(own) | about)
        (folder / "peft" / part / "adapter_config.json").write_text(settings)
    return folder / "peft"


def with_kernels_of_one(layers: Layers) -> dict[tuple[str, str], Layer]:
    """The factors of linear layers as those of 1 x 1 convolutions, and the other way round."""
    turned = {}
    for key, layer in layers.items():
        a, b = layer.a, layer.b
        if a.dim() == 2:
            a, b = a[:, :, None, None], b[:, :, None, None]
        elif a.shape[2:] == (1, 1):
            a, b = a.flatten(1), b.flatten(1)
        turned[key] = replace(layer, a=a, b=b)
    return turned
