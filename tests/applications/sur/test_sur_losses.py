"""The SUR-adapter's losses: known values, who learns what, and where the released ones fail."""

import dataclasses
import math

import pytest
import tiny
import torch
from applications.sur.sur_data import encoded_samples

from selma.applications.sur.attending import attended, cross_attentions
from selma.applications.sur.content import content_weights
from selma.applications.sur.learner import SurLearner
from selma.applications.sur.losses import divergences, over_tokens, similarity_gaps, token_mean
from selma.applications.sur.settings import SurSettings
from selma.backbones.families.paths import VariancePreserving
from selma.errors import ConfigError
from selma.experts.batches import Batches

TWO = [torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 0.0]])]


def test_teacher_and_student_are_not_mixed_up():
    """Softmaxes (1/4, 3/4) and (1/2, 1/2), by hand."""
    teacher, student = TWO
    forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    backward = 0.5 * math.log(2.0) + 0.5 * math.log(2 / 3)
    assert divergences(teacher, student, direction="teacher_student").item() == pytest.approx(
        forward
    )
    assert divergences(teacher, student, direction="student_teacher").item() == pytest.approx(
        backward
    )
    # The released code: kl_div(log_softmax(teacher), softmax(student), "batchmean").
    theirs = torch.nn.functional.kl_div(
        teacher.log_softmax(-1), student.softmax(-1), reduction="batchmean"
    )
    assert theirs.item() == pytest.approx(backward)


def test_temperature_flattens_and_keeps_the_gradients_size():
    teacher, student = torch.randn(5, 8), torch.randn(5, 8)
    direct = divergences(teacher / 3, student / 3, direction="teacher_student") * 9
    warm = divergences(teacher, student, direction="teacher_student", temperature=3.0)
    torch.testing.assert_close(direct, warm)
    assert (divergences(teacher, teacher, direction="teacher_student") == 0).all()
    assert (warm >= 0).all()


def test_padding_does_not_count():
    values = torch.tensor([[1.0, 3.0, 100.0], [2.0, 100.0, 100.0]])
    mask = torch.tensor([[1.0, 1, 0], [0.0, 0, 0]])
    assert over_tokens(values, mask, reduce="mean").tolist() == [2.0, 0.0]
    assert over_tokens(values, mask, reduce="sum").tolist() == [4.0, 0.0]
    assert over_tokens(values, None, reduce="sum").tolist() == [104.0, 202.0]
    features = values.unsqueeze(-1)
    assert token_mean(features, mask).flatten().tolist() == [2.0, 0.0]
    assert token_mean(features, None)[:, 0, 0].tolist() == pytest.approx([104 / 3, 202 / 3])


def settings(**given):
    adapter = {"heads": 4, "hidden": 16, "dropout": 0.0} | given.pop("adapter", {})
    return SurSettings.model_validate({"preset": "paper", "adapter": adapter, **given})


def batch_of(data, *, dropout=0.0, size=3):
    return Batches(
        seed=0,
        skill="_sur",
        count=len(data.vectors),
        batch_size=size,
        latent=tuple(data.captions.mean.shape[1:]),
        train_timesteps=1000,
        caption_dropout=dropout,
        flip=False,
    ).at(0)


PATH = VariancePreserving(torch.linspace(0.99, 0.01, 1000), "epsilon")


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def world(request, tmp_path_factory):
    model = tiny.load(request.param)
    return model, encoded_samples(tmp_path_factory.mktemp("data"), model, request.param)


def gradients(learner, batch, name):
    """Block parameter → whether this loss moves it."""
    with learner.weights.attached() as parameters:
        losses = learner.losses(batch, PATH, step=1)
        each = (
            torch.autograd.grad(losses[name].mean(), list(parameters.values()), allow_unused=True)
            if losses[name].requires_grad
            else [None] * len(parameters)
        )
        return {
            n: g is not None and bool(g.abs().max() > 0)
            for n, g in zip(parameters, each, strict=True)
        }


def stirred(learner):
    """No weight at zero, as after the first steps."""
    with torch.no_grad():
        for weight in learner.weights.adapter.parameters():
            weight.add_(0.02 * torch.ones_like(weight))
    return learner


def test_denoising_trains_the_adapter_and_as_released_does_not(world):
    model, data = world
    batch = batch_of(data)
    sound = stirred(SurLearner(model, data, settings(), 0))
    moved = gradients(sound, batch, "denoising")
    assert all(moved.values()), [n for n, m in moved.items() if not m]
    fixed = SurLearner(model, data, settings(), 0)
    assert any(gradients(fixed, batch, "denoising").values())  # from the very first step
    released = settings(losses={"denoising": {"gradient": False}})
    moved = gradients(stirred(SurLearner(model, data, released, 0)), batch, "denoising")
    assert not any(moved.values())


def test_each_loss_reaches_what_it_is_meant_for(world):
    model, data = world
    learner, batch = stirred(SurLearner(model, data, settings(), 0)), batch_of(data)
    taught = gradients(learner, batch, "distillation")
    assert {n for n, m in taught.items() if m} == {n for n in taught if ".h3." in n}
    assert all(gradients(learner, batch, "alignment").values())


def test_a_learned_projection_learns(world):
    model, data = world
    learner = SurLearner(model, data, settings(llm={"projection": "learned"}), 0)
    moved = gradients(learner, batch_of(data), "distillation")
    assert moved["projection.weight"] and moved["projection.bias"]
    assert "projection.weight" not in gradients(
        SurLearner(model, data, settings(), 0), batch_of(data), "distillation"
    )


def test_the_total_is_the_weighted_sum(world):
    model, data = world
    losses = {"distillation": {"weight": 0.5}, "alignment": {"weight": 2.0}}
    learner = SurLearner(model, data, settings(losses=losses), 0)
    found = learner.losses(batch_of(data), PATH, step=1)
    torch.testing.assert_close(
        found["loss"],
        found["denoising"] + 0.5 * found["distillation"] + 2 * found["alignment"],
    )
    assert all(found[name].shape == (3,) for name in found)
    assert all((found[name] > 0).all() for name in found)


def alters_another(learner, data, batch):
    before = learner.losses(batch, PATH, step=1)
    indices = batch.indices.clone()
    indices[0] = (indices[0] + 1) % len(data.vectors)
    after = learner.losses(dataclasses.replace(batch, indices=indices), PATH, step=1)
    assert before["loss"][0] != after["loss"][0]
    return any(not torch.equal(before[n][1:], after[n][1:]) for n in before)


def test_one_sample_never_alters_anothers_loss(world):
    model, data = world
    with torch.no_grad():
        for form in ("paper", "released"):
            for preset in ("paper", "ours"):
                config = settings(preset=preset, adapter={"form": form})
                learner = stirred(SurLearner(model, data, config, 0))
                assert not alters_another(learner, data, batch_of(data))
        mixing = {"form": "released", "attention": "batch"}
        learner = stirred(SurLearner(model, data, settings(adapter=mixing), 0))
        assert alters_another(learner, data, batch_of(data))


def test_the_released_losses_are_theirs(world):
    """Their three lines, on one encoder: KL(student || teacher), summed over 77 tokens, over B."""
    model, data = world
    if data.keyword_pooled is not None:
        pytest.skip("the release knows no SDXL")
    learner = SurLearner(model, data, settings(preset="released"), 0)
    batch = batch_of(data)
    found = learner.losses(batch, PATH, step=1)
    i = batch.indices
    with torch.no_grad():
        made = learner.weights.adapter(data.captions.conditioning.text[i], None)
        target = learner.weights.projection(data.vectors[i]).unsqueeze(1).expand_as(made.queries[0])

    def kl(x, y):
        return torch.nn.functional.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean")

    torch.testing.assert_close(found["distillation"].mean(), kl(target, made.queries[0]))
    torch.testing.assert_close(found["alignment"].mean(), kl(data.keywords[i], made.text))
    total = found["denoising"] + 1e-5 * (found["distillation"] + found["alignment"])
    torch.testing.assert_close(found["loss"], total)


def test_dropped_captions_are_taught_to_denoise_alone(world):
    model, data = world
    learner = stirred(SurLearner(model, data, settings(), 0))
    found = learner.losses(batch_of(data, dropout=1.0), PATH, step=1)
    assert (found["distillation"] == 0).all() and (found["alignment"] == 0).all()
    assert any(gradients(learner, batch_of(data, dropout=1.0), "denoising").values())


def test_masks_and_pooling_change_what_is_compared(world):
    model, data = world
    seen = []
    for how in ({}, {"padding": "kept"}, {"tokens": "pooled"}, {"temperature": 4.0}):
        learner = stirred(SurLearner(model, data, settings(losses={"alignment": how}), 0))
        with torch.no_grad():
            seen.append(learner.losses(batch_of(data), PATH, step=1)["alignment"])
    assert all(not torch.allclose(a, b) for n, a in enumerate(seen) for b in seen[:n])


def test_dropout_depends_on_the_step_alone(world):
    model, data = world
    adapter = {"form": "released", "dropout": 0.5}
    learner, batch = stirred(SurLearner(model, data, settings(adapter=adapter), 0)), batch_of(data)
    with torch.no_grad():
        one, same, other = (learner.losses(batch, PATH, step=s)["loss"] for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def ours(model, data, **given):
    return stirred(SurLearner(model, data, settings(preset="ours", **given), 0))


def test_the_teacher_is_the_base_by_keyword_prompts(world):
    """With the keyword prompt for a caption and no change, the student is the teacher."""
    model, data = world
    captions = data.captions.conditioning
    same = dataclasses.replace(captions, text=data.keywords, pooled=data.keyword_pooled)
    twins = dataclasses.replace(
        data, captions=dataclasses.replace(data.captions, conditioning=same)
    )
    fresh = SurLearner(model, twins, settings(preset="ours"), 0)  # whose output is still zero
    with torch.no_grad():
        found = fresh.losses(batch_of(twins), PATH, step=1)
        assert (found["teacher"] < 1e-8).all() and (found["alignment"] < 1e-8).all()
        assert (found["denoising"] > 0.1).all()
        apart = SurLearner(model, data, settings(preset="ours"), 0).losses(
            batch_of(data), PATH, step=1
        )
    assert (apart["teacher"] > 1e-6).all() and (apart["alignment"] > 1e-6).all()


def test_each_of_our_losses_trains_what_it_is_meant_for(world):
    model, data = world
    batch = batch_of(data)
    learner = ours(model, data)
    assert all(gradients(learner, batch, "teacher").values())
    # Attention reads the tokens; SDXL's pooled vector goes to the time embedding.
    texts = tuple(f"blocks.{n}." for n in range(len(learner.weights.adapter.widths.text)))
    aligned = gradients(learner, batch, "alignment")
    assert {n for n, m in aligned.items() if m} == {n for n in aligned if n.startswith(texts)}
    taught = gradients(learner, batch, "distillation")
    assert {n for n, m in taught.items() if m and "bias" not in n} == {
        n for n in taught if ".h3.weight" in n
    }
    weightless = gradients(learner, batch, "loss")
    assert all(weightless.values())


def test_our_total_has_no_denoising_in_it(world):
    model, data = world
    found = ours(model, data).losses(batch_of(data), PATH, step=1)
    torch.testing.assert_close(
        found["loss"], found["teacher"] + 0.1 * (found["distillation"] + found["alignment"])
    )


def test_attention_is_aligned_by_the_layers_own_outputs(world):
    """What the hook compares is what each layer gives if it is called with the other text."""
    model, data = world
    learner = ours(model, data)
    batch = batch_of(data)
    scene = learner.scene(batch, PATH)
    keywords = learner.keywords(scene, batch)
    text = scene.captions.text + 0.3
    layers = cross_attentions(model.denoiser)
    seen = []

    def record(layer, given, named, output):
        seen.append((layer, given[0], dict(named), output))

    with torch.no_grad():
        handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
        plain = learner.predict(scene, keywords)
        for handle in handles:
            handle.remove()
        with attended(layers, text) as gaps:
            watched = learner.predict(scene, keywords)
        expected = []
        for layer, hidden, named, output in seen:
            other = layer(hidden, **{**named, "encoder_hidden_states": text})
            gap = (other - output).square().flatten(1).sum(1)
            expected.append(gap / output.square().flatten(1).sum(1))
    torch.testing.assert_close(torch.stack(gaps), torch.stack(expected))
    assert torch.equal(plain, watched)  # to be watched changes nothing
    assert not layers[0]._forward_hooks


def test_a_denoiser_without_cross_attention_is_told(world):
    with pytest.raises(ConfigError, match=r"alignment\.at"):
        cross_attentions(torch.nn.Linear(2, 2))


def test_what_is_common_to_all_captions_is_taken_away(world):
    """A change that is one vector for all prompts is none."""
    model, data = world
    learner = SurLearner(model, data, settings(preset="ours"), 0)
    with torch.no_grad():
        for block in learner.weights.adapter.blocks:
            block.g[-1].bias.fill_(3.0)
        references = learner.weights.changes_of_references()
        text, pooled = data.captions.conditioning.text, data.captions.conditioning.pooled
        adapted = learner.weights.adapter(text, pooled, references=references)
        torch.testing.assert_close(adapted.text, text)
        stirred(learner)
        references = learner.weights.changes_of_references()
        adapted = learner.weights.adapter(text, pooled, references=references)
        change = (adapted.text - text)[learner.weights.references]
        assert change.abs().max() > 1e-3
        torch.testing.assert_close(
            change.mean(dim=0), torch.zeros_like(change[0]), atol=1e-5, rtol=0
        )
        learner.weights.adapter.centre(references)
        assert torch.equal(learner.weights.adapter(text, pooled).text, adapted.text)


def test_likenesses_are_compared_and_not_vectors():
    """A student that turns and stretches its teacher's space sees the same prompts as alike."""
    stream = torch.Generator().manual_seed(0)
    teacher, others = torch.randn(4, 6, generator=stream), torch.randn(9, 6, generator=stream)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=stream))[0]
    twin = similarity_gaps(teacher, 3 * teacher @ turn + 1, others, 3 * others @ turn + 1)
    assert twin.abs().max() < 1e-10
    stranger = similarity_gaps(teacher, teacher.flip(0), others, others)
    assert (stranger > 1e-2).all()
    by_hand = []
    mean = others.mean(0)
    for t, s in zip(teacher, teacher.flip(0), strict=True):
        cosines = [
            [torch.cosine_similarity(x - mean, o - mean, dim=0) for o in others] for x in (t, s)
        ]
        by_hand.append(sum((a - b) ** 2 for a, b in zip(*cosines, strict=True)) / len(others))
    torch.testing.assert_close(stranger, torch.stack(by_hand))


def test_timesteps_count_by_what_a_prompt_decides_there(world):
    model, data = world
    even = ours(model, data, losses={"teacher": {"timesteps": "even"}})
    assert torch.equal(content_weights(even), torch.ones(1000))
    weights = content_weights(ours(model, data))
    assert weights.shape == (1000,) and weights.mean() == pytest.approx(1)
    assert torch.equal(weights, content_weights(ours(model, data)))  # and no chance in it
    assert weights.min() > 0 and weights.max() > 1.05 * weights.min()
    part = {"min_timestep": 400, "max_timestep": 600}
    some = content_weights(ours(model, data, training=part))
    assert some.shape == (600,) and some[400:].mean() == pytest.approx(1)
