"""The lines of a model card are run as they stand, and give the image that selma generates."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray
from original_layout import write_single_file
from PIL import Image
from pipeline.killing import settings
from pipeline.server import serving
from typer.testing import CliRunner

import selma
from selma import cli, pipeline
from selma.applications.publishing.card import UNNAMED, write_card
from selma.applications.publishing.usage import CONFIGS, FILE, FOLDER, usage
from selma.config import RunConfig
from selma.records.merged import Merged

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2, "alpha": 6},
    "oft": {"kind": "oft", "blocks": 4},
    "coft": {"kind": "coft", "blocks": 4, "eps": 0.1},
}
BASES = ("toybox", "folder", "single file")


def made(folder: Path, kind: str, base: str) -> RunConfig:
    """A run up to its merge, or to its scores where its images are toybox's."""
    with serving() as address:
        raw: dict[str, Any] = settings(folder, address, run="run")
        raw["base"] = {"model": "toybox", "device": "cpu"} if base == "toybox" else raw["base"]
        if base == "single file":
            file = write_single_file(tiny.folder("sd1"), folder / "base.safetensors")
            raw["base"] |= {"model": str(file), "config": str(tiny.folder("sd1"))}
        elif base == "folder":
            shutil.copytree(tiny.folder("sd1"), folder / "base")
        raw["prompts"]["per_skill"] = 2
        raw["images"] |= {"steps": 3, "guidance": 3.0}
        raw["experts"] |= {"adapter": KINDS[kind], "steps": 3, "learning_rate": 0.02}
        raw["scores"] |= {"prompts": 2}
        raw["merged"] = {"method": "mean_of_deltas" if kind == "lora" else "mean_of_skews"}
        config = RunConfig.model_validate(raw)
        for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
            stage(config)
        if base == "toybox" and kind != "coft":
            pipeline.score(config)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], RunConfig]:
    return {
        (kind, base): made(tmp_path_factory.mktemp(kind), kind, base)
        for kind in KINDS
        for base in BASES
        if kind != "coft" or base == "toybox"
    }


def blocks(card: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def image_of(code: str) -> NDArray[Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return np.asarray(names["image"]).astype(int)


def run_lines(lines: str) -> None:
    """Each line as a shell gives it to selma."""
    for line in lines.splitlines():
        program, *words = shlex.split(line)
        assert program == "selma"
        result = CliRunner().invoke(cli.app, words)
        if result.exception:
            raise result.exception


def require_one_image(first: NDArray[Any], second: NDArray[Any]) -> None:
    # A forward pass of another size rounds otherwise.
    assert first.shape == second.shape and np.abs(first - second).max() <= 1
    assert (first != second).mean() < 0.01


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_card_give_selmas_image(
    runs: Mapping[tuple[str, str], RunConfig], kind: str, base: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if (kind, base) not in runs:
        pytest.skip("COFT's files are OFT's")
    config = runs[kind, base]
    card = write_card(config.run_folder)
    text = (card.folder / "README.md").read_text("utf-8")
    assert str(config.run_folder.parent) not in text
    monkeypatch.chdir(tmp_path)
    # What a reader has: the adapter's repository or its file here, and the base.
    shutil.copytree(card.folder, Path(UNNAMED))
    shutil.copy(card.files[0], ".")
    if base == "folder":
        Path(FOLDER).symlink_to(config.base.model)
    elif base == "single file":
        Path(FILE).symlink_to(config.base.model)
        Path(CONFIGS).symlink_to(str(config.base.config))
        Path(FOLDER).symlink_to(str(config.base.config))
    (code,) = blocks(text, "python")
    by_name = {lines.split()[1]: lines for lines in blocks(text)}
    assert by_name.keys() == {"generate", "convert"}
    by_selma = by_name["generate"]
    run_lines(by_name["convert"])
    assert Path("kohya.safetensors").is_file() == (kind == "lora") != Path("fused").is_dir()
    image = image_of(code)
    (seed,) = re.findall(r"manual_seed\((\d+)\)", code)
    prompt = shlex.split(by_selma)[2]
    options: dict[str, Any] = {"base": config.base, "seed": int(seed), "steps": 3, "guidance": 3.0}
    (own,) = selma.generate(prompt, adapter=card.folder, **options)
    require_one_image(image, np.asarray(own).astype(int))
    (plain,) = selma.generate(prompt, **options)
    assert np.abs(image - np.asarray(plain)).max() > 3, "the adapter changes nothing"
    run_lines(f"{by_selma.strip()} --out selma.png")
    require_one_image(image, np.asarray(Image.open("selma.png")).astype(int))
    gallery = sorted(path for path in card.files if path.parent.name == "gallery")
    assert bool(gallery) == (base == "toybox" and kind != "coft")
    if gallery:
        url = re.findall(r"url: gallery/(.+\.png)", text)[0]
        first = Image.open(card.folder / "gallery" / url)
        require_one_image(image, np.asarray(first).astype(int))
        assert "The image is the first of the gallery." in text


ODD = ['it\'s "a" cat', "$(reboot) `ls` \\n", "a\n```\ncat", "--help", "кот 猫"]


@pytest.mark.parametrize("prompt", ODD)
def test_a_prompt_is_a_prompt_whatever_is_in_it(
    runs: Mapping[tuple[str, str], RunConfig], prompt: str
) -> None:
    config = runs["lora", "toybox"]
    merged = Merged.model_construct(folder=config.run_folder / "4-merged")
    lines = usage(config, merged, example=prompt, seed=1, repository=UNNAMED)
    assert repr(prompt) in lines.python and "```" not in lines.python.splitlines()
    assert " ".join(prompt.split()) in shlex.split(lines.generate)
    assert "\n" not in lines.generate


@pytest.mark.parametrize(
    ("base", "line", "words"),
    [
        (
            {"model": "sd-1.4"},
            "from_pretrained('CompVis/stable-diffusion-v1-4', dtype=torch.float32",
            ["--base", "CompVis/stable-diffusion-v1-4"],
        ),
        (
            {"model": "owner/name", "revision": "abc", "precision": "bf16"},
            "from_pretrained('owner/name', dtype=torch.bfloat16, revision='abc')",
            ["--base", "owner/name"],
        ),
        (
            {"model": "/x/some.safetensors", "config": "toybox"},
            f"from_single_file('{FILE}', config=base_folder(\"toybox\"), dtype=torch.float32",
            ["--base", FILE, "--base-config", "toybox"],
        ),
        (
            {"model": "toybox", "vae": "owner/vae"},
            "vae = diffusers.AutoencoderKL.from_pretrained('owner/vae', dtype=torch.float32)",
            ["--base", "toybox"],
        ),
    ],
)
def test_a_base_is_said_to_be_where_everybody_has_it(
    runs: Mapping[tuple[str, str], RunConfig],
    base: Any,
    line: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody waits for a Hub that is out of reach.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = runs["lora", "toybox"]
    merged = Merged.model_construct(folder=config.run_folder / "4-merged")
    given = RunConfig.model_validate(config.model_dump(mode="json") | {"base": base})
    lines = usage(given, merged, example="a cat", seed=1, repository="me/mine")
    assert line in lines.python and "load_lora_weights('me/mine'" in lines.python
    assert shlex.split(lines.generate)[3:5] == words[:2] and set(words) <= set(
        shlex.split(lines.generate)
    )
