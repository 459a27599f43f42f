"""Preference scorers: tiny networks of the real architectures against independent restatements."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from backbones import blip_twin, open_clip_twin
from backbones.preference_files import (
    TEXTS,
    bert_words,
    clip_folder,
    hps_folder,
    imagereward_folder,
    images,
    open_clip_state,
)
from transformers import BertTokenizer, CLIPModel

from selma.backbones.preference.clip import text_cleaner
from selma.backbones.preference.imagereward import MEAN, STD
from selma.backbones.preference.preprocessing import (
    longest_side_and_pad,
    normalised,
    shortest_side_and_crop,
)
from selma.backbones.preference.scorers import SCORERS, NetworkScorer, load_preference
from selma.backbones.weights import Weights
from selma.config.scores import PreferenceConfig
from selma.errors import ModelError

KINDS = ("pickscore", "hps_v2", "hps_v2.1", "imagereward", "clip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("preference")
    for name in ("a", "b"):
        (root / name).mkdir()
    hps, clip = hps_folder(root / "a"), clip_folder(root / "clip")
    return {"pickscore": clip, "clip": clip, "hps_v2": hps, "hps_v2.1": hps,
            "imagereward": imagereward_folder(root / "b")}  # fmt: skip


def scorer(folders: dict[str, Path], kind: str, **how: object) -> NetworkScorer:
    return load_preference(
        PreferenceConfig(kind=kind, model=str(folders[kind]), device="cpu", **how)
    )


def test_open_clips_features_are_those_of_the_mapped_model(folders: dict[str, Path]) -> None:
    model, state = CLIPModel.from_pretrained(folders["hps_v2"]).eval(), open_clip_state()
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    ids = padded([tiny.tokenizer()(text).input_ids for text in TEXTS[:3]])
    with torch.inference_mode():
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        read = model.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(
            seen, open_clip_twin.image_features(state, pixels), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            read, open_clip_twin.text_features(state, ids), atol=1e-5, rtol=1e-5
        )
        assert seen.std() > 0.1 and read.std() > 0.1  # no accidental zeros


def padded(rows: list[list[int]]) -> torch.Tensor:
    """As open_clip pads: zeros after the end."""
    return torch.tensor([row + [0] * (24 - len(row)) for row in rows])


@pytest.mark.parametrize("antialias", [True, False])
def test_hps_is_a_hundred_times_open_clips_cosine(
    folders: dict[str, Path], antialias: bool
) -> None:
    found = scorer(folders, "hps_v2.1", antialias=antialias).score(images(3), TEXTS[:3])
    pixels = normalised([longest_side_and_pad(p, 28, antialias=antialias) for p in images(3)])
    ids = padded([tiny.tokenizer()(text).input_ids for text in TEXTS[:3]])
    seen = open_clip_twin.image_features(open_clip_state(), pixels)
    read = open_clip_twin.text_features(open_clip_state(), ids)
    expected = 100 * torch.nn.functional.cosine_similarity(seen, read)
    assert found == pytest.approx(expected.tolist(), abs=1e-3)


def test_pickscore_is_the_model_cards_formula(folders: dict[str, Path]) -> None:
    found = scorer(folders, "pickscore").score(images(3), TEXTS[:3])
    model = CLIPModel.from_pretrained(folders["pickscore"]).eval()
    tokens = tiny.tokenizer()(TEXTS[:3], padding=True, truncation=True, max_length=24,
                              return_tensors="pt")  # fmt: skip
    pixels = normalised([shortest_side_and_crop(p, 28, crop="floor") for p in images(3)])
    with torch.inference_mode():
        logits = model(**tokens, pixel_values=pixels).logits_per_image.diagonal()
    assert found == pytest.approx(logits.tolist(), abs=1e-3)
    cosines = scorer(folders, "clip").score(images(3), TEXTS[:3])
    scale = model.logit_scale.exp().item() / 100
    assert found == pytest.approx([scale * c for c in cosines], abs=1e-3)


def test_imagereward_is_blips_reward_normalised(folders: dict[str, Path], tmp_path: Path) -> None:
    found = scorer(folders, "imagereward").score(images(), TEXTS)
    words = BertTokenizer.from_pretrained(bert_words(tmp_path))
    tokens = words(TEXTS, padding="max_length", truncation=True, max_length=35,
                   return_tensors="pt")  # fmt: skip
    assert tokens.attention_mask.sum(dim=1).tolist()[-1] == 35  # the last text is cut
    pixels = normalised([shortest_side_and_crop(p, 32, crop="round") for p in images()])
    raw = blip_twin.reward(
        blip_twin.random_state(), pixels, tokens.input_ids, tokens.attention_mask
    )
    assert found == pytest.approx(((raw - MEAN) / STD).tolist(), abs=1e-3)
    assert raw.std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batch_nor_order_nor_neighbours_change_a_score(
    folders: dict[str, Path], kind: str
) -> None:
    seen, read = images(6), [*TEXTS, "hill", "a cat"]
    whole = scorer(folders, kind).score(seen, read)
    assert len(set(whole)) == 6
    weights = Weights(str(folders[kind]))
    for size in (2, 4, 64):
        batched = NetworkScorer(SCORERS[kind].family, weights, device="cpu", batch_size=size)
        assert batched.score(seen, read) == whole
    one = scorer(folders, kind)
    assert one.score(seen[::-1], read[::-1]) == whole[::-1]
    assert [one.score([p], [t])[0] for p, t in zip(seen, read, strict=True)] == whole
    assert one.score([], []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_scorer_says_what_its_numbers_are(folders: dict[str, Path], kind: str) -> None:
    found = scorer(folders, kind)
    assert found.name and found.scale and "float32" in found.preprocessing
    assert found.weights == folders[kind].name  # no path of this machine
    assert ("v2.0" in found.name, "v2.1" in found.name) == (kind == "hps_v2", kind == "hps_v2.1")


def test_the_fingerprint_follows_all_that_a_score_hangs_on(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    marks = {kind: scorer(folders, kind).fingerprint for kind in KINDS}
    marks["old resizing"] = scorer(folders, "hps_v2", antialias=False).fingerprint
    marks["other tokenizer"] = scorer(
        folders, "clip", tokenizer=str(bert_words(tmp_path / "words"))
    ).fingerprint
    changed = shutil.copytree(folders["clip"], tmp_path / "changed")
    copied = PreferenceConfig(kind="clip", model=str(changed))
    assert load_preference(copied).fingerprint == marks["clip"]
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    marks["one bit"] = load_preference(copied).fingerprint
    assert len(set(marks.values())) == len(marks)


def test_clip_score_takes_mean_and_deviation_from_the_folder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    settings = folder / "preprocessor_config.json"
    plain = scorer(folders, "clip").score(images(2), TEXTS[:2])
    settings.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    other = scorer({"clip": folder}, "clip").score(images(2), TEXTS[:2])
    assert other != plain
    settings.write_text(json.dumps({"image_mean": [0.5] * 3}))
    with pytest.raises(ModelError, match="image_mean and image_std"):
        scorer({"clip": folder}, "clip").score(images(1), TEXTS[:1])


def test_texts_are_cleaned_as_open_clip_cleans_them() -> None:
    clean = text_cleaner()
    assert clean("  The “Dog’s”\n Ball &amp;amp; Bone ") == 'the "dog\'s" ball & bone'


def test_what_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(folder: Path, kind: str, match: str, **how: str) -> None:
        with pytest.raises(ModelError, match=match):
            scorer({kind: folder}, kind, **how).score(images(1), TEXTS[:1])

    refused(folders["imagereward"], "pickscore", "cannot be loaded")
    refused(folders["clip"], "imagereward", "cannot be loaded|tokenizer")
    refused(tmp_path / "none", "clip", "neither")
    words = bert_words(tmp_path / "bert")
    refused(folders["clip"], "clip", "tokenizer", tokenizer=str(words))
    (tmp_path / "pickle").mkdir()
    for file in folders["clip"].glob("*.json"):
        shutil.copy(file, tmp_path / "pickle")
    torch.save(CLIPModel.from_pretrained(folders["clip"]).state_dict(),
               tmp_path / "pickle" / "pytorch_model.bin")  # fmt: skip
    refused(tmp_path / "pickle", "clip", "selma score convert")


def test_a_tensor_that_is_missing_is_never_made_up(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 is missing.*visual_projection"):
        scorer({"clip": folder}, "clip").score(images(1), TEXTS[:1])


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_id_is_scored_from_the_cache_when_offline(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Files of a Hub repository as its client keeps them, without a net."""
    repository = tmp_path / "hub" / "models--some--clip"
    shutil.copytree(folders["clip"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    absent = repository / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "preprocessor_config.json").touch()
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from backbones.preference_files import TEXTS, images\n"
        "from selma.backbones.preference.scorers import load_preference\n"
        "from selma.config.scores import PreferenceConfig\n"
        "found = load_preference(PreferenceConfig(kind='clip', model='some/clip', device='cpu'))\n"
        "print(json.dumps([found.weights, found._files.fingerprint, "
        "found.score(images(2), TEXTS[:2])]))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1])]
    kept = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=300)
    assert done.returncode == 0, done.stderr
    scores = scorer(folders, "clip").score(images(2), TEXTS[:2])
    assert json.loads(done.stdout.splitlines()[-1]) == ["some/clip", COMMIT, scores]
    # What the cache does not know is no "there is none".
    (absent / "preprocessor_config.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=300)
    assert done.returncode != 0 and "cannot be had from the Hub" in done.stderr
