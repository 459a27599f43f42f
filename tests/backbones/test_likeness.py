"""Networks that pictures are compared by: plain transformers, and LPIPS's definition."""

import json

import numpy as np
import pytest
import torch
from backbones import preference_files
from PIL import Image
from torch import nn
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTImageProcessorPil, ViTModel

from selma.backbones.perception import lpips
from selma.backbones.perception.likeness import ClipFeatures, ToyboxEncoders, VitFeatures, load_dino
from selma.config.networks import FeatureNetwork
from selma.errors import ModelError

IMAGES = preference_files.images()


def vit_folder(folder, kind="vit"):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "image_size": 32, "patch_size": 8}  # fmt: skip
    if kind == "vit":
        network = ViTModel(ViTConfig(**shape), add_pooling_layer=False)
    else:
        network = Dinov2Model(Dinov2Config(**shape))
    network.save_pretrained(folder)
    return network.eval()


def test_dino_is_the_first_token_of_the_image_as_its_processor_fits_it(tmp_path):
    network = vit_folder(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        pixels = processor(IMAGES, return_tensors="pt")["pixel_values"]
        wanted = network(pixels).last_hidden_state[:, 0]
    found = VitFeatures(
        FeatureNetwork(model=str(tmp_path), device="cpu"), setting="scores.features"
    )
    seen = found.of_images(IMAGES)
    torch.testing.assert_close(seen, nn.functional.normalize(wanted), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.of_images(IMAGES[1:2]), seen[1:2])  # neighbours change nothing
    assert found.name == f"DINO ({tmp_path.name})" and found.label == "DINO"


def test_dino_v2_and_a_shortest_edge(tmp_path):
    vit_folder(tmp_path, "dinov2")
    said = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    config = FeatureNetwork(model=str(tmp_path), device="cpu")
    wide = Image.new("RGB", (80, 40), "black")
    wide.paste((255, 255, 255), (24, 4, 56, 36))  # just what is cut out
    white = Image.new("RGB", (40, 40), "white")
    seen = VitFeatures(config, setting="scores.features").of_images([wide, white])
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": "x"}}')
    with pytest.raises(ModelError, match="how images are fitted"):
        VitFeatures(config, setting="scores.features").of_images([white])


def test_another_architecture_is_no_dino(tmp_path):
    folder = preference_files.clip_folder(tmp_path)
    with pytest.raises(ModelError, match="vit or dinov2, but is a clip"):
        VitFeatures(
            FeatureNetwork(model=str(folder), device="cpu"), setting="scores.features"
        ).of_images(IMAGES)


def test_clip_gives_both_sides_of_its_score(tmp_path):
    from selma.backbones.preference.scorers import load_preference, settings_of

    folder = preference_files.clip_folder(tmp_path)
    network = ClipFeatures(
        FeatureNetwork(model=str(folder), device="cpu"), setting="scores.features"
    )
    texts = preference_files.TEXTS
    cosines = (network.of_images(IMAGES) * network.of_texts(texts)).sum(dim=1)
    scorer = load_preference(settings_of(kind="clip", model=str(folder), device="cpu"))
    wanted = torch.tensor(scorer.score(IMAGES, texts)) / 100
    torch.testing.assert_close(cosines, wanted, rtol=1e-4, atol=1e-5)


def test_toyboxs_encoders_tell_a_subject_from_its_plain_kind():
    """What the measure is for; means over cells fail this (docs/log.md)."""
    from selma.toybox.drawing import _SHAPES
    from selma.toybox.subjects import SUBJECTS, ToyboxSubject, images

    network, wins = ToyboxEncoders(), []
    for subject in SUBJECTS:
        plain = ToyboxSubject(subject.name, subject.kind, subject.rgb, _SHAPES[subject.kind])
        mine, other = (
            network.of_images([Image.fromarray(p) for p in images(one)]) for one in (subject, plain)
        )
        for i in range(len(mine)):
            rest = [j for j in range(len(mine)) if j != i]
            wins.append(bool((mine[i] @ mine[rest].mT).mean() > (other[i] @ mine[rest].mT).mean()))
    assert np.mean(wins) > 0.7
    assert isinstance(load_dino(FeatureNetwork(), setting="scores.features"), ToyboxEncoders)


class Twin(nn.Module):
    """LPIPS with AlexNet or VGG-16, as its paper and torchvision have them, of nn modules alone."""

    def __init__(self, which, w=6):
        super().__init__()

        def conv(side, stride=1, first=w):
            return nn.Conv2d(first, w, side, stride, padding=2 if side > 3 else 1)

        layers = []
        if which == "alex":
            self.read = (1, 4, 7, 9, 11)
            for made in (conv(11, 4, first=3), "M", conv(5), "M", conv(3), conv(3), conv(3)):
                layers += [nn.MaxPool2d(3, 2)] if made == "M" else [made, nn.ReLU()]
        else:
            self.read = (3, 8, 15, 22, 29)
            for made in "ccMccMcccMcccMccc":
                first = w if layers else 3
                more = [conv(3, first=first), nn.ReLU()]
                layers += [nn.MaxPool2d(2, 2)] if made == "M" else more
        self.features = nn.Sequential(*layers)
        self.heads = [torch.rand(1, w, 1, 1) for _ in range(5)]

    def forward(self, a, b):
        total = 0.0
        for first, second, head in zip(self.maps(a), self.maps(b), self.heads, strict=True):
            difference = (first - second).square()
            total = total + nn.functional.conv2d(difference, head).mean()
        return total

    def maps(self, x):
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (lpips.SHIFT, lpips.SCALE))
        x = (x - shift) / scale
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.read:
                yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def lpips_sources(folder, which):
    """A pickle of torchvision's names and one of the package's heads."""
    torch.manual_seed(1)
    twin = Twin(which)
    state = {f"features.{name}": t for name, t in twin.features.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.ones(2, 2)}, folder / "backbone.pth")
    heads = {f"lin{n}.model.1.weight": head for n, head in enumerate(twin.heads)}
    torch.save(heads, folder / "heads.pth")
    return twin, folder / "backbone.pth", folder / "heads.pth"


@pytest.mark.parametrize("which", ["alex", "vgg"])
def test_lpips_is_its_definition(tmp_path, which):
    twin, backbone, heads = lpips_sources(tmp_path, which)
    folder = lpips.convert_lpips(backbone, heads, tmp_path / "out")
    network = lpips.Lpips(
        FeatureNetwork(model=str(folder), device="cpu"), setting="scores.features"
    )
    some = [image.resize((64, 64)) for image in IMAGES[:3]]
    rows = network.of_images(some)
    found = lpips.distances(rows, rows)
    pixels = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 127.5 - 1 for p in some]
    with torch.no_grad():
        wanted = torch.tensor([[float(twin(a, b)) for b in pixels] for a in pixels])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.diagonal().abs().max() == 0 and found.mT.equal(found)


def test_lpips_is_refused_where_it_is_not_whole(tmp_path):
    _, backbone, heads = lpips_sources(tmp_path, "alex")
    state = torch.load(heads, weights_only=True)
    torch.save({**state, "lin2.model.1.weight": -torch.ones(1, 6, 1, 1)}, tmp_path / "below.pth")
    with pytest.raises(ModelError, match="none below 0"):
        lpips.convert_lpips(backbone, tmp_path / "below.pth", tmp_path / "out")
    state.pop("lin4.model.1.weight")
    torch.save(state, tmp_path / "four.pth")
    with pytest.raises(ModelError, match=r"lin4\.model\.1\.weight is missing"):
        lpips.convert_lpips(backbone, tmp_path / "four.pth", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="selma subjects lpips"):
        lpips.Lpips(
            FeatureNetwork(model=str(tmp_path / "empty")), setting="scores.features"
        ).of_images(IMAGES[:1])


def test_toyboxs_formula_is_zero_only_for_the_same_image():
    network = lpips.load_perception(FeatureNetwork(), setting="scores.features")
    rows = network.of_images([p.resize((64, 64)) for p in IMAGES[:3]])
    found = lpips.distances(rows, rows)
    assert found.diagonal().max() == 0 and (found + torch.eye(3)).min() > 0
    assert "LPIPS's formula" in network.name  # never called plain LPIPS
