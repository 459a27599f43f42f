"""The SUR-adapter in the one loop: exact resume, what it leaves behind, and that it learns."""

import json

import pytest
import safetensors.torch
import tiny
import torch
from applications.sur import sur_data

from selma.adapters.sur import files as sur_files
from selma.applications.sur.learner import SurLearner
from selma.applications.sur.settings import SurSettings
from selma.applications.sur.training import train_sur
from selma.errors import DataError
from selma.experts import checkpoints
from selma.experts.training import fit
from selma.workspace import Workspace

STEPS = 4
TRAINING = {
    "steps": STEPS,
    "batch_size": 2,  # three samples: batches cross the epochs
    "learning_rate": 1e-2,
    "precision": "fp32",
    "checkpoint_every": 2,
    "caption_dropout": 0.2,
}
FORMS = {
    "ours": {"preset": "ours"},
    "paper": {},
    "learned": {"llm": {"projection": "learned"}},
    "pca": {"llm": {"projection": "pca"}},
    # With dropout, whose chance must not depend on where the run was stopped.
    "encoder": {"adapter": {"form": "released", "heads": 4, "hidden": 16, "dropout": 0.3}},
}


def settings(form="paper", **training):
    chosen = {"preset": "paper", "llm": {}, **FORMS[form]}
    backend = sur_data.llm().backend.model_dump()
    return SurSettings.model_validate(
        {**chosen, "llm": {"backend": backend, **chosen["llm"]}, "training": TRAINING | training}
    )


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    return sur_data.encoded_samples(tmp_path_factory.mktemp("data"), model, "sd1")


class Stop(Exception):
    pass


def trained(path, model, data, config, stop_at=None):
    path.mkdir(parents=True, exist_ok=True)

    def on_step(line):
        if line["step"] == stop_at:
            raise Stop

    def go():
        learner = SurLearner(model, data, config, 0)
        fit(learner, config.training, path, made_by={}, on_step=on_step)

    if stop_at is None:
        go()
    else:
        with pytest.raises(Stop):
            go()
    return path


def last(path):
    found = checkpoints.newest(path / "checkpoints")
    names = (sur_files.FILE, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE)
    return [(found.path / name).read_bytes() for name in names] + [
        (path / "loss.jsonl").read_bytes()
    ]


@pytest.mark.parametrize("form", FORMS)
def test_resuming_is_bit_equal(tmp_path, model, data, form):
    config = settings(form)
    whole = trained(tmp_path / "whole", model, data, config)
    stopped = trained(tmp_path / "stopped", model, data, config, stop_at=3)
    assert last(trained(stopped, model, data, config)) == last(whole)


def test_what_is_saved_is_the_average(tmp_path, model, data):
    """By hand: the weights of each step, averaged as the settings say."""
    config = settings(ema_decay=0.5, caption_dropout=0.0)
    plain = settings(caption_dropout=0.0)
    raw = []
    for steps in range(1, STEPS + 1):
        part = plain.model_copy(
            update={"training": plain.training.model_copy(update={"steps": steps})}
        )
        path = trained(tmp_path / f"{steps}", model, data, part)
        raw.append(safetensors.torch.load_file(newest_file(path)))
    saved = safetensors.torch.load_file(newest_file(trained(tmp_path / "a", model, data, config)))
    for name in raw[0]:
        if name.startswith("projection."):
            continue
        start = SurLearner(model, data, config, 0).weights.adapter.state_dict()[name]
        average = start.clone()
        for step, weights in enumerate(raw, start=1):
            average.lerp_(weights[name], 1 - min(0.5, step / (step + 9)))
        torch.testing.assert_close(saved[name], average)
    assert any(not torch.equal(saved[name], raw[-1][name]) for name in saved)


def newest_file(path):
    return checkpoints.newest(path / "checkpoints").path / sur_files.FILE


def test_the_log_tells_each_loss(tmp_path, model, data):
    path = trained(tmp_path, model, data, settings(caption_dropout=0.0))
    lines = [json.loads(line) for line in (path / "loss.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    for line in lines:
        parts = line["denoising"] + 0.1 * (line["distillation"] + line["alignment"])
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        assert line["gradient_norm"] > 0


def test_each_loss_falls(tmp_path, model, data):
    config = settings(steps=60, batch_size=3, checkpoint_every=60, caption_dropout=0.0)
    path = trained(tmp_path, model, data, config)
    lines = [json.loads(line) for line in (path / "loss.jsonl").read_text().splitlines()]
    for name in ("distillation", "alignment"):
        early = sum(line[name] for line in lines[:5])
        assert sum(line[name] for line in lines[-5:]) < 0.7 * early, name


def train(folder, some, config, model):
    return train_sur(
        some, config, Workspace(folder / "run"), base=tiny.base("sd1"), seed=0, model=model
    )


def never():
    raise AssertionError("the model was loaded")


def test_an_adapter_is_an_item_with_everything_in_one_file(tmp_path, model):
    some, config = sur_data.samples(tmp_path), settings()
    made = train(tmp_path, some, config, lambda: model)
    assert made.folder == tmp_path / "run" / "3-experts" / "_sur"
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "loss.jsonl", "manifest.json", "plan.json", sur_files.FILE,
    ]  # fmt: skip
    assert train(tmp_path, some, config, never) == made
    found = sur_files.load(made.folder)
    assert found.lineage.base == model.fingerprint
    assert found.adapter.config == config.adapter
    assert found.projection["weight"].shape == (32, 24)
    assert found.settings["projection"] == "random"
    assert str(tmp_path) not in json.dumps(found.settings)
    other = train(tmp_path / "b", some, config, lambda: model)
    assert (other.folder / sur_files.FILE).read_bytes() == (
        made.folder / sur_files.FILE
    ).read_bytes()


def test_as_released_the_projection_is_kept_nowhere(tmp_path, model):
    some = sur_data.samples(tmp_path)
    llm = {"backend": sur_data.llm().backend.model_dump(), "projection": "released"}
    config = settings(steps=1).model_copy(
        update={"llm": SurSettings.model_validate({"llm": llm}).llm}
    )
    made = train(tmp_path, some, config, lambda: model)
    assert not sur_files.load(made.folder).projection


def test_the_key_changes_with_texts_and_settings(tmp_path, model):
    some = sur_data.samples(tmp_path)
    quick = settings(steps=1)
    keys = [train(tmp_path, some, quick, lambda: model).key]
    for part, change in (
        ("losses", {"alignment": {"weight": 0.5}}),
        ("adapter", {"weight": 0.2}),
        ("llm", {"backend": quick.llm.backend.model_dump(), "layer": 0}),
    ):
        config = SurSettings.model_validate({part: change})
        changed = quick.model_copy(update={part: getattr(config, part)})
        keys.append(train(tmp_path, some, changed, lambda: model).key)
    keywords = [t.model_copy(update={"prompt": t.prompt + ", 8k"}) for t in some]
    keys.append(train(tmp_path, keywords, quick, lambda: model).key)
    assert len(set(keys)) == len(keys)
    generated = quick.model_copy(update={"generation": SurSettings().generation})
    assert train(tmp_path, keywords, generated, never).key == keys[-1]


def test_the_base_is_untouched(tmp_path, model, data):
    trained(tmp_path, model, data, settings(steps=1))
    fresh, now = tiny.load("sd1").pipe, model.pipe
    for part in ("unet", "text_encoder", "vae"):
        theirs, mine = getattr(fresh, part).state_dict(), getattr(now, part).state_dict()
        assert all(torch.equal(theirs[key], mine[key]) for key in theirs)


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(DataError, match="sample"):
        train(tmp_path, [], settings(), never)


def test_bfloat16_keeps_the_adapter_in_float32(tmp_path, model, data):
    config = settings(precision="bf16", steps=2)
    path = trained(tmp_path, model, data, config)
    found = checkpoints.newest(path / "checkpoints")
    kept = sur_files.load(found.path / sur_files.FILE)
    assert {t.dtype for t in kept.adapter.state_dict().values()} == {torch.float32}
