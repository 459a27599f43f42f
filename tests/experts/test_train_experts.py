"""The loop: exact resume, real clipping, whole batches, and what it leaves behind."""

import itertools
import json
import shutil
import signal

import pytest
import safetensors.torch
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs

from selma import cli
from selma.adapters import lora
from selma.adapters.applying import applied, chosen
from selma.backbones.families.paths import VariancePreserving
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.errors import ConfigError, TrainingDiverged
from selma.experts import checkpoints
from selma.experts.optimizing import Optimization
from selma.experts.skills import expert_learner, train_experts
from selma.experts.training import fit
from selma.workspace import Workspace

STEPS = 6
CONFIG = ExpertsConfig(
    adapter=LoraConfig(rank=2),
    steps=STEPS,
    batch_size=2,  # three pairs: batches cross the epochs
    learning_rate=1e-2,
    schedule="cosine",
    warmup_steps=2,
    precision="fp32",
    checkpoint_every=2,
    caption_dropout=0.3,
)


def changed(**settings):
    return CONFIG.model_copy(update=settings)


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


@pytest.fixture(scope="module")
def data(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("data")
    return encoded(folder, pairs(folder), model=lambda: model)


class Stop(Exception):
    pass


def trained(path, model, data, config=CONFIG, stop_at=None):
    path.mkdir(parents=True, exist_ok=True)

    def on_step(line):
        if line["step"] == stop_at:
            raise Stop

    if stop_at is None:
        fitted(path, model, data, config, on_step)
    else:
        with pytest.raises(Stop):
            fitted(path, model, data, config, on_step)
    return path


def fitted(path, model, data, config, on_step):
    learner = expert_learner(model, data, config, skill="cats", seed=0)
    keep = config.select == "dev"
    fit(learner, config, path, made_by={}, on_step=on_step, keep_adapters=keep)


def last(path):
    """Every byte of the last checkpoint and of the log."""
    found = checkpoints.newest(path / "checkpoints")
    names = (ADAPTER_FILE, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE)
    return [(found.path / name).read_bytes() for name in names] + [
        (path / "loss.jsonl").read_bytes()
    ]


def weights(path):
    found = checkpoints.newest(path / "checkpoints")
    return safetensors.torch.load_file(found.path / ADAPTER_FILE)


def lines(path):
    return [json.loads(line) for line in (path / "loss.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, data):
    return trained(tmp_path_factory.mktemp("whole"), model, data)


@pytest.mark.parametrize("stop_at", range(1, STEPS + 1))
def test_resuming_at_any_step_is_bit_equal(tmp_path, model, data, whole, stop_at):
    """Weights, moments, learning rate, order and log; also in the middle of an epoch."""
    trained(tmp_path, model, data, stop_at=stop_at)
    assert last(trained(tmp_path, model, data)) == last(whole)


def signalled(path, model, data, config=CONFIG, *, after, number=signal.SIGTERM):
    """A training that gets a signal when this step is done, in the hands of the command `selma`."""

    def on_step(line):
        if line["step"] == after:
            signal.raise_signal(number)

    path.mkdir(parents=True, exist_ok=True)
    before = {each: signal.signal(each, cli._stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(cli.Stopped) as stopped:
            fitted(path, model, data, config, on_step)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return stopped.value.exit_code


@pytest.mark.parametrize(
    ("number", "code", "after"), [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 4)]
)
def test_a_signal_leaves_a_checkpoint_of_the_next_step(
    tmp_path, model, data, whole, number, code, after
):
    assert signalled(tmp_path, model, data, after=after, number=number) == code
    assert checkpoints.newest(tmp_path / "checkpoints").step == after + 1 == len(lines(tmp_path))
    assert last(trained(tmp_path, model, data)) == last(whole)


def test_a_signals_checkpoint_is_never_chosen(tmp_path, model, data):
    """Only steps that are due may be scored and kept, whenever the training was stopped."""
    config, stopped = changed(select="dev"), tmp_path / "stopped"
    for after in (2, 4):  # and so in steps 3 and 5
        signalled(stopped, model, data, config, after=after)
    # As if the process had been killed while it took step 3's checkpoint away.
    shutil.copytree(stopped / "checkpoints/step-000002", stopped / "checkpoints/step-000003")
    trained(stopped, model, data, config)
    assert files(stopped) == files(trained(tmp_path / "whole", model, data, config))
    assert [step for step, _ in checkpoints.adapters(stopped / "checkpoints")] == [2, 4, 6]


def test_resuming_twice_in_a_row_is_bit_equal(tmp_path, model, data, whole):
    for stop_at in (3, 3, 5):
        trained(tmp_path, model, data, stop_at=stop_at)
    assert last(trained(tmp_path, model, data)) == last(whole)


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path, model, data, whole):
    config = changed(checkpoint_every=1)
    trained(tmp_path, model, data, config, stop_at=5)
    assert last(trained(tmp_path, model, data, config))[0] != b""
    assert weights(tmp_path).keys() == weights(whole).keys()
    assert all(torch.equal(weights(tmp_path)[k], weights(whole)[k]) for k in weights(whole))


@pytest.mark.parametrize("damage", ["state", "adapter", "optimizer", "half"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, model, data, whole, damage):
    trained(tmp_path, model, data, stop_at=5)
    newest = checkpoints.newest(tmp_path / "checkpoints")
    assert newest.step == 4
    match damage:
        case "state":
            (newest.path / checkpoints.STATE_FILE).unlink()
        case "half":
            (newest.path / checkpoints.STATE_FILE).write_text('{"step": 4, "fi')
        case name:
            file = newest.path / (ADAPTER_FILE if name == "adapter" else f"{name}.safetensors")
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
    assert checkpoints.newest(tmp_path / "checkpoints").step == 2
    assert last(trained(tmp_path, model, data)) == last(whole)


def test_the_base_is_untouched(model, whole):
    fresh = tiny.load("sd1").denoiser.state_dict()
    now = model.denoiser.state_dict()
    assert fresh.keys() == now.keys()
    assert all(torch.equal(fresh[key], now[key]) for key in fresh)


def test_micro_batches_equal_the_whole_batch(tmp_path, model, data):
    config = changed(batch_size=4, steps=3, warmup_steps=0)
    a = trained(tmp_path / "a", model, data, config)
    b = trained(tmp_path / "b", model, data, config.model_copy(update={"micro_batch_size": 1}))
    for one, other in zip(lines(a), lines(b), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
    # One sample a step is another training, so the agreement above is no accident.
    c = trained(tmp_path / "c", model, data, config.model_copy(update={"batch_size": 1}))
    assert lines(c)[1]["loss"] != pytest.approx(lines(a)[1]["loss"], rel=1e-2)


def test_clipping_acts(tmp_path, model, data):
    # Plain gradient descent would show it directly; Adam's first moment does: (1 - β1) g.
    config = changed(steps=1, warmup_steps=0, checkpoint_every=1)

    def gradient_norm(name, limit):
        path = trained(
            tmp_path / name, model, data, config.model_copy(update={"max_grad_norm": limit})
        )
        found = checkpoints.newest(path / "checkpoints")
        moments = safetensors.torch.load_file(found.path / checkpoints.OPTIMIZER_FILE)
        first = [m for key, m in moments.items() if key.startswith("exp_avg/")]
        return float(torch.cat([m.flatten() for m in first]).norm()) / (1 - config.betas[0])

    free = gradient_norm("free", None)
    assert gradient_norm("clipped", free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert gradient_norm("loose", free * 10) == pytest.approx(free, rel=1e-3)


def test_the_learning_rate_follows_its_schedule(whole):
    rates = [line["learning_rate"] for line in lines(whole)]
    assert rates[0] == 0.0
    assert rates[2] == pytest.approx(1e-2)
    assert rates[2] > rates[3] > rates[4] > rates[5]


def test_training_lowers_the_loss_on_its_pairs(tmp_path, model, data):
    config = changed(steps=40, batch_size=8, schedule="constant", checkpoint_every=40)
    path = trained(tmp_path, model, data, config)
    losses = [line["loss"] for line in lines(path)]
    # Only attention learns in a network that is otherwise random, so the fall is small.
    assert sum(losses[-10:]) < 0.96 * sum(losses[:10])


def test_one_sample_never_alters_another(model, data):
    config = changed(batch_size=4, caption_dropout=0.0)
    learner = expert_learner(model, data, config, skill="cats", seed=0)
    path = VariancePreserving(torch.linspace(0.99, 0.01, 1000), "epsilon")
    batch = learner.batches.at(0)
    with torch.no_grad():
        before = learner.losses(batch, path, step=1)["loss"]
        batch.noise[2] = 7.0
        batch.indices[2] = (batch.indices[2] + 1) % 3
        after = learner.losses(batch, path, step=1)["loss"]
    keep = [0, 1, 3]
    assert torch.equal(before[keep], after[keep])
    assert before[2] != after[2]


@pytest.mark.parametrize("precision", ["bf16"])
def test_weights_and_moments_stay_float32(tmp_path, model, data, precision):
    path = trained(tmp_path, model, data, changed(precision=precision, steps=2))
    assert {w.dtype for w in weights(path).values()} == {torch.float32}
    stopped = trained(tmp_path / "b", model, data, changed(precision=precision, steps=4), stop_at=3)
    again = trained(tmp_path / "c", model, data, changed(precision=precision, steps=4))
    assert last(trained(stopped, model, data, changed(precision=precision, steps=4))) == last(again)


def test_fp16_without_a_gpu_is_refused_at_once(tmp_path, model, data):
    with pytest.raises(ConfigError, match="bf16 or fp32"):
        trained(tmp_path, model, data, changed(precision="fp16"))


def test_timesteps_beyond_the_schedule_are_refused_at_once(tmp_path, model, data):
    with pytest.raises(ConfigError, match="0 to 1000, but are 0 and 1001"):
        trained(tmp_path, model, data, changed(max_timestep=1001))


def test_divergence_stops_and_keeps_the_last_checkpoint(tmp_path, model, data):
    poisoned = type(data)(**vars(data) | {"mean": data.mean * float("nan")})
    trained(tmp_path, model, data, stop_at=2)
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        trained(tmp_path, model, poisoned)
    assert checkpoints.newest(tmp_path / "checkpoints").step == 4
    log = lines(tmp_path)
    assert [line["loss"] is None for line in log] == [False, False, True, True, True]
    found = checkpoints.newest(tmp_path / "checkpoints")
    kept = safetensors.torch.load_file(found.path / ADAPTER_FILE)
    assert all(torch.isfinite(w).all() for w in kept.values())  # bad steps were not taken


def test_one_bad_step_is_skipped(tmp_path, model, data):
    mean = data.mean.clone()
    mean[0] = float("nan")  # one pair of three: never three batches in a row without it
    poisoned = type(data)(**vars(data) | {"mean": mean})
    path = trained(tmp_path, model, poisoned, changed(batch_size=1))
    bad = [line["step"] for line in lines(path) if line["loss"] is None]
    assert len(bad) == 2
    assert all(torch.isfinite(w).all() for w in weights(path).values())


def train(folder, some, model, config=CONFIG, skill="cats", dev_score=None):
    (expert,) = train_experts(
        {skill: some},
        config,
        Workspace(folder / "run"),
        base=tiny.base("sd1"),
        seed=0,
        model=model,
        dev_score=dev_score,
    )
    return expert


def never():
    raise AssertionError("the model was loaded")


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_an_expert_is_an_item_that_diffusers_loads(tmp_path, model):
    some = pairs(tmp_path)
    expert = train(tmp_path, some, lambda: model)
    assert expert.folder == tmp_path / "run" / "3-experts" / "cats"
    assert sorted(path.name for path in expert.folder.iterdir()) == [
        "loss.jsonl", "manifest.json", "plan.json", ADAPTER_FILE,
    ]  # fmt: skip
    assert train(tmp_path, some, never) == expert
    # A killed run may leave its checkpoints behind the manifest; they go.
    (expert.folder / "checkpoints").mkdir()
    assert train(tmp_path, some, never) == expert
    assert not (expert.folder / "checkpoints").exists()

    pipe = tiny.load("sd1").pipe
    pipe.load_lora_weights(expert.folder)
    assert pipe.unet.peft_config["default_0"].r == 2


def test_the_key_changes_with_images_settings_and_base(tmp_path, model):
    some = pairs(tmp_path)
    quick = changed(steps=1)
    keys = [train(tmp_path, some, lambda: model, quick).key]
    keys.append(
        train(tmp_path, some, lambda: model, quick.model_copy(update={"betas": (0.8, 0.9)})).key
    )
    shutil.copy(some[0].image, some[1].image)
    keys.append(train(tmp_path, some, lambda: model, quick).key)
    assert len(set(keys)) == 3


def test_one_experts_crash_leaves_the_others_alone(tmp_path, model, monkeypatch):
    some = pairs(tmp_path)
    first = train(tmp_path, some, lambda: model, changed(steps=2), skill="first")
    before = files(first.folder)
    with pytest.raises(AssertionError, match="loaded"):
        train(tmp_path, some, never, changed(steps=2), skill="second")
    train(tmp_path, some, lambda: model, changed(steps=2), skill="second")
    assert files(first.folder) == before


def test_the_best_checkpoint_on_dev_becomes_the_expert(tmp_path, model):
    some, asked = pairs(tmp_path), []
    scores = {2: 10.0, 4: 30.0, 6: 30.0}

    def score(folder):
        step = int(folder.name.removeprefix("step-"))
        asked.append(step)
        assert (folder / ADAPTER_FILE).is_file()
        with applied(model, chosen([folder])):  # it may generate: no adapter is attached any more
            pass
        if len(asked) == 2 and not killed:
            killed.append(True)
            raise Stop
        return scores[step]

    killed: list[bool] = []
    config = changed(select="dev")
    with pytest.raises(Stop):
        train(tmp_path, some, lambda: model, config, dev_score=score)
    expert = train(tmp_path, some, lambda: model, config, dev_score=score)
    assert asked == [2, 4, 4, 6]  # what had been scored was not scored again
    summary = json.loads((expert.folder / "manifest.json").read_text())["summary"]
    assert summary["chosen_step"] == 4  # the earlier of two equals
    assert summary["scores"] == {"2": 10.0, "4": 30.0, "6": 30.0}
    with safetensors.safe_open(expert.folder / ADAPTER_FILE, framework="pt") as file:
        assert json.loads(file.metadata()["selma"])["made_by"]["step"] == 4


def test_dev_selection_needs_a_score(tmp_path):
    with pytest.raises(ConfigError, match="dev_score"):
        train(tmp_path, pairs(tmp_path), never, changed(select="dev"))


def test_equal_settings_give_equal_bytes(tmp_path, model):
    some = pairs(tmp_path)
    a, b = (train(tmp_path / name, some, lambda: model, changed(steps=2)) for name in ("a", "b"))
    assert files(a.folder) == files(b.folder)


def test_the_header_does_not_depend_on_the_process(tmp_path, model, data):
    """Metadata in the order of a hash map would differ between processes."""
    path = trained(tmp_path, model, data, changed(steps=1))
    found = checkpoints.newest(path / "checkpoints")
    raw = (found.path / ADAPTER_FILE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(offsets))


def test_a_loras_inputs_are_not_copied_under_autocast_and_its_bits_stay():
    """Beside PEFT's own layers, which make float32 of them first; without autocast as they do."""
    model = tiny.load("sd1")
    denoiser = model.denoiser
    stream = torch.Generator().manual_seed(0)
    latent = torch.randn(1, *model.latent_shape, generator=stream)
    given = (latent, torch.tensor([5]), torch.randn(1, 77, 32, generator=stream))

    def passed(*, own):
        factors = lora.attach(denoiser, LoraConfig(rank=4), generator=torch.Generator())
        for parameter in factors.values():
            parameter.data.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
        layers = [m for m in denoiser.modules() if "_cast_input_dtype" in vars(m)]
        assert len(layers) == len(factors) / 2
        for layer in layers if own else ():
            del layer._cast_input_dtype
        with torch.autocast("cpu", torch.bfloat16):
            out = denoiser(*given, return_dict=False)[0]
        out.float().square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in factors.items()}
        lora.detach(denoiser)
        return out, gradients

    (out, gradients), (theirs, others) = passed(own=False), passed(own=True)
    assert torch.equal(out, theirs)
    for name, gradient in gradients.items():
        assert gradient.any() and torch.equal(gradient, others[name])
    half = torch.ones(2, dtype=torch.bfloat16)
    assert lora._cast(half, torch.float32).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert lora._cast(half, torch.float32) is half


def test_parameters_that_are_stepped_together_have_the_bits_of_stepping_each_alone():
    """In PyTorch's plain loop, by sizes that vector instructions divide and others."""
    shapes = [(4, 320), (320, 4), (1280, 64), (7,), (33, 17), (1,)]

    def stepped(*, together):
        stream = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(s, generator=stream)) for s in shapes]
        optimization = Optimization(parameters, CONFIG, device=torch.device("cpu"))
        assert optimization.foreach and optimization.adamw.defaults["foreach"]
        if not together:
            optimization.foreach = optimization.adamw.param_groups[0]["foreach"] = False
        norms = []
        for scale in (1e-3, 30.0, 1.0):
            for parameter in parameters:
                parameter.grad = scale * torch.randn(parameter.shape, generator=stream)
            norms.append(optimization.step(1.0))
        return norms, parameters

    (norms, parameters), (alone, each_alone) = stepped(together=True), stepped(together=False)
    assert norms == alone
    for parameter, other in zip(parameters, each_alone, strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=0)
