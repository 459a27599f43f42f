"""Runs inside sd-scripts' environment: its own networks train, save, load and merge LoRAs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import networks.lora
import networks.lora_diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from library import sdxl_original_unet
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


def loaded(kind: Any, folder: Path) -> Any:
    """A text encoder of another release of transformers: only names are brought in line."""
    model = kind(CLIPTextConfig.from_pretrained(folder))
    own = model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict(
        {name if name in own else f"text_model.{name}": t for name, t in tensors.items()},
        strict=False,
    )
    return model.float().eval()


def encoders(folder: Path) -> list[Any]:
    first = loaded(CLIPTextModel, folder / "text_encoder")
    second = folder / "text_encoder_2"
    return [first, *([loaded(CLIPTextModelWithProjection, second)] if second.is_dir() else [])]


def paths(unet: Any, texts: list[Any]) -> dict[Any, str]:
    """Module → component and path."""
    parts = {"unet": unet, "text_encoder": texts[0], "text_encoder_2": [*texts, None][1]}
    return {
        module: f"{component}.{path}"
        for component, model in parts.items()
        if model is not None
        for path, module in model.named_modules()
    }


def filled(network: Any) -> None:
    """Random factors, whose rows fade faster in some layers than in others."""
    torch.manual_seed(7)
    for lora in network.text_encoder_loras + network.unet_loras:
        torch.nn.init.normal_(lora.lora_down.weight)
        fading = float(torch.rand(())) ** torch.arange(len(lora.lora_down.weight))
        lora.lora_down.weight.data *= fading.reshape(-1, *[1] * (lora.lora_down.weight.dim() - 1))
        torch.nn.init.normal_(lora.lora_up.weight, std=0.1)


def delta(lora: Any) -> torch.Tensor:
    """As its LoRAInfModule.get_weight computes it, in double."""
    up, down = lora.lora_up.weight.double(), lora.lora_down.weight.double()
    product = up.flatten(1) @ down.flatten(1)
    return (product * float(lora.scale)).reshape(up.shape[0], *down.shape[1:]).detach()


def train(about: dict[str, Any]) -> dict[str, Any]:
    """A file of create_network's and save_weights' making, and the change of each layer."""
    folder = Path(about["base"])
    unet, texts = UNet2DConditionModel.from_pretrained(folder / "unet"), encoders(folder)
    where = paths(unet, texts)
    network = networks.lora.create_network(
        1.0, about["dim"], about["alpha"], None,
        texts if len(texts) > 1 else texts[0], unet, **about.get("options", {}),
    )  # fmt: skip
    filled(network)
    loras = network.text_encoder_loras + network.unet_loras
    owners = {lora.lora_name: where[lora.org_module] for lora in loras}
    save_file({owners[lora.lora_name]: delta(lora) for lora in loras}, about["deltas"])
    return saved(network, about)


def saved(network: Any, about: dict[str, Any]) -> dict[str, Any]:
    network.apply_to(None, None, apply_text_encoder=True, apply_unet=True)
    dtype = getattr(torch, about.get("dtype", "float32"))
    network.save_weights(about["file"], dtype, {"ss_network_module": "networks.lora"})
    return {"layers": len(network.text_encoder_loras) + len(network.unet_loras)}


def train_sdxl(about: dict[str, Any]) -> dict[str, Any]:
    """Every layer of the real SDXL UNet, in the names that sd-scripts' trainer writes; each change
    by what it makes of a probe, under the layer's name in diffusers."""
    with torch.device("meta"):
        unet = sdxl_original_unet.SdxlUNet2DConditionModel()
    network = networks.lora.create_network(
        1.0, 1, 0.5, None, [], unet, conv_dim="1", conv_alpha="0.25"
    )
    filled(network)
    names = networks.lora_diffusers.UNET_CONVERSION_MAP
    probes = {}
    for lora in network.unet_loras:
        ours = lora.lora_name.removeprefix("lora_unet_")
        start = max((key for key in names if ours.startswith(key)), key=len)
        change = delta(lora).flatten(1)
        probe = torch.linspace(-1, 1, change.shape[1], dtype=torch.float64)
        probes[ours.replace(start, names[start], 1)] = change @ probe
    save_file(probes, about["deltas"])
    return saved(network, about)


def apply(about: dict[str, Any]) -> dict[str, Any]:
    """The weights of a base that was all zeros, after networks/lora.py or lora_diffusers.py has
    merged a file into it."""
    folder = Path(about["base"])
    unet, texts = UNet2DConditionModel.from_pretrained(folder / "unet"), encoders(folder)
    where, model = paths(unet, texts), texts if len(texts) > 1 else texts[0]
    if about["reader"] == "lora":
        network, tensors = networks.lora.create_network_from_weights(
            1.0, about["file"], None, model, unet, for_inference=True
        )
        network.merge_to(model, unet, tensors, torch.float32, "cpu")
    else:
        tensors = load_file(about["file"])
        network = networks.lora_diffusers.create_network_from_weights(model, unet, dict(tensors))
        network.load_state_dict(tensors)
        network.merge_to(1.0)
    layers = {path: module for module, path in where.items() if isinstance(module, LAYERS)}
    merged = {path: layer.weight.detach() for path, layer in layers.items() if layer.weight.any()}
    save_file(merged, about["deltas"])
    return {"layers": len(network.text_encoder_loras) + len(network.unet_loras)}


def tokenizer(folder: Path) -> Any:
    """A tokenizer of another release of transformers."""
    about = json.loads((folder / "tokenizer_config.json").read_text())
    special = {key: about[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=about["model_max_length"],
        **special,
    )


def image(about: dict[str, Any]) -> dict[str, Any]:
    """An image of diffusers' pipeline, with the file merged in by lora_diffusers.py."""
    folder = Path(about["base"])
    kind = StableDiffusionXLPipeline if about["xl"] else StableDiffusionPipeline
    texts = dict(zip(("", "_2"), encoders(folder), strict=False))
    parts = {f"text_encoder{part}": encoder for part, encoder in texts.items()}
    pipe = kind.from_pretrained(folder, **parts, **{f"tokenizer{part}": None for part in texts})
    for part in texts:
        setattr(pipe, f"tokenizer{part}", tokenizer(folder / f"tokenizer{part}"))
    pipe.set_progress_bar_config(disable=True)
    networks.lora_diffusers.merge_lora_weights(pipe, load_file(about["file"]), 1.0)
    noise = torch.Generator().manual_seed(about["seed"])
    pipe(about["prompt"], generator=noise, num_inference_steps=about["steps"],
         guidance_scale=about["guidance"]).images[0].save(about["out"])  # fmt: skip
    return {}


if __name__ == "__main__":
    tasks = json.loads(sys.argv[1])
    print(json.dumps([globals()[task["task"]](task) for task in tasks]))
