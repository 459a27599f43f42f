"""A few samples with pictures of noise, and a tiny language model that has a state for each."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tiny
import tiny_judges
import torch
import transformers
from PIL import Image
from torch import nn

from selma.applications.sur.encoding import as_pairs, encode_samples
from selma.applications.sur.records import SurSample
from selma.config.networks import LlmVectors, LocalLLM
from selma.experts.recipes import image_digests
from selma.workspace import Workspace

CAPTIONS = ["a cat at a mat", "the left cat", "cats"]
KEYWORDS = ["cat, mat, vector art, 4k", "cat, left, 4k", "two cats, flat colors, cute icon"]


def samples(folder: Path, *, px: int = 16) -> list[SurSample]:
    train = folder / "images" / "train"
    train.mkdir(parents=True, exist_ok=True)
    made = []
    for n, (text, keywords) in enumerate(zip(CAPTIONS, KEYWORDS, strict=True)):
        noise = np.random.default_rng(n).integers(0, 256, (px, px, 3), dtype=np.uint8)
        Image.fromarray(noise).save(train / f"{n}.png")
        made.append(SurSample(id=f"t{n}", text=text, prompt=keywords, image=train / f"{n}.png"))
    return made


@cache
def language_model(kind: str = "llama", *, width: int = 24) -> Path:
    """A causal model of two blocks with random weights. A token is a word; of "bytes" a byte, as
    transformers' stop strings need tokens that can spell anything."""
    root = Path(tempfile.mkdtemp(prefix="tiny-llm-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    words = tiny.tokenizer() if kind == "bytes" else tiny_judges.words("<s>")
    shared = {
        "vocab_size": len(words), "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
    }  # fmt: skip

    def llama(tokens: int) -> transformers.LlamaConfig:
        return transformers.LlamaConfig(
            **shared, hidden_size=width, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=tokens,
        )  # fmt: skip

    config = {
        "llama": lambda: llama(64),
        "bytes": lambda: llama(2048),
        "gpt2": lambda: transformers.GPT2Config(
            **shared, n_embd=width, n_layer=2, n_head=2, n_positions=64
        ),
        "opt": lambda: transformers.OPTConfig(
            **shared, hidden_size=width, word_embed_proj_dim=width, ffn_dim=32,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        ),
    }[kind]()  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))
        model.save_pretrained(root / kind, safe_serialization=True)
    words.save_pretrained(root / kind)
    return root / kind


def llm(kind: str = "llama", **given) -> LlmVectors:
    return LlmVectors(backend=LocalLLM(model=str(language_model(kind)), batch_size=4), **given)


def encoded_samples(folder: Path, model, shape: str, *, flip: bool = False):
    some = samples(folder)
    return encode_samples(
        some,
        Workspace(folder / "run"),
        llm=llm(),
        flip=flip,
        digests=image_digests(as_pairs(some)),
        recipe={"shape": shape, "flip": flip},
        model=lambda: model,
    )


class ReleasedAttention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.query_layer, self.key_layer, self.value_layer = (nn.Linear(d, d) for _ in range(3))
        self.output_layer = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))


class Released(nn.Module):
    """The names of a released checkpoint, the unused ones among them."""

    def __init__(self, d=16, depth=2):
        super().__init__()
        self.encoder_layer = nn.TransformerEncoderLayer(d, 8, 24)
        self.transformer_encoder = nn.TransformerEncoder(
            self.encoder_layer, depth, enable_nested_tensor=False
        )
        self.attention = ReleasedAttention(d)
        self.fc = nn.Linear(d, d)
