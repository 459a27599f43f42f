"""OFT on a UNet: what is trained, that it turns, and that turning inputs and weights is one."""

import copy

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel

from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.lora import attach as attach_lora
from selma.adapters.rotations import coft, oft
from selma.adapters.rotations.cayley import cayley, skew, turned
from selma.adapters.rotations.energy import hyperspherical_energy
from selma.adapters.rotations.files import (
    MAGNITUDES,
    SKEW_ENTRIES,
    Turn,
    read_rotations,
    write_rotations,
)
from selma.adapters.table import ADAPTERS
from selma.config.adapters import CoftConfig, LoraConfig, OftConfig
from selma.errors import AdapterError, ConfigError

MADE = torch.Generator()


@pytest.fixture
def unet():
    return tiny.load("sd1").pipe.unet


def attached(unet, **settings):
    return oft.attach(unet, OftConfig(**settings), generator=MADE)


def filled(factors, scale=0.2, seed=0):
    """Random values in the trainable tensors."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in factors.values():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=made))
    return factors


def inputs(batch=2):
    made = torch.Generator().manual_seed(5)
    x = torch.randn(batch, 4, 8, 8, generator=made)
    text = torch.randn(batch, 24, 32, generator=made)
    return x, torch.tensor([10, 500][:batch]), text


def out(unet):
    with torch.no_grad():
        return unet(*inputs(), return_dict=False)[0]


# SD 1.5's own numbers, as its unet/config.json has them.
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
CONTROL_BRANCH = 1_086_480 + 2_050_560
"""Hint convolutions and the time embedding that the released code makes and never uses."""


@pytest.fixture(scope="module")
def sd15():
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15)


@pytest.mark.parametrize(
    ("blocks", "millions"), [(2, "29.5"), (4, "16.3"), (8, "9.7"), (16, "6.4")]
)
def test_parameters_of_sd15_are_the_readmes_table(sd15, blocks, millions):
    config = OftConfig(blocks=blocks, targets="attention+geglu")
    layers = list(oft.turned_layers(sd15, config))
    assert len(layers) == 144
    sides = [layer.in_features // blocks for _, layer in layers]
    formula = sum(blocks * side * (side - 1) // 2 for side in sides)
    try:
        factors = oft.attach(sd15, config, generator=MADE)
    finally:
        oft.detach(sd15)
    made = sum(parameter.numel() for parameter in factors.values())
    assert made == formula
    assert f"{(made + CONTROL_BRANCH) / 1e6:.1f}" == millions


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({"blocks": 2}, "23.25"),
        ({"blocks": 16}, "2.86"),
        ({"blocks": 4, "share_blocks": True, "targets": "attention+geglu"}, "3.29"),
        ({"block_size": 32, "targets": "attention"}, None),
    ],
)
def test_other_layouts_on_sd15(sd15, settings, millions):
    try:
        factors = attached(sd15, **settings)
    finally:
        oft.detach(sd15)
    made = sum(parameter.numel() for parameter in factors.values())
    if millions:
        assert f"{made / 1e6:.2f}" == millions
    else:
        assert {p.shape[1] for p in factors.values()} == {32 * 31 // 2}
        assert {p.shape[0] for p in factors.values()} == {10, 20, 24, 40}


def test_nothing_changes_at_first_and_nothing_is_left_behind(unet):
    before = out(unet)
    keys = unet.state_dict().keys()
    factors = attached(unet, magnitudes=True)
    assert torch.equal(out(unet), before)
    assert unet.state_dict().keys() == keys
    filled(factors)
    assert (out(unet) - before).abs().max() > 1e-3
    oft.detach(unet)
    assert torch.equal(out(unet), before)


@pytest.mark.parametrize("targets", ["attention", "attention+geglu"])
def test_the_targets_are_those_named(unet, targets):
    factors = attached(unet, targets=targets)
    oft.detach(unet)
    modules = {name.removesuffix(f".{SKEW_ENTRIES}") for name in factors}
    linears = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear)}
    attention = {n for n in linears if ".attn1." in n or ".attn2." in n}
    geglu = {n for n in linears if n.endswith("net.0.proj")}
    assert modules == (attention if targets == "attention" else attention | geglu)
    assert attention and geglu
    assert not any(p.requires_grad for p in unet.parameters())
    assert list(factors) == sorted(factors)


@pytest.mark.parametrize(
    "settings", [{"blocks": 5}, {"block_size": 5}, {"blocks": 32}, {"block_size": 64}]
)
def test_blocks_must_fill_the_layers(unet, settings):
    with pytest.raises(ConfigError, match="divide"):
        attached(unet, **settings)


SETTINGS = [
    {"blocks": 4},
    {"blocks": 1},
    {"block_size": 16, "share_blocks": True},
    {"blocks": 16, "targets": "attention+geglu"},
    {"blocks": 4, "magnitudes": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_gradient_is_that_of_plain_mathematics(settings, monkeypatch):
    """The written-out backward pass against autograd through Cayley and W Rᵀ, in float64."""
    layer = torch.nn.Linear(32, 7).double()
    config = OftConfig(**settings)
    blocks = config.blocks_of(32)
    rows, size = 1 if config.share_blocks else blocks, 32 // blocks
    vector = (0.3 * torch.randn(rows, size * (size - 1) // 2).double()).requires_grad_()
    scales = (0.3 * torch.randn(7).double()).requires_grad_() if config.magnitudes else None
    x = torch.randn(3, 5, 32).double().requires_grad_()

    weight = turned(layer.weight, cayley(skew(vector)))
    if scales is not None:
        weight = scales.exp()[:, None] * weight
    wanted = torch.nn.functional.linear(x, weight, layer.bias)
    loss = torch.randn_like(wanted)
    leaves = [one for one in (x, vector, scales) if one is not None]
    theirs = torch.autograd.grad((wanted * loss).sum(), leaves)

    for few in (oft.FEW_BLOCKS, 0):
        monkeypatch.setattr(oft, "FEW_BLOCKS", few)
        found = oft._Turned(layer, vector, scales)(x)
        torch.testing.assert_close(found, wanted)
        ours = torch.autograd.grad((found * loss).sum(), leaves)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_a_step_agrees_with_pefts(unet):
    """The same loss and gradients as PEFT's exact branch, whose generator has the other sign."""
    import peft

    other = copy.deepcopy(unet)
    config = peft.OFTConfig(
        r=4,
        oft_block_size=0,
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        use_cayley_neumann=False,
    )
    wrapped = peft.get_peft_model(other, config)
    factors = filled(attached(unet))
    theirs = {
        name.split("base_model.model.")[1].replace(".oft_R.default.weight", f".{SKEW_ENTRIES}"): p
        for name, p in wrapped.named_parameters()
        if p.requires_grad
    }
    assert theirs.keys() == factors.keys()
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(-factors[name])
    losses = []
    for model in (unet, wrapped):
        loss = model(*inputs(), return_dict=False)[0].square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, parameter in theirs.items():
        gradient = factors[name].grad
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, -parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("radius", ["paper", "released", "peft"])
@pytest.mark.parametrize("shared", [False, True])
def test_coft_holds_its_radius(unet, radius, shared):
    config = CoftConfig(eps=1e-3, radius=radius, share_blocks=shared)
    factors = filled(oft.attach(unet, config, generator=MADE), scale=10.0)
    coft.after_step(unet, factors, config)
    for name, vector in factors.items():
        layer = unet.get_submodule(name.removesuffix(f".{SKEW_ENTRIES}"))
        limit = coft.radius_of(config, layer.in_features)
        norms = torch.linalg.matrix_norm(skew(vector.detach()))
        torch.testing.assert_close(norms, torch.full_like(norms, limit))
        if radius == "paper":
            whole = cayley(skew(vector.detach())) - torch.eye(8)
            copies = 4 if shared else 1
            assert float(whole.norm()) * copies**0.5 <= 1e-3 * (1 + 1e-5)
    free = filled(attached(unet), scale=10.0)
    kept = {name: vector.detach().clone() for name, vector in free.items()}
    ADAPTERS["oft"].after_step(unet, free, OftConfig())
    assert all(torch.equal(kept[name], free[name]) for name in kept)


def saved(unet, path, *, seed=0, scale=0.2, **settings):
    config = OftConfig(**settings)
    factors = filled(oft.attach(unet, config, generator=MADE), seed=seed, scale=scale)
    oft.save(path, factors, config, lineage=Lineage(base="b" * 64))
    oft.detach(unet)
    return read_rotations(path)


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_is_trained_on_inputs_is_what_the_file_does_to_weights(unet, tmp_path, settings):
    plain = out(unet)
    config = OftConfig(**settings)
    factors = filled(oft.attach(unet, config, generator=MADE))
    trained = out(unet)
    oft.save(tmp_path / "a.safetensors", factors, config, lineage=Lineage())
    oft.detach(unet)
    assert torch.equal(out(unet), plain)
    for key, change in oft.weight_changes(read_rotations(tmp_path / "a.safetensors")).items():
        weight = unet.get_parameter(key.removeprefix("unet.") + ".weight")
        weight.data.copy_(change(weight.data))
    assert (out(unet) - plain).abs().max() > 1e-2
    torch.testing.assert_close(out(unet), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.3, 1.0, 3.0])
def test_the_slider_stays_orthogonal(unet, tmp_path, strength):
    file = saved(unet, tmp_path / "a.safetensors")
    for key in file.layers[:2]:
        weight = unet.get_parameter(key.removeprefix("unet.") + ".weight").detach()
        after = file.turn(key).scaled(strength).changed(weight)
        torch.testing.assert_close(after @ after.mT, weight @ weight.mT, rtol=1e-4, atol=1e-5)
        if strength:
            assert (after - weight).abs().max() > 1e-3
        else:
            assert torch.equal(after, weight)
        if strength == -1:
            back = file.turn(key).changed(after)
            torch.testing.assert_close(back, weight, rtol=1e-4, atol=1e-6)


def test_energies_stay(unet, tmp_path):
    file = saved(unet, tmp_path / "a.safetensors", magnitudes=True)
    found = oft.energies(unet, file.path)
    assert len(found["layers"]) == len(file.layers)
    name, first = next(iter(found["layers"].items()))
    weight = unet.get_parameter(f"{name}.weight")
    assert first["before"] == hyperspherical_energy(weight)
    for one in (*found["layers"].values(), found["all"]):
        assert one["before"] > 0
        assert one["after"] == pytest.approx(one["before"], rel=1e-4)
    assert found["all"]["before"] == pytest.approx(
        sum(o["before"] for o in found["layers"].values())
    )


def test_another_models_rotations_are_refused(tmp_path):
    model = tiny.load("sd1")
    before = {name: value.clone() for name, value in model.pipe.unet.state_dict().items()}
    wide = {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": Turn(torch.zeros(3, 15))}
    unknown = {"unet.mid_block.attentions.7.to_q": Turn(torch.zeros(4, 28))}
    scales = {next(iter(wide)): Turn(log_magnitudes=torch.zeros(7))}
    conv = {"unet.conv_in": Turn(torch.zeros(1, 6))}
    for number, layers in enumerate((wide, unknown, scales, conv)):
        path = tmp_path / f"{number}.safetensors"
        write_rotations(path, layers, lineage=Lineage())
        with pytest.raises(AdapterError), applied(model, chosen([path])):
            pass
        after = model.pipe.unet.state_dict()
        assert all(torch.equal(before[name], value) for name, value in after.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_rotations(unet, dtype):
    """x + x (R - I) in half precision is nearer to the truth than x R would be."""
    vector = 1e-4 * torch.randn(4, 28)
    x = torch.randn(64, 32)
    truth = x.to(dtype).double() @ turned(torch.eye(32).double(), cayley(skew(vector.double()))).mT
    got = oft._Rotated.apply(x.to(dtype), vector)
    assert got.dtype == dtype
    assert (got.double() - truth).abs().max() <= torch.finfo(dtype).eps * 4


def test_lora_and_oft_are_of_one_shape(unet):
    """What the loop is handed: names below the UNet, float32, sorted, trainable."""
    each = [attached(unet, magnitudes=True)]
    oft.detach(unet)
    each.append(attach_lora(unet, LoraConfig(rank=2), generator=MADE))
    for factors in each:
        assert list(factors) == sorted(factors)
        assert all(p.dtype == torch.float32 and p.requires_grad for p in factors.values())
    assert {name.rpartition(".")[2] for name in each[0]} == {SKEW_ENTRIES, MAGNITUDES}
