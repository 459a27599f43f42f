"""The converter: exact, whole or not at all, and deaf to what a pickle wants to run."""

from __future__ import annotations

import json
import pickle
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from backbones import blip_twin
from backbones.preference_files import (
    bert_words,
    clip_folder,
    clip_shape,
    clip_words,
    hps_folder,
    open_clip_state,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from selma.backbones.preference import imagereward, open_clip
from selma.backbones.preference.checkpoints import Checkpoint, read_state
from selma.backbones.preference.converting import convert_weights
from selma.backbones.preference.scorers import Family, ScorerKind
from selma.errors import ConfigError, ModelError
from selma.registry import registered

UNUSED = ("blip.vision_proj.", "blip.text_proj.")


class Evil:
    """Leaves a file behind when a pickle of it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "was-here"
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # so that its absence below means something
    mark.unlink()
    torch.save({"state_dict": {"a": torch.zeros(1)}, "args": Evil(mark)}, tmp_path / "new.pt")
    torch.save({"a": Evil(mark)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(mark)))
    for name in ("new.pt", "old.pt", "plain.pt"):
        with pytest.raises(ModelError, match="run code are never opened"):
            convert_weights(tmp_path / name, tmp_path / "out", kind="hps_v2")
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"a\.(pt|safetensors)"):
            read_state(tmp_path / name)


@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}])
def test_what_is_no_mapping_of_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="map names to tensors"):
        read_state(tmp_path / "a.pt")


def test_every_number_arrives_in_its_own_type(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in open_clip_state().items()}
    torch.save({"state_dict": half}, tmp_path / "HPS.pt")
    save_file({n: t.contiguous() for n, t in half.items()}, tmp_path / "HPS.safetensors")
    (tmp_path / "shape.json").write_text(json.dumps(clip_shape()))
    words = str(clip_words(tmp_path / "words"))
    made = [
        convert_weights(
            tmp_path / name, tmp_path / name[-2:], kind="hps_v2", tokenizer=words,
            config=tmp_path / "shape.json",
        )
        for name in ("HPS.pt", "HPS.safetensors")
    ]  # fmt: skip
    first, second = (load_file(folder / "model.safetensors") for folder in made)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == torch.float16 and torch.equal(tensor, second[name])
    counts = [sum(t.numel() for t in state.values()) for state in (first, half)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("harm", ["missing", "extra", "shape", "foreign"])
def test_anything_that_does_not_fit_exactly_is_refused(tmp_path: Path, harm: str) -> None:
    state = open_clip_state()
    if harm == "missing":
        del state["visual.ln_post.bias"]
    elif harm == "extra":
        state["visual.transformer.resblocks.9.ln_1.weight"] = torch.zeros(32)
    elif harm == "shape":
        state["text_projection"] = torch.zeros(16, 25)
    else:
        state["bert.embeddings"] = torch.zeros(2)
    torch.save(state, tmp_path / "HPS.pt")
    (tmp_path / "shape.json").write_text(json.dumps(clip_shape()))
    with pytest.raises(ModelError, match=r"missing|must be|no tensor"):
        convert_weights(
            tmp_path / "HPS.pt", tmp_path / "out", kind="hps_v2",
            tokenizer=str(clip_words(tmp_path / "words")), config=tmp_path / "shape.json",
        )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["HPS.pt", "shape.json", "words"]


def test_the_released_shape_is_asked_for_where_none_is_given(tmp_path: Path) -> None:
    torch.save(open_clip_state(), tmp_path / "HPS.pt")
    with pytest.raises(ModelError, match="missing"):
        convert_weights(tmp_path / "HPS.pt", tmp_path / "out", kind="hps_v2.1")


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    hps_folder(tmp_path)
    with pytest.raises(ModelError, match="must not be there"):
        convert_weights(tmp_path / "HPS.pt", tmp_path / "hps", kind="hps_v2")
    with pytest.raises(ConfigError, match="kind must be one of"):
        convert_weights(tmp_path / "HPS.pt", tmp_path / "other", kind="hps")


def test_a_scorer_of_another_package_says_itself_how_it_is_converted(tmp_path: Path) -> None:
    torch.save(open_clip_state(), tmp_path / "glow.pt")
    plain = Family("Glow v7", "grey", "grey", None, load=lambda weights, words, device: None)
    rows = {
        "none": ScorerKind("none", lambda config: None),
        "plain": ScorerKind("plain", lambda config: None, family=plain),
        "hps_glow": ScorerKind(
            "hps_glow",
            lambda config: None,
            family=replace(plain, convert=lambda checkpoint, folder: write(checkpoint, folder)),
        ),
    }

    def write(checkpoint: Checkpoint, folder: Path) -> None:
        (folder / "names").write_text(" ".join([checkpoint.kind, *checkpoint.tensors]))

    with ExitStack() as stack:
        for row in rows.values():
            stack.enter_context(registered("selma.scorers", row))
        for kind in ("none", "plain"):
            with pytest.raises(ConfigError, match=f"clip, hps_glow, but '{kind}' came"):
                convert_weights(tmp_path / "glow.pt", tmp_path / kind, kind=kind)
            assert not (tmp_path / kind).exists()
        folder = convert_weights(tmp_path / "glow.pt", tmp_path / "out", kind="hps_glow")
    assert (folder / "names").read_text().split() == ["hps_glow", *open_clip_state()]


def test_transformers_own_pickle_becomes_safetensors(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    state = CLIPModel.from_pretrained(folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    made = convert_weights(folder / "pytorch_model.bin", tmp_path / "out", kind="clip")
    for name, tensor in CLIPModel.from_pretrained(made).state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_names_fit_the_released_shapes() -> None:
    """Every name that transformers has at the released sizes is reached, from as many tensors as
    the released networks have (their numbers of layers are known)."""
    with torch.device("meta"):
        wanted = CLIPModel(CLIPConfig(**open_clip.vit_h_14())).state_dict()
        blocks = [f"visual.transformer.resblocks.{i}" for i in range(32)]
        blocks += [f"transformer.resblocks.{i}" for i in range(24)]
        inner = {n.split(".", 2)[2] for n in open_clip_state() if n.startswith("transformer.")}
        outer = [n for n in open_clip_state() if "resblocks" not in n]
        names = [f"{b}.{i.split('.', 1)[1]}" for b in blocks for i in inner if i[0] == "0"]
        found = open_clip.to_transformers(dict.fromkeys([*names, *outer], torch.zeros(3, 3)))
    assert found.keys() == wanted.keys()
    assert sum(t.numel() for t in wanted.values()) == 986_109_441  # ViT-H-14's own count


def test_imagereward_leaves_no_tensor_behind() -> None:
    state = blip_twin.random_state()
    parts = imagereward.parts(state)
    unused = [n for n in state if n.endswith("position_ids") or n.startswith(UNUSED)]
    assert sum(map(len, parts.values())) == len(state) - len(unused) and len(unused) == 5
    with pytest.raises(ModelError, match="no tensor"):
        imagereward.parts({"mlp.layers.1.weight": torch.zeros(1)})


def test_imagereward_of_another_shape_is_refused(tmp_path: Path) -> None:
    torch.save(blip_twin.random_state(), tmp_path / "ImageReward.pt")
    with pytest.raises(ModelError, match=r"missing|must be"):
        convert_weights(
            tmp_path / "ImageReward.pt", tmp_path / "out", kind="imagereward",
            tokenizer=str(bert_words(tmp_path / "words")),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
