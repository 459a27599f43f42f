"""Training a mixture's gates: what they start from and leave, exact resume, the order of skills."""

import json
import shutil

import pytest
import tiny
import torch
from adapters.test_mixtures import prediction
from experts.test_encode_pairs import CAPTIONS, pairs
from safetensors.torch import load_file

from selma.adapters import lora
from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.mixtures.files import FILE, read
from selma.adapters.table import read_any
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig, OftConfig
from selma.config.experts import ExpertsConfig
from selma.config.merged import MergedConfig, MixtureConfig
from selma.errors import AdapterError
from selma.experts import running
from selma.experts.mixtures import ShareMeans, joined, measured_shares, train_mixture
from selma.merged.merging import merge_experts, read_diagnostics
from selma.merged.mixing import keep_mixture
from selma.records.experts import Expert
from selma.workspace import Workspace

CONFIG = ExpertsConfig(
    adapter=LoraConfig(rank=2), steps=4, batch_size=2, precision="fp32", checkpoint_every=2
)
SETTINGS = MixtureConfig(learning_rate=0.3)


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    """Two random experts, and skill → pairs."""
    folder = tmp_path_factory.mktemp("data")
    experts = []
    for number, skill in enumerate(("cats", "dogs")):
        stream = torch.Generator().manual_seed(number)
        factors = lora.attach(model.denoiser, CONFIG.adapter, generator=stream)
        for parameter in factors.values():
            parameter.data.normal_(std=0.3, generator=stream)
        (folder / skill).mkdir()
        path = folder / skill / ADAPTER_FILE
        lora.save(path, factors, CONFIG.adapter, lineage=Lineage(base=model.fingerprint))
        lora.detach(model.denoiser)
        experts.append(Expert(skill=skill, folder=folder / skill, key=f"key-{skill}"))
    by_skill = {"cats": pairs(folder / "1"), "dogs": pairs(folder / "2", captions=CAPTIONS[:2])}
    return experts, by_skill


def train(folder, model, data, *, settings=SETTINGS, config=CONFIG):
    experts, by_skill = data
    return train_mixture(
        experts,
        by_skill,
        settings,
        config,
        Workspace(folder),
        base=tiny.base("sd1"),
        seed=0,
        model=lambda: model,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model, data):
    return train(tmp_path_factory.mktemp("whole"), model, data)


def test_settings_are_the_experts_unless_given() -> None:
    assert MixtureConfig().training(ExpertsConfig()).learning_rate == 1e-5
    assert MixtureConfig().training(ExpertsConfig()).steps == 5000
    own = MixtureConfig(steps=3, batch_size=8).training(CONFIG)
    assert (own.steps, own.batch_size, own.precision) == (3, 8, "fp32")
    with pytest.raises(ValueError, match="micro_batch_size"):
        MixtureConfig(batch_size=3).training(CONFIG.model_copy(update={"micro_batch_size": 2}))
    for more in ({"method": "ties"}, {"scale": 0.5}, {"density": 0.2}, {"weights": {"cats": 1}}):
        with pytest.raises(ValueError, match="takes the place of a merge"):
            MergedConfig.model_validate({"mixture": {}, **more})


def test_rounds_of_experts_by_rewards_are_not_the_gates() -> None:
    given = {"objective": {"kind": "nft", "reward": "toybox"}, "steps": 14, "checkpoint_every": 7}
    experts = ExpertsConfig.model_validate(given)
    gates = MixtureConfig().training(experts)
    assert (experts.batch_size, gates.batch_size, gates.micro_batch_size) == (1152, 64, None)
    assert (gates.steps, gates.checkpoint_every) == (5000, 7)
    assert MixtureConfig(steps=3).training(experts).steps == 3


def test_gates_alone_are_trained(trained, data) -> None:
    item, _ = trained
    file = read(item.path)
    assert file.experts == ("cats", "dogs") and not (item.path / "checkpoints").exists()
    for number, expert in enumerate(data[0]):
        for key in file.layers:
            a, b = file.give(key).parts()[number]
            factors = read_any(expert.folder).factors(key)
            assert torch.equal(a, factors[0]) and torch.equal(b, factors[1])
    assert all(file.give(key).gate.abs().max() > 0 for key in file.layers)
    log = [json.loads(line) for line in (item.path / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4] and log[0]["gradient_norm"] > 0


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_resuming_is_bit_equal(tmp_path, monkeypatch, model, data, trained, stop_at) -> None:
    """Also where the process ends in the middle of a checkpoint's interval."""

    class Killed(Exception):
        pass

    fit = running.fit

    def killed(learner, config, path, *, on_step, **rest):
        def stop(line):
            on_step(line)
            if line["step"] == stop_at:
                raise Killed

        fit(learner, config, path, on_step=stop, **rest)

    monkeypatch.setattr(running, "fit", killed)
    with pytest.raises(Killed):
        train(tmp_path, model, data)
    monkeypatch.setattr(running, "fit", fit)
    item, _ = train(tmp_path, model, data)
    for name in (FILE, "loss.jsonl"):
        assert (item.path / name).read_bytes() == (trained[0].path / name).read_bytes()


def test_order_of_skills_changes_no_bit(tmp_path, model, data, trained) -> None:
    experts, by_skill = data
    turned = experts[::-1], dict(reversed(by_skill.items()))
    item, _ = train(tmp_path, model, turned)
    assert item.key == trained[0].key
    assert (item.path / FILE).read_bytes() == (trained[0].path / FILE).read_bytes()


def test_samples_of_all_skills_are_trained_on(trained) -> None:
    _, training = trained
    encoded = training.encoded()
    whole = joined(encoded)
    assert len(whole) == 5 and [len(part) for part in encoded.values()] == [3, 2]
    assert torch.equal(whole.mean[3:], encoded["dogs"].mean)
    assert torch.equal(whole.conditioning.text[:3], encoded["cats"].conditioning.text)


def test_means_of_shares() -> None:
    means = ShareMeans()
    means.add("layer", torch.tensor([[[0.2, 0.8], [0.4, 0.6]]]))
    means.add("layer", torch.tensor([[[0.9, 0.1]]]))
    expected = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(means.result()["layer"], expected)


def test_kept_mixture_says_what_its_gates_chose(tmp_path, model, trained, data) -> None:
    item, training = trained
    folder = Workspace(tmp_path)
    calls = []

    def measure(file):
        calls.append(file)
        return measured_shares(file, training)

    merged = [
        keep_mixture(item, folder, samples={"cats": 3, "dogs": 2}, measure=measure)
        for _ in range(2)
    ]
    assert len(calls) == 1 and merged[0] == merged[1]
    assert merged[0].method == "mixture" and sum(merged[0].weights.values()) == pytest.approx(1)
    diagnostics = read_diagnostics(merged[0])
    gates, file = diagnostics["gates"], read(merged[0].folder)
    assert file.measured and set(gates["each"]) == set(file.layers) == set(diagnostics["layers"])
    for key, by_skill in gates["each"].items():
        assert all(sum(shares.values()) == pytest.approx(1) for shares in by_skill.values())
        weighed = (3 * by_skill["cats"]["dogs"] + 2 * by_skill["dogs"]["dogs"]) / 5
        assert weighed == pytest.approx(float(file.mean_gate(key)[1]), abs=1e-5)
    assert any(abs(shares["cats"] - 0.5) > 1e-3 for shares in gates["layers"].values())
    with applied(model, chosen([item.path])):
        alone = prediction(model)
    with applied(model, chosen([merged[0].folder])):
        assert torch.equal(prediction(model), alone)


def test_untrained_gates_are_even_and_the_merge_is_exact(tmp_path, model, data) -> None:
    """A rate too small to move anything: the run's mixture is its mean of deltas."""
    item, training = train(tmp_path, model, data, settings=MixtureConfig(learning_rate=1e-30))
    samples = {"cats": 3, "dogs": 2}
    kept = keep_mixture(
        item, Workspace(tmp_path), samples=samples, measure=lambda f: measured_shares(f, training)
    )
    diagnostics = read_diagnostics(kept)
    assert kept.weights == {"cats": 0.5, "dogs": 0.5}
    assert diagnostics["all"]["relative_error"] < 1e-3
    merged = merge_experts(data[0], MergedConfig(), Workspace(tmp_path / "other"))
    with applied(model, chosen([merged.folder])):
        mean = prediction(model)
    with applied(model, chosen([kept.folder])):
        torch.testing.assert_close(prediction(model), mean, rtol=1e-4, atol=1e-5)


def test_pooled_gates_are_other_gates(tmp_path, model, data, trained) -> None:
    item, _ = train(tmp_path, model, data, settings=SETTINGS.model_copy(update={"gate": "pooled"}))
    assert item.key != trained[0].key and read(item.path).gate == "pooled"
    one, other = load_file(item.path / FILE), load_file(trained[0].path / FILE)
    assert any((one[name] != other[name]).any() for name in one)


def test_a_checkpoint_is_chosen_by_score(tmp_path, model, data) -> None:
    seen = []

    def score(folder):
        seen.append(read(folder).experts)
        return -len(seen)

    experts, by_skill = data
    item, _ = train_mixture(
        experts, by_skill, SETTINGS, CONFIG, Workspace(tmp_path),
        base=tiny.base("sd1"), seed=0, model=lambda: model, dev_score=score,
    )  # fmt: skip
    assert item.summary["chosen_step"] == 2 and seen == [("cats", "dogs")] * 2


def test_rotations_cannot_be_mixed(tmp_path, model, data) -> None:
    from selma.adapters.rotations import oft

    config, folder = OftConfig(blocks=2), tmp_path / "turned"
    folder.mkdir()
    kind = oft.OFT
    tensors = kind.attach(
        model.denoiser, config, generator=torch.Generator(), targets=model.family.targets
    )
    kind.save(folder / kind.file, tensors, config, lineage=Lineage(), component="unet")
    kind.detach(model.denoiser)
    experts = [*data[0], Expert(skill="turned", folder=folder, key="key")]
    with pytest.raises(AdapterError, match="low-rank"):
        train(tmp_path / "run", model, (experts, data[1]))
    shutil.rmtree(tmp_path / "run")
