"""Files of others under seeded fuzz: settings, benchmarks, prompts, pages, images' own metadata,
adapters and replies are read, or refused by an error of ours that names the file."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack, dice
from fuzzing import CASES, damaged, fuzz, fuzzed, mutated, torn
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from selma.adapters.table import read_any
from selma.applications.comparisons.recipes import load_comparison
from selma.applications.sur.civitai import read_dump
from selma.applications.sur.parameters import statement_inside
from selma.config import load_config
from selma.config.given import Imagefolder, PromptFile
from selma.given import GIVEN
from selma.image_files import open_image
from selma.prompts.parsing import parse_reply
from selma.prompts.skills import load_skills
from selma.scores.benchmarks import read_benchmark
from selma.scores.benchmarks.dsg import COLUMNS

Reader = Callable[[Path], tuple[Path, Iterator[bytes], Callable[[], Any]]]

CONFIG = b"""\
name: own
seed: 3
base: {model: toybox, device: cpu}
prompts:
  skills: [coco, whoops]
  per_skill: 8
  backend: {kind: openai, model: m, base_url: "http://127.0.0.1:9/v1"}
experts: &shared {adapter: {kind: lora, rank: 2}, steps: 8}
scores: {prompts: 6}
"""
SKILL = b"""\
name: own
description: short captions of dogs
rules: [Say what it does.]
seeds: [a dog runs, a dog sleeps, a dog eats]
max_words: 30
"""
COMPARISON = b"""\
name: little
settings: {images: {steps: 2}}
rows:
  - {name: base, model: base}
  - {name: selma, settings: {merged: {scale: 2.0}}}
guidances: [1.0, 3.0]
dev_prompts: 3
"""


def yaml_file(sample: bytes, read: Callable[[Path], Any], name: str) -> Reader:
    def reader(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
        path = folder / "own.yaml"
        return path, torn(sample, name), lambda: read(path)

    return reader


def benchmark(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    path = folder / "own.json"
    sample = [{"text": "a dog", "id": "1"}, {"text": "a cat", "id": "2"}]
    return path, fuzzed(sample, "benchmark", lines=False), lambda: read_benchmark(path)


def dsg(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    path = folder / "own.csv"
    values = {"text": "a dog", "question_natural_language": "is it a dog?"}
    values |= {"dependency": "0", "item_id": "x_1", "category_broad": "entity", "tuple": "entity"}
    rows = [",".join(COLUMNS)]
    for number in "123":
        rows.append(",".join((values | {"proposition_id": number}).get(c, "1") for c in COLUMNS))
    return path, torn("\n".join(rows).encode(), "dsg"), lambda: read_benchmark(path)


def texts(end: str) -> Reader:
    def reader(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
        path = folder / f"own.{end}"
        row, sample = GIVEN["file"], {"text": "a dog"}
        cases = {
            "jsonl": fuzzed(sample, "jsonl", lines=True),
            "json": fuzzed([sample, sample], "json", lines=False),
            "csv": torn(b'text,n\n"a dog",1\na cat,2\n', "csv"),
            "txt": torn(b"a dog\na cat\n", "txt"),
        }[end]
        return path, cases, lambda: row.texts(PromptFile(path=str(path)), ["own"], seed=0)

    return reader


def imagefolder(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    row, settings = GIVEN["imagefolder"], Imagefolder(folder=str(folder))
    cases = fuzzed({"file_name": "a.png", "text": "a dog"}, "imagefolder", lines=True)
    return folder / "metadata.jsonl", cases, lambda: row.texts(settings, ["own"], seed=0)


def civitai(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    path = folder / "dump.json"
    image = {"url": "https://host/a.png", "id": 7, "meta": {"prompt": "a dog"}, "nsfw": False}
    cases = fuzzed({"items": [image, image]}, "civitai", lines=False)
    return path, cases, lambda: list(read_dump(path))


def image(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    """The pixels are refused by our error; the texts are read or not, without an error."""
    path, info, exif = folder / "a.png", PngInfo(), Image.Exif()
    info.add_text("parameters", "a dog\nNegative prompt: a cat\nSteps: 20, Seed: 7")
    info.add_text("prompt", json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}))
    info.add_text("invokeai_metadata", json.dumps({"positive_prompt": "a dog"}), zip=True)
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a dog".encode("utf-16-be")
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG", pnginfo=info, exif=exif)

    def read() -> None:
        statement_inside(path.read_bytes())
        open_image(path)

    return path, torn(data.getvalue(), "image"), read


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def adapter(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    path = folder / "pytorch_lora_weights.safetensors"
    metadata = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 8}}
    header: dict[str, Any] = {
        f"{LAYER}.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        f"{LAYER}.lora_B.weight": {"dtype": "F32", "shape": [5, 2], "data_offsets": [32, 72]},
    }

    def written(header: Any, metadata: Any) -> bytes:
        texts = {"lora_adapter_metadata": json.dumps(metadata), "format": "pt"}
        whole = {"__metadata__": texts, **header} if isinstance(header, dict) else header
        data = json.dumps(whole).encode()
        return struct.pack("<Q", len(data)) + data + bytes(72)

    def cases() -> Iterator[bytes]:
        pick = dice("adapter")
        yield written(header, metadata)
        for number in range(CASES):
            if number % 3 == 0:
                yield damaged(written(header, metadata), pick)
            elif number % 3 == 1:
                yield written(mutated(header, pick), metadata)
            else:
                yield written(header, mutated(metadata, pick))

    def read() -> None:
        file = read_any(path)
        for layer in file.layers:
            file.factors(layer)

    return path, cases(), read


def reply(folder: Path) -> tuple[Path, Iterator[bytes], Callable[[], Any]]:
    path = folder / "reply.txt"
    wanted = {"captions": [{"caption": "a dog"}, "a cat"]}
    text = "Here they are:\n```json\n" + json.dumps(wanted) + "\n```\n1. a bird\n2. a fish"

    def read() -> None:
        for caption in parse_reply(path.read_bytes().decode("utf-8", "replace")).captions:
            assert caption.isprintable()
            caption.encode()

    return path, torn(text.encode(), "reply"), read


READERS: dict[str, Reader] = {
    "a config": yaml_file(CONFIG, load_config, "config"),
    "a skill": yaml_file(SKILL, lambda path: load_skills([str(path)]), "skill"),
    "a comparison": yaml_file(COMPARISON, load_comparison, "comparison"),
    "a benchmark": benchmark,
    "a benchmark in DSG's layout": dsg,
    **{f"prompts in {end}": texts(end) for end in ("jsonl", "json", "csv", "txt")},
    "an imagefolder": imagefolder,
    "Civitai's pages": civitai,
    "an image": image,
    "an adapter": adapter,
    "a reply": reply,
}


@pytest.mark.parametrize("name", READERS)
def test_files_of_others_are_read_or_refused(tmp_path: Path, name: str, attack: Attack) -> None:
    path, cases, read = READERS[name](tmp_path)
    fuzz(attack, name, path, cases, read)
