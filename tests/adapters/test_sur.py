"""The SUR-adapter by itself: what must always hold, and what the released form lacks."""

import json
import struct

import pytest
import torch
from applications.sur.sur_data import Released
from torch import nn

from selma.adapters.files import Lineage
from selma.adapters.sur import files as sur_files
from selma.adapters.sur import network as sur
from selma.adapters.sur.network import Widths
from selma.adapters.sur.projection import principal, projection
from selma.config.adapters import SurConfig
from selma.errors import AdapterError, ModelError

SMALL = {"heads": 4, "hidden": 24}
PAPER = SurConfig(form="paper")
SOUND = SurConfig(form="released", **SMALL)
RELEASED = SurConfig(
    form="released", mix="shared", attention="batch", weight=0.1, centred=False, **SMALL
)
SDXL = Widths((16, 24), 24)


def trained(config, widths=SDXL, *, seed=0):
    """An adapter whose every weight is random, in training mode, without dropout's chance."""
    adapter = sur.make(config.model_copy(update={"dropout": 0.0}), widths, tokens=7, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    return adapter


def features(widths=SDXL, *, b=3, tokens=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    pooled = widths.pooled and torch.randn(b, widths.pooled, generator=generator)
    return torch.randn(b, tokens, sum(widths.text), generator=generator), pooled


@pytest.mark.parametrize("config", [PAPER, SOUND], ids=["paper", "released form"])
@pytest.mark.parametrize("widths", [Widths((16,)), SDXL], ids=["sd", "sdxl"])
def test_at_the_start_nothing_changes(config, widths):
    text, pooled = features(widths)
    made = sur.make(config, widths, tokens=7, seed=0)(text, pooled)
    assert torch.equal(made.text, text)
    assert made.pooled is pooled is None or torch.equal(made.pooled, pooled)
    assert [q.shape[-1] for q in made.queries] == list(widths.all)


def test_as_released_the_start_is_no_identity():
    text, _ = features(Widths((16,)))
    made = sur.make(RELEASED, Widths((16,)), tokens=7, seed=0).eval()(text, None).text
    assert not torch.allclose(made, text, atol=1e-3)
    moved = made - (1 - RELEASED.weight) * text
    assert moved.abs().max() < 0.1  # nine tenths of x, and a tenth of a random bias
    assert moved.std(dim=(0, 1)).max() < 1e-6


@pytest.mark.parametrize("config", [PAPER, SOUND, RELEASED], ids=["paper", "sound", "released"])
def test_strength_zero_is_the_base_whatever_was_learned(config):
    adapter = trained(config)
    text, pooled = features()
    made = adapter(text, pooled, strength=0.0)
    assert torch.equal(made.text, text) and torch.equal(made.pooled, pooled)
    assert not torch.equal(adapter(text, pooled).text, text)


def changes_another(config):
    """Whether another prompt in the batch alters a prompt's features."""
    adapter, (text, pooled) = trained(config), features()
    before = adapter(text, pooled)
    other = text.clone()
    other[0] = 5.0
    after = adapter(other, pooled)
    assert not torch.equal(before.text[0], after.text[0])
    return not torch.equal(before.text[1:], after.text[1:])


def test_one_prompt_never_alters_another():
    assert not changes_another(PAPER)
    assert not changes_another(SOUND)
    assert changes_another(RELEASED)  # the release's encoder attends to the batch


@pytest.mark.parametrize("config", [PAPER, SOUND], ids=["paper", "released form"])
def test_tokens_of_one_prompt_do_see_one_another(config):
    adapter, (text, pooled) = trained(config), features()
    other = text.clone()
    other[0, 0] += 1.0
    change = (adapter(other, pooled).text - adapter(text, pooled).text)[0, 1:]
    assert change.abs().max() > 1e-4


def test_a_prompt_alone_is_as_in_a_batch():
    for config in (PAPER, SOUND):
        adapter, (text, pooled) = trained(config), features()
        whole = adapter(text, pooled)
        for n in range(len(text)):
            alone = adapter(text[n : n + 1], pooled[n : n + 1])
            torch.testing.assert_close(alone.text[0], whole.text[n])
            torch.testing.assert_close(alone.pooled[0], whole.pooled[n])


def test_evaluation_gives_the_same_twice_and_training_does_not():
    adapter, (text, pooled) = sur.make(SOUND, SDXL, tokens=7, seed=0), features()
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.1)
    adapter.eval()
    assert torch.equal(adapter(text, pooled).text, adapter(text, pooled).text)
    adapter.train()  # how the released demonstration draws
    assert not torch.equal(adapter(text, pooled).text, adapter(text, pooled).text)


def test_sdxls_encoders_are_adapted_apart():
    adapter, (text, pooled) = trained(PAPER), features()
    other = text.clone()
    other[..., :16] += 1.0
    before, after = adapter(text, pooled), adapter(other, pooled)
    assert torch.equal(before.text[..., 16:], after.text[..., 16:])
    assert torch.equal(before.pooled, after.pooled)


def test_the_released_mathematics_is_theirs():
    """Against the equations, written out by PyTorch's own parts: post-norm, one head, √d."""
    adapter, (text, _) = trained(RELEASED, Widths((16,))), features(Widths((16,)))
    state = {n.removeprefix("blocks.0."): t for n, t in adapter.state_dict().items()}
    layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    encoder.load_state_dict(
        {n.removeprefix("transformer_encoder."): t for n, t in state.items() if n[0] == "t"}
    )
    linear = nn.functional.linear

    def of(name, x):
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    encoded = encoder(text)
    q, k = of("attention.query_layer", encoded), of("attention.key_layer", text)
    attended = nn.functional.scaled_dot_product_attention(q, k, text) + text
    hidden = of("attention.output_layer.0", attended).relu()
    a = of("attention.output_layer.2", hidden) + attended
    torch.testing.assert_close(adapter(text, None).text, 0.1 * of("fc", a) + 0.9 * text)


def test_half_precision_comes_back_as_it_went():
    adapter, (text, pooled) = trained(PAPER), features()
    with torch.autocast("cpu", torch.bfloat16):
        made = adapter(text.bfloat16(), pooled.bfloat16())
    assert made.text.dtype == made.pooled.dtype == torch.bfloat16
    assert made.queries[0].dtype == torch.float32
    wide = adapter(text.bfloat16().float(), pooled.bfloat16().float())
    assert torch.equal(made.text, wide.text.bfloat16())


def test_equal_seeds_give_equal_weights_and_leave_chance_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, same, other = (sur.make(SOUND, SDXL, tokens=7, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(AdapterError, match="heads"):
        sur.make(SurConfig(form="released"), Widths((12,)), tokens=7, seed=0)


# Files


def saved(path, adapter, **tensors):
    sur_files.save(
        path,
        adapter.state_dict() | tensors,
        adapter.config,
        adapter.widths,
        lineage=Lineage(base="f" * 64, made_by={"step": 1}),
        settings={"projection": "random"},
    )
    return path


@pytest.mark.parametrize("config", [PAPER, SOUND, RELEASED], ids=["paper", "sound", "released"])
def test_a_file_holds_the_whole_adapter(tmp_path, config):
    adapter = trained(config.model_copy(update={"weight": 0.3}))
    linear = projection("random", torch.randn(4, 6), 64, seed=3)
    more = {"projection.weight": linear.weight, "projection.bias": linear.bias}
    path = saved(tmp_path / sur_files.FILE, adapter, **more)
    found = sur_files.load(tmp_path)  # a folder will do
    text, pooled = features()
    assert not found.adapter.training
    adapter.eval().requires_grad_(False)  # PyTorch's encoder takes another path with gradients
    assert torch.equal(found.adapter(text, pooled).text, adapter(text, pooled).text)
    assert found.adapter.config.weight == 0.3  # the released code keeps it in a folder's name
    assert torch.equal(found.projection["weight"], linear.weight)
    assert found.lineage.base == "f" * 64 and found.settings["projection"] == "random"
    again = saved(tmp_path / "again.safetensors", adapter, **more)
    assert again.read_bytes() == path.read_bytes()


def test_broken_and_foreign_files_are_refused(tmp_path):
    path = saved(tmp_path / sur_files.FILE, trained(PAPER))
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])

    def written(**metadata):
        changed = json.dumps({**header, "__metadata__": metadata}).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])

    settings = json.loads(header["__metadata__"]["sur"])
    written(sur=json.dumps(settings | {"widths": {"text": [16], "pooled": None}}))
    with pytest.raises(AdapterError, match="blocks"):
        sur_files.load(path)
    written(sur=json.dumps({"adapter": settings["adapter"]}))
    with pytest.raises(AdapterError, match="settings"):
        sur_files.load(path)
    written()
    with pytest.raises(AdapterError, match="settings"):
        sur_files.load(path)
    path.write_bytes(data[:-4])
    with pytest.raises(AdapterError):
        sur_files.load(path)
    with pytest.raises(AdapterError):
        sur_files.load(tmp_path / "nothing.safetensors")
    with pytest.raises(AdapterError, match="sur convert"):
        sur_files.load(tmp_path / "adapter.pt")


@pytest.fixture
def released(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "adapter_checkpoint1000.pt"
    torch.save(Released().state_dict(), path)
    return path


def test_released_checkpoints_load_with_their_unused_parts(released):
    adapter = sur_files.load_released(released, weight=0.1)
    theirs = torch.load(released, weights_only=True)
    assert adapter.config == SurConfig(
        form="released", mix="shared", attention="batch", weight=0.1, centred=False, hidden=24
    )
    mine = {n.removeprefix("blocks.0."): t for n, t in adapter.state_dict().items()}
    assert mine.keys() == {n for n in theirs if not n.startswith(sur_files.UNUSED)}
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert not adapter.training


def test_released_checkpoints_become_our_file(released, tmp_path):
    path = sur_files.convert_released(released, tmp_path / "out", weight=0.2, attention="tokens")
    found = sur_files.load(path).adapter
    assert (found.config.weight, found.config.attention) == (0.2, "tokens")
    text, _ = features(Widths((16,)))
    made = sur_files.load_released(released, weight=0.2, attention="tokens")(text, None)
    assert torch.equal(found(text, None).text, made.text)


@pytest.mark.parametrize("change", ["missing", "left over", "shape", "unused", "code"])
def test_other_checkpoints_are_refused(released, change):
    state = torch.load(released, weights_only=True)
    match change:
        case "missing":
            del state["fc.bias"]
        case "left over":
            state["more.weight"] = torch.zeros(2)
        case "shape":
            state["fc.weight"] = torch.zeros(16, 8)
        case "unused":
            state["attention.value_layer.weight"] = torch.zeros(3)
        case "code":
            state = Released()  # a pickled class would be imported and run
    torch.save(state, released)
    with pytest.raises((AdapterError, ModelError)):
        sur_files.load_released(released, weight=0.1)


# Projection


def test_principal_components_are_those_of_the_covariance():
    vectors = torch.randn(40, 6, dtype=torch.float64) @ torch.diag(
        torch.tensor([9.0, 5, 3, 2, 1, 0.5], dtype=torch.float64)
    )
    weight, bias = principal(vectors.float(), 4)
    made = (vectors.float() @ weight.T + bias).double()
    assert made.mean(dim=0).abs().max() < 1e-5
    share = made.var(dim=0)
    whole = torch.linalg.eigvalsh(torch.cov(vectors.T)).flip(0)[:4]
    torch.testing.assert_close(share, whole / whole[0], atol=1e-4, rtol=1e-3)
    again, _ = principal(-vectors.float(), 4)
    torch.testing.assert_close(again, weight, atol=1e-4, rtol=1e-3)  # signs are not chance


def test_fewer_directions_than_width_leave_zeros():
    weight, bias = principal(torch.randn(3, 5), 8)
    assert weight.shape == (8, 5) and bias.shape == (8,)
    assert (weight[2:] == 0).all() and (weight[:2] != 0).any(dim=1).all()  # three points, a plane
    flat, _ = principal(torch.ones(3, 5), 2)
    assert (flat == 0).all()


def test_projections_by_name():
    vectors = torch.randn(5, 6)
    made = {kind: projection(kind, vectors, 8, seed=1) for kind in ("learned", "pca", "random")}
    assert [k for k, m in made.items() if m.weight.requires_grad] == ["learned"]
    same = projection("random", vectors, 8, seed=1)
    assert torch.equal(same.weight, made["random"].weight)
    other = projection("random", vectors, 8, seed=2)
    assert not torch.equal(other.weight, made["random"].weight)
    # As released, no seed brings it back.
    one, two = (projection("released", vectors, 8, seed=1) for _ in range(2))
    assert not torch.equal(one.weight, two.weight)
