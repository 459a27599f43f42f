"""OFT's toy experiment: angles and magnitudes of the filters' windows; figure and numbers."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from selma import cli
from selma.applications.angles import experiment
from selma.errors import DataError, WorkspaceError


def network(seed=0):
    torch.manual_seed(seed)
    return experiment.Autoencoder().eval()


def test_angles_times_magnitudes_are_the_inner_products():
    model = network()
    x = model.before(torch.randn(2, 3, 64, 64))
    layer = model.last
    product = experiment.cosines(layer, x) * experiment.norms(layer, x)
    torch.testing.assert_close(product, experiment.inner(layer, x), rtol=1e-4, atol=1e-6)
    bias = layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(experiment.inner(layer, x) + bias, layer(x), rtol=1e-4, atol=1e-6)
    assert experiment.cosines(layer, x).abs().max() <= 1 + 1e-5


def test_norms_are_those_of_windows_cut_out_by_hand():
    model = network()
    x = torch.randn(2, 64, 16, 16)
    layer = model.last
    windows = F.unfold(x, 3, padding=1, stride=2).norm(dim=1).view(2, 1, 8, 8)
    filters = torch.stack([w.norm() for w in layer.weight]).view(1, -1, 1, 1)
    torch.testing.assert_close(experiment.norms(layer, x), windows * filters)
    # The released norms are of the output, and therefore differ.
    released, _ = experiment.released_norms(layer, x)
    assert released.shape == windows.shape
    assert (released / windows - 1).abs().mean() > 0.05


def test_angles_ignore_contrast_and_magnitudes_ignore_direction():
    layer, x = network().last, torch.randn(1, 64, 16, 16)
    torch.testing.assert_close(experiment.cosines(layer, 3 * x), experiment.cosines(layer, x))
    torch.testing.assert_close(experiment.norms(layer, -x), experiment.norms(layer, x))
    assert not experiment.cosines(layer, torch.zeros_like(x)).any()


def test_a_perfect_copy_is_recognised_and_noise_is_not():
    how = {"seed": 0, "resamples": 200}
    truth = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # Neither contrast nor brightness hides an image.
    best = experiment.diagnostics(truth, 0.3 * truth + 0.2, **how)
    assert best["recognised"]["mean"] == 100.0
    assert best["correlation"]["mean"] == pytest.approx(1.0)
    worst = experiment.diagnostics(truth, truth.roll(1, dims=0), **how)
    assert worst["recognised"]["mean"] == 0.0
    assert abs(worst["correlation"]["mean"]) < 0.1


def test_the_command_leaves_a_figure_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "HELD_OUT", 6)
    words = ["oft", "angles", "toybox", "--out", str(tmp_path), "--count", "8", "--epochs", "2"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "magnitudes" in result.output
    numbers = json.loads((tmp_path / "angles.json").read_text())
    assert numbers["steps"] == 2 and numbers["images"] == {"trained": 8, "held_out": 6}
    assert sorted(numbers["modes"]) == [
        "angles", "magnitudes", "released angles", "released magnitudes", "whole",
    ]  # fmt: skip
    with Image.open(tmp_path / "angles.png") as figure:
        assert figure.size == (130 + 6 * 68, 6 * 68 + 4)


def test_another_runs_checkpoint_is_never_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "HELD_OUT", 2)

    def run(**changes):
        settings = {"count": 2, "epochs": 1, "resamples": 50, **changes}
        return experiment.run_angles("toybox", tmp_path / "out", **settings)

    numbers = run()
    assert run() == numbers  # nothing is trained again
    for changes in ({"count": 3}, {"epochs": 2}, {"seed": 1}):
        with pytest.raises(WorkspaceError, match="another --out"):
            run(**changes)
    assert run() == numbers


def test_too_few_images_are_an_error(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="but has 1"):
        experiment.loaded(str(tmp_path), 2, seed=0)
    assert experiment.loaded(str(tmp_path), 1, seed=0).shape == (1, 3, 64, 64)
