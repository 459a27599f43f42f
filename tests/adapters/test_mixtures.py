"""Mixtures: the exact mean at their start, one token never another's business, files, export."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from selma import cli
from selma.adapters import lora
from selma.adapters.applying import applied, chosen
from selma.adapters.converting import convert
from selma.adapters.files import Lineage
from selma.adapters.mixtures import files, mixing
from selma.adapters.table import kind_of, read_any
from selma.config.adapters import LoraConfig
from selma.config.merged import MergedConfig
from selma.errors import AdapterError
from selma.merged.merging import merge_files

RANKS = {"cats": 2, "dogs": 3, "owls": 2}


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def experts(tmp_path_factory, model):
    """Name → file; of different ranks and scales, and one leaves layers out."""
    folder = tmp_path_factory.mktemp("experts")
    written = {}
    for number, (name, rank) in enumerate(RANKS.items()):
        targets = ("to_q", "to_v") if name == "owls" else ("to_q", "to_k", "to_v", "to_out.0")
        config = LoraConfig(rank=rank, alpha=rank * 1.5, targets=targets)
        stream = torch.Generator().manual_seed(number)
        factors = lora.attach(model.denoiser, config, generator=stream)
        for parameter in factors.values():
            parameter.data.normal_(std=0.3, generator=stream)
        written[name] = folder / f"{name}.safetensors"
        lora.save(written[name], factors, config, lineage=Lineage(base="tiny"))
        lora.detach(model.denoiser)
    return written


def write(path, experts, *, gate="token", std=0.0, means=False):
    mixture = files.of_experts({n: read_any(p) for n, p in experts.items()}, gate)
    stream = torch.Generator().manual_seed(7)
    count = len(experts)
    gates = {
        f"{key}.gate": torch.randn(count, width, generator=stream) * std
        for key, (_, width) in mixture.layers.items()
    }
    mean = {key: torch.rand(count, generator=stream) for key in mixture.layers}
    mean = {key: shares / shares.sum() for key, shares in mean.items()} if means else None
    files.save(path, mixture, gates, lineage=Lineage(base="tiny"), means=mean)
    return path


def prediction(model, *, rows=(0, 1)):
    """What the denoiser says of some of two samples, [rows, c, h, w]."""
    stream = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=stream), torch.randn(2, 5, 32, generator=stream)
    times = torch.tensor([10, 700])
    i = list(rows)
    with torch.no_grad():
        return model.denoiser(x[i], times[i], text[i]).sample


def images(model, *, batch_size):
    texts, seeds = ["a cat", "a mat", "cats"], [1, 2, 3]
    generated = model.generate(texts, seeds=seeds, steps=2, guidance=3.0, batch_size=batch_size)
    return [np.asarray(image) for image in generated]


def test_shares_of_known_logits() -> None:
    """softmax(W_g x) by hand: logits 0 and lg 3 are shares of 1/4 and 3/4."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    weight = torch.tensor([[0.0, 0.0], [3.0, 1.0]]).log().nan_to_num(neginf=0.0)
    by_token = mixing.gate_shares(x, weight, gate="token")
    torch.testing.assert_close(by_token, torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    pooled = mixing.gate_shares(x, weight, gate="pooled")  # of the mean: logits 0 and lg 3 / 2
    expected = torch.tensor([[[1.0, 3**0.5]]]) / (1 + 3**0.5)
    torch.testing.assert_close(pooled, expected)


def test_change_is_the_shares_sum_of_products() -> None:
    stream = torch.Generator().manual_seed(0)
    x, shares = torch.randn(2, 5, 6, generator=stream), torch.rand(2, 5, 2, generator=stream)
    a = [torch.randn(rank, 6, generator=stream) for rank in (2, 3)]
    b = [torch.randn(4, rank, generator=stream) for rank in (2, 3)]
    change = mixing.mixed_change(x, shares, torch.cat(a), torch.cat(b, dim=1), torch.tensor([2, 3]))
    slow = sum(shares[..., i : i + 1] * (x @ a[i].T @ b[i].T) for i in range(2))
    torch.testing.assert_close(change, slow)


@pytest.mark.parametrize("gate", ["token", "pooled"])
def test_at_its_start_it_is_the_exact_mean_of_deltas(tmp_path, model, experts, gate) -> None:
    mixture = write(tmp_path / "m.safetensors", experts, gate=gate)
    out = tmp_path / "mean.safetensors"
    merge_files(list(experts.values()), MergedConfig(method="mean_of_deltas"), out)
    before = prediction(model)
    with applied(model, chosen([out])):
        mean = prediction(model)
    with applied(model, chosen([mixture])):
        mixed = prediction(model)
    torch.testing.assert_close(mixed, mean, rtol=1e-4, atol=1e-5)
    assert (mixed - before).abs().max() > 1e-2
    assert torch.equal(prediction(model), before)  # and the model is what it was


def test_of_equal_experts_gates_choose_nothing(tmp_path, model, experts) -> None:
    """Gating one expert changes nothing, whatever the gates are."""
    mixture = write(tmp_path / "m.safetensors", {"a": experts["cats"], "b": experts["cats"]}, std=3)
    with applied(model, chosen([experts["cats"]])):
        alone = prediction(model)
    with applied(model, chosen([mixture])):
        torch.testing.assert_close(prediction(model), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", ["token", "pooled"])
def test_one_sample_never_alters_another(tmp_path, model, experts, gate) -> None:
    mixture = write(tmp_path / "m.safetensors", experts, gate=gate, std=1.0)
    with applied(model, chosen([mixture])):
        both, alone = prediction(model), prediction(model, rows=(0,))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", ["token", "pooled"])
def test_batch_size_changes_no_image(tmp_path, model, experts, gate) -> None:
    mixture = write(tmp_path / "m.safetensors", experts, gate=gate, std=1.0)
    plain = images(model, batch_size=3)
    with applied(model, chosen([mixture])):
        one, three = images(model, batch_size=1), images(model, batch_size=3)
    assert all((a == b).all() for a, b in zip(one, three, strict=True))
    assert any((a != b).any() for a, b in zip(plain, three, strict=True))


def test_others_are_applied_beside_it(tmp_path, model, experts) -> None:
    """A LoRA and the mixture add up, in any order; strengths count."""
    mixture = write(tmp_path / "m.safetensors", {"a": experts["dogs"], "b": experts["dogs"]}, std=2)
    with applied(model, chosen([experts["cats"], experts["dogs"]], [1.0, 0.5])):
        expected = prediction(model)
    for paths, strengths in (
        ([experts["cats"], mixture], [1.0, 0.5]),
        ([mixture, experts["cats"]], [0.5, 1.0]),
    ):
        with applied(model, chosen(paths, strengths)):
            torch.testing.assert_close(prediction(model), expected, rtol=1e-4, atol=1e-5)
    with (
        pytest.raises(AdapterError, match="one mixture"),
        applied(model, chosen([mixture, mixture])),
    ):
        pass
    assert not any(hasattr(module, "mixture") for module in model.denoiser.modules())


def test_file_is_read_as_it_was_written(tmp_path, experts) -> None:
    renamed = write(tmp_path / "any-name.safetensors", experts, std=1.0)
    assert kind_of(renamed).name == "mixture"
    file = read_any(renamed)
    assert file.experts == ("cats", "dogs", "owls") and file.gate == "token" and not file.measured
    key = next(key for key in file.layers if key.endswith("to_k"))
    assert file.give(key).ranks.tolist() == [2, 3, 0]
    for (a, b), path in zip(file.give(key).parts(), list(experts.values())[:2], strict=False):
        expert = read_any(path)
        wanted = expert.factors(key)
        assert torch.equal(a, wanted[0]) and torch.equal(b, 1.5 * wanted[1])
    again = write(tmp_path / "again.safetensors", experts, std=1.0)
    assert renamed.read_bytes() == again.read_bytes()


def test_damage_is_refused(tmp_path, experts) -> None:
    path = write(tmp_path / "m.safetensors", experts)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    key = next(name for name in tensors if name.endswith(".ranks"))
    for name, value in ((key, tensors[key] + 1), (key.replace(".ranks", ".gate"), torch.ones(2))):
        save_file(tensors | {name: value}, path, metadata=metadata)
        with pytest.raises(AdapterError):
            read_any(path).give(key.removesuffix(".ranks"))
    save_file(tensors, path, metadata={**metadata, files.MIXTURE_KEY: json.dumps({"version": 9})})
    with pytest.raises(AdapterError, match="version 1"):
        read_any(path)


def test_export_is_the_mixture_at_its_mean_gates(tmp_path, model, experts) -> None:
    """With gates that always choose their means, both are one model."""
    without = write(tmp_path / "checkpoint.safetensors", experts)
    with pytest.raises(AdapterError, match="means"):
        convert(without, tmp_path / "out.safetensors", to="diffusers")
    path = write(tmp_path / "m.safetensors", experts, means=True)
    (out,) = convert(path, tmp_path / "lora.safetensors", to="diffusers")
    file, exported = read_any(path), read_any(out)
    assert exported.kind == "lora" and max(layer.rank for layer in exported.layers.values()) == 7
    for key in file.layers:
        a, b = exported.factors(key)
        mean = file.mean_gate(key)
        wanted = sum(
            g * (pb @ pa) for g, (pa, pb) in zip(mean, file.give(key).parts(), strict=True)
        )
        torch.testing.assert_close(exported.layers[key].scale * (b @ a), wanted)
    result = CliRunner().invoke(cli.app, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert "mixture, selma" in result.output and "expert owls: rank 0 to 2" in result.output


def test_convolutions_and_other_models_are_refused(tmp_path, model, experts) -> None:
    config = LoraConfig(rank=2, targets=("conv1",))
    stream = torch.Generator().manual_seed(0)
    factors = lora.attach(model.denoiser, config, generator=stream)
    path = tmp_path / "conv.safetensors"
    lora.save(path, factors, config, lineage=Lineage(base="tiny"))
    lora.detach(model.denoiser)
    with pytest.raises(AdapterError, match="convolution"):
        files.of_experts({"conv": read_any(path)}, "token")
    other = tiny.load("sdxl")
    mixture: Path = write(tmp_path / "m.safetensors", experts)
    with pytest.raises(AdapterError, match="another model"), applied(other, chosen([mixture])):
        pass
