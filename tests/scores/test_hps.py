"""HPS's benchmark: its layout, its mean over all images, and what is missing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from backbones.preference_files import hps_folder
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from selma import row_files
from selma.applications.hps.table import print_hps
from selma.backbones.preference.scorers import SCORERS, NetworkScorer, load_preference
from selma.backbones.weights import Weights
from selma.cli import app
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError, DataError, ModelError
from selma.scores.hps import (
    STYLES,
    given_images,
    hps_item,
    read_hps,
    read_hps_prompts,
    run_results,
    score_hps,
    version_kind,
)
from selma.workspace import Item, Workspace


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hps_folder(tmp_path_factory.mktemp("hps"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for style in STYLES:
        texts = [f"{style} of hill {i}" for i in range(6)]
        (folder / f"{style}.json").write_text(json.dumps(texts))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six anime, four photos with one PNG among them, two paintings, no concept art."""
    for style, numbers in {"anime": range(6), "photo": (0, 2, 3, 5), "paintings": (1, 4)}.items():
        folder = tmp_path / "images" / style
        folder.mkdir(parents=True)
        for i in numbers:
            pixels = np.random.default_rng(i).integers(0, 256, (40, 32 + i, 3), dtype=np.uint8)
            suffix = "png" if (style, i) == ("photo", 5) else "jpg"
            Image.fromarray(pixels).save(folder / f"{i:05d}.{suffix}")
    (tmp_path / "images" / "anime" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def scorer(weights: Path) -> NetworkScorer:
    return load_preference(PreferenceConfig(kind="hps_v2.1", model=str(weights), device="cpu"))


def test_the_mean_is_over_all_images_and_each_has_its_own_prompt(
    images: Path, prompts: Path, weights: Path
) -> None:
    found = score_hps(images, read_hps_prompts(prompts), scorer(weights), resamples=200)
    assert (found["images"], found["missing"], found["complete"]) == (12, 12, False)
    counts = {style: (row["images"], row["missing"]) for style, row in found["styles"].items()}
    assert counts == {"anime": (6, 0), "concept-art": (0, 6), "paintings": (2, 4), "photo": (4, 2)}
    alone = scorer(weights)
    every = []
    for style, number, suffix in (
        ("anime", 3, "jpg"),
        ("photo", 5, "png"),
        ("paintings", 4, "jpg"),
    ):
        image = Image.open(images / style / f"{number:05d}.{suffix}").convert("RGB")
        expected = alone.score([image], [f"{style} of hill {number}"])[0]
        assert found["per_image"][style][f"{number:05d}"] == expected
    for style, row in found["per_image"].items():
        every += row.values()
        if row:
            mean = float(np.mean(list(row.values())))
            assert found["styles"][style]["score"] == pytest.approx(mean, abs=1e-5)
    assert found["score"] == pytest.approx(float(np.mean(every)), abs=1e-5)
    assert found["interval"][0] < found["score"] < found["interval"][1]
    assert found["styles"]["concept-art"]["score"] is None
    assert found["scorer"]["name"] == "HPS v2.1" and found["scorer"]["weights"] == "hps"


def test_the_table_names_styles_scale_and_what_is_missing(
    images: Path, prompts: Path, weights: Path
) -> None:
    out = io.StringIO()
    found = score_hps(images, read_hps_prompts(prompts), scorer(weights), resamples=200)
    print_hps(found, Console(file=out, width=120))
    for words in (*STYLES, "all images", "HPS v2.1", "100 x cosine", "not comparable"):
        assert words in out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("anime/00006.jpg", None, "belongs to no prompt"),
        ("anime/first.jpg", None, "belongs to no prompt"),
        ("anime/0001.jpg", None, r"did you mean .00001.\?"),
        ("anime/00001.png", None, "of one prompt"),
        ("photo/00004.jpg", b"no image", r"00004\.jpg"),
    ],
)
def test_an_image_that_does_not_belong_is_named(
    images: Path, prompts: Path, weights: Path, name: str, content: bytes | None, match: str
) -> None:
    if content is None:
        Image.new("RGB", (30, 30)).save(images / name)
    else:
        (images / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        score_hps(images, read_hps_prompts(prompts), scorer(weights), resamples=200)


def test_no_images_and_no_prompts_are_refused(tmp_path: Path, prompts: Path, weights: Path) -> None:
    with pytest.raises(DataError, match="has none"):
        score_hps(tmp_path / "nowhere", read_hps_prompts(prompts), scorer(weights))
    for text in ("[]", "{}", "[1]", "no JSON"):
        (prompts / "photo.json").write_text(text)
        with pytest.raises(DataError, match=r"photo\.json"):
            read_hps_prompts(prompts)


def test_versions() -> None:
    assert [version_kind(v) for v in ("2.0", "v2.0", "2.1", "v2.1")] == (
        ["hps_v2"] * 2 + ["hps_v2.1"] * 2
    )
    with pytest.raises(ConfigError, match=r"2\.0 or 2\.1"):
        version_kind("3")
    both = [NetworkScorer(SCORERS[k].family, Weights("a/b")).name for k in ("hps_v2", "hps_v2.1")]
    assert both == ["HPS v2.0", "HPS v2.1"]


def command(*arguments: str | Path) -> Result:
    # In this process: each start of the real command would import torch anew.
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_the_commands_convert_and_score(
    tmp_path: Path, images: Path, prompts: Path, weights: Path
) -> None:
    source = weights.parent
    made = command(
        "convert", source / "HPS.pt", tmp_path / "made", "--kind", "hps_v2.1",
        "--tokenizer", source / "words", "--config", source / "shape.json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    given = ("hps", images, "--prompts", prompts, "--model")
    done = command(*given, tmp_path / "made", "--device", "cpu", "--json", tmp_path / "hps.json")
    assert done.exit_code == 0, done.output
    assert "HPS v2.1" in done.stdout
    found = json.loads((tmp_path / "hps.json").read_text())
    assert found["score"] == score_hps(images, read_hps_prompts(prompts), scorer(weights))["score"]
    wrong = command(*given, "a b").exception
    assert isinstance(wrong, ModelError) and "folder or a Hub id" in str(wrong)
    wrong = command(*given, "a/b", "--device", "x").exception
    assert isinstance(wrong, ConfigError) and "device" in str(wrong)


class Stopping:
    """A scorer that knows each image by its width, counts, and may be stopped at a call."""

    name, scale, preprocessing, weights, fingerprint = "HPS v2.1", "s", "x", "some/weights", "one"

    def __init__(self, *, at: int | None = None, plus: float = 0.0) -> None:
        self.calls, self.seen, self.at, self.plus = 0, 0, at, plus

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        self.seen += len(images)
        return [
            image.width + len(text) / 10 + self.plus
            for image, text in zip(images, texts, strict=True)
        ]


@pytest.fixture
def item_of(images: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Scores the images for a model of a run, five at a time."""
    monkeypatch.setattr(row_files, "CHUNK", 5)

    def made(run: Path, scorer: Stopping, *, model: str = "merged", key: str = "k") -> Item:
        texts = read_hps_prompts(prompts)
        return hps_item(given_images(images, texts), texts, scorer, Workspace(run),
                        model=model, key=key, generated="given")  # fmt: skip

    return made


def test_a_stopped_scoring_goes_on_and_ends_as_if_never_stopped(
    tmp_path: Path, images: Path, prompts: Path, item_of
) -> None:
    whole = item_of(tmp_path / "whole", Stopping())
    with pytest.raises(KeyboardInterrupt):
        item_of(tmp_path / "run", Stopping(at=1))
    again = Stopping()
    item = item_of(tmp_path / "run", again)
    assert again.seen == 12 - 5 and item.key == whole.key
    assert read_hps(item) == read_hps(whole)
    for name in ("scores.jsonl", "hps.json", "manifest.json"):
        assert (item.path / name).read_bytes() == (whole.path / name).read_bytes()
    plain = score_hps(images, read_hps_prompts(prompts), Stopping())
    assert read_hps(item) == plain | {"model": "merged", "generated": "given"}
    third = Stopping()
    item_of(tmp_path / "run", third)
    assert third.seen == 0


def test_what_matters_scores_anew_and_what_does_not_does_not(
    tmp_path: Path, images: Path, prompts: Path, item_of
) -> None:
    keys = [item_of(tmp_path, Stopping()).key]
    other = Stopping()
    other.fingerprint = "two"
    keys.append(item_of(tmp_path, other).key)
    keys.append(item_of(tmp_path, Stopping(), key="another").key)
    Image.new("RGB", (31, 30)).save(images / "photo" / "00000.jpg")
    keys.append(item_of(tmp_path, Stopping()).key)
    (prompts / "anime.json").write_text(json.dumps(["else"] * 6))
    keys.append(item_of(tmp_path, Stopping()).key)
    assert len(set(keys)) == len(keys)
    (images / "anime" / "notes.txt").write_text("other words")
    same = Stopping()
    assert item_of(tmp_path, same).key == keys[-1] and same.seen == 0


def test_a_run_shows_what_is_still_of_its_models(tmp_path: Path, item_of) -> None:
    folder, keys = Workspace(tmp_path), {"base": "b", "merged": "m"}
    assert run_results(folder, keys) == {}
    item_of(tmp_path, Stopping(plus=2.5), key="m")
    assert "minus_base" not in run_results(folder, keys)["merged"]
    item_of(tmp_path, Stopping(), model="base", key="b")
    found = run_results(folder, keys)
    gain = found["merged"]["minus_base"]
    assert gain["concept-art"] is None
    for name, count in (("anime", 6), ("photo", 4), ("all", 12)):
        assert gain[name] == {
            "mean": 2.5,
            "low": 2.5,
            "high": 2.5,
            "n": count,
            "standard_error": 0.0,
        }
    assert "minus_base" not in found["base"]
    assert set(run_results(folder, {"base": "b", "merged": "newer"})) == {"base"}
    changed = Stopping()
    changed.fingerprint = "two"
    item_of(tmp_path, changed, key="m")
    assert "minus_base" not in run_results(folder, keys)["merged"]
    (tmp_path / "5-scores" / "hps" / "base" / "hps.json").unlink()
    assert set(run_results(folder, keys)) == {"merged"}


def test_the_command_wants_images_or_a_run(prompts: Path, weights: Path) -> None:
    wrong = command("hps", "--prompts", prompts, "--model", weights).exception
    assert isinstance(wrong, ConfigError) and "--run" in str(wrong)
