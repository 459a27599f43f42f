"""`selma.generate`: what is wrong fails at the call, text is a path, and seeds have a range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapters.test_sur_rewriting import adapter_file
from original_layout import write_single_file
from safetensors.torch import save_file
from typer.testing import CliRunner

import selma
from selma import cli
from selma.adapters.applying import chosen
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config import RunConfig
from selma.config.networks import base_of
from selma.config.section import Section
from selma.errors import AdapterError, ConfigError, ModelError, SelmaError
from selma.images.plain_diffusers import in_diffusers
from selma.merged.methods import METHODS
from selma.randomness import SEEDS, following, generator, require_seed, rng


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny SD 1 that changes something."""
    return tiny.lora(tmp_path_factory.mktemp("adapter"))


def images(**how: Any) -> list[bytes]:
    options: dict[str, Any] = {"base": tiny.base("sd1"), "steps": 1, "guidance": 1.0}
    return [image.tobytes() for image in selma.generate("a cat", **(options | how))]


def command(*words: object) -> tuple[int, str]:
    """Exit code and what is said, on one line."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if isinstance(result.exception, SelmaError):
        return result.exception.exit_code, str(result.exception)
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def test_a_base_and_adapters_are_named_in_every_way(adapter: Path) -> None:
    plain, adapted = images(), images(adapter=adapter)
    assert plain != adapted
    folder = tiny.folder("sd1")
    for base in (folder, str(folder), base_of(folder)):
        assert images(base=base) == plain
    file = adapter / ADAPTER_FILE
    for way in (str(adapter), file, str(file), [adapter], (str(file),), chosen(adapter),
                chosen([str(file)])[0]):  # fmt: skip
        assert images(adapter=way) == adapted
    assert images(adapter=chosen(adapter, [0.0])) == plain


def test_lines_for_plain_diffusers_are_of_the_same_model_or_none(
    adapter: Path, tmp_path: Path
) -> None:
    sur = adapter_file(tmp_path / "sur", tiny.load("sd1"))
    words = ("generate", "a cat", "--base", tiny.folder("sd1"), "--steps", 1)
    words += ("--out", tmp_path / "image.png", "--adapter", adapter)
    code, said = command(*words)
    assert code == 0 and "The same in plain diffusers:" in said and "pipe(" in said
    code, said = command(*words, "--sur", sur)
    assert code == 0 and "pipe" not in said
    assert "Plain diffusers cannot generate the same image" in said
    assert f"no loader that reads {sur} (sur) right: generate with selma." in said
    with pytest.raises(AdapterError, match="no loader"):
        in_diffusers("a cat", base=tiny.base("sd1"), adapters=chosen([sur]), seed=0)


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.safetensors"
    if kind == "cut":
        save_file({"unet.x.lora_A.weight": torch.zeros(2, 2)}, path)
        path.write_bytes(path.read_bytes()[:-3])
    elif kind == "text":
        path.write_text("no adapter")
    elif kind == "stranger":
        save_file({"a.b.c": torch.zeros(2, 2)}, path)
    elif kind == "other":  # of another model
        key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        save_file({f"{key}.lora_A.weight": torch.zeros(2, 999),
                   f"{key}.lora_B.weight": torch.zeros(999, 2)}, path)  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["missing", "cut", "text", "stranger", "other"])
def test_a_bad_adapter_fails_at_the_call(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    for adapters in (path, str(path), [path]):
        with pytest.raises(AdapterError):
            selma.generate("a cat", adapter=adapters, base=tiny.base("sd1"))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"seed": -1}, ConfigError, "0 to 2^64 - 1, but -1 came"),
        ({"seed": 2**64}, ConfigError, "but 18446744073709551616 came"),
        ({"seed": 1.5}, ConfigError, "but 1.5 came"),
        ({"seed": True}, ConfigError, "but True came"),
        ({"steps": 0}, ConfigError, "steps must be 1 or more, but 0 came"),
        ({"count": 0}, ConfigError, "count must be 1 or more, but 0 came"),
        ({"guidance": -1}, ConfigError, "guidance must be 0 or more, but -1 came"),
        ({"guidance": float("nan")}, ConfigError, "but nan came"),
        ({"steps": 2.5}, ConfigError, "steps must be a whole number, but 2.5 came"),
        ({"steps": "5"}, ConfigError, "steps must be a whole number, but '5' came"),
        ({"steps": True}, ConfigError, "steps must be a whole number, but True came"),
        ({"count": None}, ConfigError, "count must be a whole number, but None came"),
        ({"guidance": "3"}, ConfigError, "guidance must be a number, but '3' came"),
        ({"guidance": False}, ConfigError, "guidance must be a number, but False came"),
        ({"adapter": None}, ConfigError, "None came. Leave it out for none"),
        ({"adapter": ("x", 0.5)}, ConfigError, "0.5 came. Leave it out for none; a strength goes"),
        ({"adapter": [["x"]]}, ConfigError, "but ['x'] came"),
        ({"adapter": 7}, ConfigError, "but 7 came"),
        ({"base": None}, ConfigError, "A path must be text or a Path, but None came"),
        ({"text": None}, ConfigError, "One text must come, but None did"),
        ({"text": ["a cat", "b"]}, ConfigError, "but ['a cat', 'b'] did. Call generate once for"),
        ({"text": b"a cat"}, ConfigError, "One text must come, but b'a cat' did"),
        ({"base": "x/y/z"}, ModelError, "a diffusers folder"),
        ({"base": "x.safetensors"}, ConfigError, "its config is missing (--base-config)"),
        ({"base": "x.ckpt"}, ConfigError, "weights must be .safetensors"),
    ],
)
def test_what_is_wrong_fails_at_the_call(how: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refusal:
        selma.generate(**({"text": "a cat", "base": tiny.base("sd1")} | how))
    assert message in str(refusal.value)


def test_an_image_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from selma.backbones.text_to_image import TextToImage

    def never(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("made too early")
        yield

    monkeypatch.setattr(TextToImage, "generate", never)
    series = selma.generate("a cat", base=tiny.base("sd1"))
    with pytest.raises(AssertionError, match="made too early"):
        next(series)


def test_seeds_go_on_modulo_their_number() -> None:
    last = SEEDS - 1
    assert following(last, 3) == [last, 0, 1] and following(5, 2) == [5, 6]
    first, second = images(seed=last, count=2)
    assert [first] == images(seed=last) and [second] == images(seed=0)
    assert images(seed=2**63 - 1, count=2) == images(seed=2**63 - 1) + images(seed=2**63)


EDGES = [0, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("seed", EDGES)
def test_every_seed_of_the_range_works_everywhere(seed: int, tmp_path: Path) -> None:
    assert require_seed(seed) == seed
    assert 0 <= rng(seed, "x").random() < 1 and generator(seed, "x").initial_seed() >= 0
    assert RunConfig(name="x", seed=seed).seed == seed
    path = tmp_path / "image.png"
    code, said = command("generate", "a cat", "--base", tiny.folder("sd1"), "--steps", 1,
                         "--seed", seed, "-n", 2, "--out", path)  # fmt: skip
    assert code == 0, said
    assert f"manual_seed({seed})" in said and path.with_stem("image-2").is_file()


def sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for inner in section.__subclasses__():
        yield from sections(inner)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**20])
def test_every_other_seed_is_refused_with_a_sentence(seed: int, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"seed: {seed}\nprompts: {{skills: [toybox_coco]}}\n")
    with pytest.raises(ConfigError, match=r"seed: Input should be (less|greater) than"):
        selma.load_config(str(tmp_path / "x.yaml"))
    commands = {
        "generate": ("a cat",),
        "study serve": ("run",),
        "oft angles": ("toybox",),
        "questions": ("prompts.txt", "--out", "q.csv"),
    }
    for name, words in commands.items():
        code, said = command(*name.split(), *words, "--seed", seed)
        assert code == 2 and f"equal to {0 if seed < 0 else SEEDS - 1}" in said, (name, said)
    code, said = command("merge", "a.safetensors", "b.safetensors", "--method", "dare",
                         "--seed", seed, "--out", "c.safetensors")  # fmt: skip
    assert code == 2 and "seed" in said, said
    settings = {*sections(Section), *(row.settings for row in METHODS.values())}
    seeded = [section for section in settings if "seed" in section.model_fields]
    assert len(seeded) > 4
    for section in seeded:
        with pytest.raises(ValueError, match="seed"):
            section.model_validate({"seed": seed, "name": "x"})


# A single file as base, in commands as in a config.


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(
        tiny.folder("sd1"), tmp_path_factory.mktemp("single") / "tiny.safetensors"
    )


def test_a_single_file_generates_what_its_folder_does(single: Path, tmp_path: Path) -> None:
    folder = tiny.folder("sd1")
    written = []
    for number, words in enumerate(([folder], [single, "--base-config", folder])):
        path = tmp_path / f"{number}.png"
        code, said = command("generate", "a cat", "--steps", 1, "--out", path, "--base", *words)
        assert code == 0, said
        written.append(path.read_bytes())
    assert written[0] == written[1]
    (image,) = images(base=base_of(single, config=folder))
    assert [image] == images(base=folder)
    assert command("bases", single, "--base-config", folder) == command("bases", folder)


@pytest.mark.parametrize(
    ("base", "config", "code", "message"),
    [
        ("{single}", None, 2, "its config is missing (--base-config)"),
        ("{lora}", None, 2, "its config is missing (--base-config)"),
        ("{lora}", "{folder}", 3, "An adapter or a part of a model is no base."),
        ("{upper}", "{folder}", 2, "rename"),
        ("{text}", "{folder}", 3, "must be a whole safetensors file"),
        ("gone.safetensors", "{folder}", 3, "must be a file of weights, but gone.safetensors is"),
        ("model.ckpt", None, 2, "weights must be .safetensors, but model.ckpt is another format"),
        ("model.ckpt", "{folder}", 2, "weights must be .safetensors"),
        ("model.gguf", None, 2, "weights must be .safetensors"),
        ("{folder}", "{folder}", 2, "config belongs to a single file of weights"),
        ("toybox", "toybox", 2, "config belongs to a single file of weights"),
        ("{single}", "gone", 3, "'gone' is none of them"),
    ],
)
def test_a_file_that_is_no_base_is_told_in_a_sentence(
    single: Path, adapter: Path, tmp_path: Path,
    base: str, config: str | None, code: int, message: str,
) -> None:  # fmt: skip
    (tmp_path / "text.safetensors").write_text("no weights")
    upper = tmp_path / "TINY.SAFETENSORS"
    upper.write_bytes(single.read_bytes())
    paths = {
        "single": single, "lora": adapter / ADAPTER_FILE, "folder": tiny.folder("sd1"),
        "text": tmp_path / "text.safetensors", "upper": upper,
    }  # fmt: skip
    words: list[object] = [base.format(**paths)]
    words += [] if config is None else ["--base-config", config.format(**paths)]
    out = tmp_path / "image.png"
    for came, said in (
        command("generate", "a cat", "--out", out, "--base", *words),
        command("bases", *words),
    ):
        assert came == code and message in said, said
    text = (
        f"base: {{model: '{words[0]}', config: '{words[-1]}'}}\n"
        if config
        else (f"base: {{model: '{words[0]}'}}\n")
    )
    (tmp_path / "x.yaml").write_text(text + "prompts: {skills: [toybox_coco]}\n")
    came, said = command("check", tmp_path / "x.yaml")
    assert came == 2 and "base" in said, said
    assert not out.exists()


def test_mistakes_in_a_command_are_found_before_the_model_is_loaded(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("loaded for nothing")

    monkeypatch.setattr("selma.images.on_demand.load_any_text_to_image", never)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for words, code, message in (
        (("--out", tmp_path / "file" / "image.png"), 2, "must lie in a folder, but"),
        (("--out", tmp_path / "folder.png"), 2, "is a folder"),
        (("--out", tmp_path / "image.jpg"), 2, "saved as .png"),
        (("--adapter", tmp_path / "gone.safetensors"), 3, "there is none"),
        (("--adapter", adapter, "--strength", 1, "--strength", 2), 2, "1 adapter and 2 strengths"),
        (("--strength", 1), 2, "0 adapters and 1 strength came"),
        (("--sur", adapter), 3, "is lora: give it as --adapter."),
        (("--sur", tmp_path / "gone.safetensors"), 3, "there is none"),
        (("--sur", tmp_path / "file"), 3, "must be a .safetensors file, but"),
        (("--base", "x/y/z", "--seed", "a"), 2, "valid integer"),
    ):
        came, said = command("generate", "a cat", *words)
        assert came == code and message in said, (words, said)
