"""Rotations on disk: our file, PEFT's folder, and the layouts of others, in and out or refused."""

import json
import shutil

import pytest
import safetensors.torch
import tiny
import torch

from selma.adapters import names
from selma.adapters.applying import applied, chosen
from selma.adapters.converting import convert
from selma.adapters.files import Lineage, given, write_adapter
from selma.adapters.fusing import fuse
from selma.adapters.models import read_model
from selma.adapters.rotations import oft
from selma.adapters.rotations.cayley import cayley, skew, skew_of, triangle, turned
from selma.adapters.rotations.files import (
    ROTATION_KEY,
    Turn,
    read_rotations,
    write_rotations,
)
from selma.adapters.rotations.foreign import is_rotation, read_any_rotations
from selma.backbones.text_to_image import ADAPTER_FILE, ROTATION_FILE, load_text_to_image
from selma.config.adapters import OftConfig
from selma.config.networks import BaseConfig
from selma.errors import AdapterError, ConfigError

ENDINGS = ("to_q", "to_k", "to_v", "to_out.0")
BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
KEY = f"{BLOCK}.attn1.to_q"


def layers(*, rows=4, size=8, scale=0.2, seed=0, magnitudes=False):
    """Random turns of every attention projection of the tiny SD 1, whose widths are 32."""
    made = torch.Generator().manual_seed(seed)
    found = {}
    for key in sorted(read_model(str(tiny.folder("sd1"))).shapes):
        if key.startswith("unet.") and key.endswith(ENDINGS):
            vector = scale * torch.randn(rows, size * (size - 1) // 2, generator=made)
            logs = 0.1 * torch.randn(32, generator=made) if magnitudes else None
            found[key] = Turn(skew_entries=vector, log_magnitudes=logs)
    return found


def written(path, turns=None, **settings):
    write_rotations(path, layers(**settings) if turns is None else turns, lineage=Lineage("b" * 64))
    return path


def inputs():
    made = torch.Generator().manual_seed(5)
    text = torch.randn(2, 24, 32, generator=made)
    return torch.randn(2, 4, 8, 8, generator=made), torch.tensor([10, 500]), text


def out(unet):
    with torch.no_grad():
        return unet(*inputs(), return_dict=False)[0]


def turned_out(place, **more):
    """What the tiny UNet gives with the rotations at `place` in its weights."""
    model = tiny.load("sd1")
    file = read_any_rotations(place, base=read_model(str(tiny.folder("sd1"))).layers, **more)
    for key, change in oft.weight_changes(file).items():
        weight = model.pipe.unet.get_parameter(names.split(key)[1] + ".weight")
        weight.data.copy_(change(weight.data))
    return out(model.pipe.unet)


def same(one, other):
    return one.layers == other.layers and all(
        a.keys() == b.keys() and all(torch.equal(a[role], b[role]) for role in a)
        for key in one.layers
        for a, b in [(one.turn(key).tensors, other.turn(key).tensors)]
    )


def test_our_file_comes_back_bit_for_bit_and_equal_bytes(tmp_path):
    turns = layers(magnitudes=True)
    turns[KEY] = Turn(mixture=torch.randn(4, 8, 8), low_rank=(torch.ones(1, 32), torch.ones(32, 1)))
    a, b = (written(tmp_path / f"{name}.safetensors", turns) for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    file = read_rotations(a)
    assert set(file.layers) == set(turns) and file.lineage.base == "b" * 64
    for key, turn in turns.items():
        back = file.turn(key).tensors
        assert back.keys() == turn.tensors.keys()
        assert all(torch.equal(back[role], turn.tensors[role]) for role in back)
    again = convert(a, tmp_path / "c.safetensors", to="selma")
    assert again[0].read_bytes() == a.read_bytes()


def rewritten(path, tensors=None, about=None):
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if about is not None:
        metadata[ROTATION_KEY] = about
    found = safetensors.torch.load_file(path) if tensors is None else tensors
    safetensors.torch.save_file(found, path, metadata)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({f"{KEY}.oft_generator": torch.full((4, 28), torch.nan)}), "finite"),
        (lambda t: t.update({f"{KEY}.oft_generator": torch.ones(4, 27)}), "b \\(b - 1\\)"),
        (lambda t: t.update({f"{KEY}.oft_generator": torch.ones(4, 2, 7)}), "cannot be"),
        (lambda t: t.update({f"{KEY}.oft_mixture": torch.ones(4, 8, 8)}), "cannot be all"),
        (lambda t: t.update({f"{KEY}.lora_A.weight": torch.ones(4, 8)}), "cannot be all"),
        (lambda t: t.update({"text_encoder.x.oft_generator": torch.ones(4, 28)}), "denoiser alone"),
        (lambda t: t.update({f"{KEY}.bias": torch.ones(4)}), "must hold rotations"),
        (lambda t: t.update({f"{KEY}.oft_generator": torch.ones(4, 28).int()}), "float"),
    ],
)
def test_bad_tensors_are_refused(tmp_path, change, says):
    path = written(tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    rewritten(path, tensors)
    with pytest.raises(AdapterError, match=says):
        file = read_rotations(path)
        for key in file.layers:
            file.turn(key)


@pytest.mark.parametrize(
    "about",
    ["", "[]", "{}", json.dumps({"cayley": "(I-S)(I+S)^-1", "side": "input", "version": 1})],
)
def test_a_header_that_does_not_say_what_the_numbers_mean_is_refused(tmp_path, about):
    path = written(tmp_path / "a.safetensors")
    rewritten(path, about=about)
    with pytest.raises(AdapterError, match="what its numbers mean"):
        read_rotations(path)


def test_truncated_and_empty_files_are_refused(tmp_path):
    path = written(tmp_path / "a.safetensors")
    data = path.read_bytes()
    for place in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:place])
        with pytest.raises(AdapterError):
            read_any_rotations(path)
    written(path, {})
    with pytest.raises(AdapterError, match="at least one layer"):
        read_rotations(path)


def peft_folder(folder, *, init=True, **settings):
    """A folder that PEFT wrote, and what its model gives."""
    import peft

    unet = tiny.load("sd1").pipe.unet
    torch.manual_seed(1)
    config = peft.OFTConfig(
        target_modules=list(ENDINGS),
        init_weights=not init,
        **{"r": 4, "oft_block_size": 0, "use_cayley_neumann": False} | settings,
    )
    model = peft.get_peft_model(unet, config)
    model.save_pretrained(folder)
    model.eval()
    return out(model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 0, "oft_block_size": 16},
        {"block_share": True},
        {"coft": True, "eps": 0.05},
        {"coft": True, "eps": 0.05, "block_share": True},
        {"use_cayley_neumann": True, "coft": True, "eps": 0.03},  # so small that both agree
    ],
)
def test_what_peft_wrote_turns_as_peft_turns_it(tmp_path, settings):
    theirs = peft_folder(tmp_path, **settings)
    assert is_rotation(tmp_path) and is_rotation(tmp_path / "adapter_model.safetensors")
    found = turned_out(tmp_path)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
    assert (found - out(tiny.load("sd1").pipe.unet)).abs().max() > 1e-5


def test_pefts_truncated_series_is_refused_with_its_error(tmp_path):
    peft_folder(tmp_path, use_cayley_neumann=True)
    with pytest.raises(AdapterError, match="use_cayley_neumann=False"):
        turned_out(tmp_path)


@pytest.mark.parametrize(
    "change", [{"bias": "all"}, {"peft_type": "BOFT"}, {"modules_to_save": ["x"]}, {"new": 1}]
)
def test_pefts_settings_that_change_the_meaning_are_refused(tmp_path, change):
    peft_folder(tmp_path)
    place = tmp_path / "adapter_config.json"
    settings = json.loads(place.read_text())
    place.write_text(json.dumps(settings | change))
    with pytest.raises(AdapterError):
        read_any_rotations(tmp_path)
    del settings["oft_block_size"]
    place.write_text(json.dumps(settings))
    with pytest.raises(AdapterError, match=r"0\.14"):
        read_any_rotations(tmp_path)


@pytest.mark.parametrize("layout", [{}, {"rows": 2, "size": 16}, {"rows": 1, "size": 8}])
def test_ours_as_a_peft_folder_is_the_same_to_peft(tmp_path, layout):
    import peft

    ours = written(tmp_path / "a.safetensors", **layout)
    assert len(convert(ours, tmp_path / "theirs", to="peft")) == 2
    model = peft.PeftModel.from_pretrained(tiny.load("sd1").pipe.unet, tmp_path / "theirs").eval()
    torch.testing.assert_close(out(model), turned_out(ours), rtol=1e-4, atol=1e-5)
    back = read_any_rotations(tmp_path / "theirs")
    assert same(read_rotations(ours), back)
    assert back.lineage.base == "b" * 64


def base_of_two_widths(path):
    """A folder with a tiny UNet whose attention is 32 and 64 wide, and that UNet."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(tiny.folder("sd1"), path)
    torch.manual_seed(2)
    settings = UNet2DConditionModel.load_config(path / "unet")
    unet = UNet2DConditionModel.from_config(settings | {"block_out_channels": (32, 64)})
    unet.save_pretrained(path / "unet")
    return unet.eval()


@pytest.mark.parametrize(
    ("settings", "r"), [({"blocks": 1}, 1), ({"blocks": 4, "share_blocks": True}, 4)]
)
def test_one_block_a_layer_of_any_width_is_the_same_to_peft(tmp_path, settings, r):
    import peft

    base = tmp_path / "base"
    unet = base_of_two_widths(base)
    config = OftConfig(**settings)
    factors = oft.attach(unet, config, generator=torch.Generator())
    with torch.no_grad():
        for parameter in factors.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    wanted = out(unet)
    ours = tmp_path / "a.safetensors"
    oft.save(ours, factors, config, lineage=Lineage())
    oft.detach(unet)
    with pytest.raises(AdapterError, match="--base"):
        convert(ours, tmp_path / "theirs", to="peft")
    convert(ours, tmp_path / "theirs", to="peft", base=str(base))
    said = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert (said["r"], said["oft_block_size"], said["block_share"]) == (r, 0, True)
    model = peft.PeftModel.from_pretrained(unet, tmp_path / "theirs").eval()
    torch.testing.assert_close(out(model), wanted, rtol=1e-4, atol=1e-5)
    assert same(read_rotations(ours), read_any_rotations(tmp_path / "theirs"))


def test_what_peft_cannot_say_is_refused(tmp_path):
    ours = written(tmp_path / "a.safetensors", magnitudes=True)
    with pytest.raises(AdapterError, match="only rotates"):
        convert(ours, tmp_path / "theirs", to="peft")
    mixed = layers() | {KEY: Turn(skew_entries=torch.ones(2, 120))}
    ours = written(tmp_path / "b.safetensors", mixed)
    with pytest.raises(AdapterError, match="one number of blocks"):
        convert(ours, tmp_path / "theirs", to="peft")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("to", "says"),
    [("kohya", "output side"), ("onetrainer", "series"), ("diffusers", "selma, peft")],
)
def test_other_layouts_are_refused_with_the_reason(tmp_path, to, says):
    with pytest.raises(AdapterError, match=says):
        convert(written(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", to=to)


def in_kohyas_names(ending, tensors):
    return {
        f"lora_unet_{names.split(key)[1].replace('.', '_')}{ending}": tensor
        for key, tensor in tensors.items()
    }


def test_kohyas_oft_is_refused_with_the_reason(tmp_path):
    blocks = in_kohyas_names(".oft_blocks", {KEY: torch.zeros(4, 8, 8)})
    path = tmp_path / "kohya.safetensors"
    theirs = {name.replace("lora_unet", "oft_unet"): tensor for name, tensor in blocks.items()}
    safetensors.torch.save_file(theirs, path)
    assert is_rotation(path)
    with pytest.raises(AdapterError, match="output side"):
        read_any_rotations(path)


@pytest.mark.parametrize("scale", [1e-3, 0.2])
def test_onetrainers_series_is_read_where_it_is_the_rotation(tmp_path, scale):
    turns = layers(scale=scale)
    vectors = {key: turn.skew_entries for key, turn in turns.items()}
    path = tmp_path / "one.safetensors"
    safetensors.torch.save_file(in_kohyas_names(".oft_R.weight", vectors), path)
    if scale > 0.1:
        with pytest.raises(AdapterError, match="no rotation"):
            turned_out(path)
        return
    ours = turned_out(written(tmp_path / "a.safetensors", turns))
    torch.testing.assert_close(turned_out(path), ours)
    theirs = in_kohyas_names(".oft_R.weight", vectors)
    theirs |= in_kohyas_names(".oft_R.scaled_oft", {KEY: torch.tensor(1)})
    safetensors.torch.save_file(theirs, tmp_path / "scaled.safetensors")
    with pytest.raises(AdapterError, match="scaled_oft"):
        turned_out(tmp_path / "scaled.safetensors")


class Released(torch.nn.Module):
    """The released linear layer, written anew from its description (method facts, section 2)."""

    def __init__(self, weight, r, *, eps=None, scales=None):
        super().__init__()
        self.weight, self.r, self.eps, self.scales = weight, r, eps, scales

    def forward_weight(self, *, flipped_when_shared):
        r, shared = self.r.clone(), self.r.dim() == 2
        b = r.shape[-1]
        if self.eps is not None:
            radius = self.eps * b * b / (1 if shared else len(r) ** 0.5)
            norms = r.norm() if shared else r.flatten(1).norm(dim=1)[:, None, None]
            r = torch.where(norms <= radius, r, radius * r / norms)
        s, eye = (r - r.mT) / 2, torch.eye(b)
        if shared and flipped_when_shared:
            q = (eye + s) @ torch.linalg.inv(eye - s)
        else:
            q = (eye - s) @ torch.linalg.inv(eye + s)
        count = self.weight.shape[1] // b
        blocks = [q] * count if shared else list(q)
        weight = (torch.block_diag(*blocks) @ self.weight.mT).mT
        return weight if self.scales is None else weight * self.scales


def released_r(seed=0, shared=False):
    r = 0.5 * torch.randn(
        *(() if shared else (4,)), 8, 8, generator=torch.Generator().manual_seed(seed)
    )
    return r - r.mT


def weight_of(key):
    return tiny.load("sd1").pipe.unet.get_parameter(f"{names.split(key)[1]}.weight").detach()


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_the_released_subject_and_style_files_are_read(tmp_path, kind, eps):
    stem = f"{BLOCK}.attn1.processor".removeprefix("unet.")
    state, wanted = {}, {}
    for number, to in enumerate(("to_q", "to_k", "to_v", "to_out")):
        state[f"{stem}.{to}_oft.R"] = released_r(number)
        if eps is not None:  # oft-t2i has these beside it, oft-db has not
            state[f"{stem}.{to}_oft.oft_eps"] = torch.tensor(eps)
            state[f"{stem}.{to}_oft.oft_is_coft"] = torch.tensor(True)
            state[f"{stem}.{to}_oft.hidden_size"] = torch.tensor(32)
        key = f"{BLOCK}.attn1.{'to_out.0' if to == 'to_out' else to}"
        layer = Released(weight_of(key), released_r(number), eps=eps)
        wanted[key] = layer.forward_weight(flipped_when_shared=False)
    path = tmp_path / f"pytorch_oft_weights.{kind}"
    torch.save(state, path) if kind == "bin" else safetensors.torch.save_file(state, path)
    assert is_rotation(tmp_path)
    if kind == "bin":
        with pytest.raises(AdapterError, match="pickle"):
            read_any_rotations(path)
    (made,) = convert(path, tmp_path / "ours.safetensors", to="selma")
    file = read_rotations(made)
    assert set(file.layers) == set(wanted)
    for key, weight in wanted.items():
        torch.testing.assert_close(file.turn(key).changed(weight_of(key)), weight)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_a_checkpoint_of_the_released_control_code_is_read(tmp_path, shared, eps):
    """ldm's names, of a whole model; shared blocks turn the other way; magnitudes of stage two."""
    original = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    r, scales = released_r(3, shared), 1 + 0.1 * torch.rand(32, 1)
    stem = f"model.diffusion_model.{original}"
    state = {
        f"{stem}.R": r,
        f"{stem}.scaling_factors": scales,
        f"{stem}.OFT.weight": torch.zeros(32, 32),
        "model.diffusion_model.out.0.weight": torch.zeros(3),
    }
    path = tmp_path / "epoch=19.ckpt"
    torch.save({"state_dict": state, "epoch": 19}, path)
    convert(path, tmp_path / "ours.safetensors", to="selma", coft_eps=eps)
    weight = torch.randn(32, 32)
    wanted = Released(weight, r, eps=eps, scales=scales).forward_weight(flipped_when_shared=True)
    file = read_rotations(tmp_path / "ours.safetensors")
    assert file.layers == (key,)
    torch.testing.assert_close(file.turn(key).changed(weight), wanted)


class Code:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


def test_pickles_run_nothing_and_others_are_refused(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"a.R": Code()}}, path)
    with pytest.raises(AdapterError, match="plain tensors"):
        convert(path, tmp_path / "out.safetensors", to="selma")
    assert "code from a pickle ran" not in capsys.readouterr().out
    for content in ({"a.weight": torch.ones(2)}, [1, 2], {"nonsense.R": torch.ones(4, 8, 8)}):
        torch.save(content, path)
        with pytest.raises(AdapterError):
            convert(path, tmp_path / "out.safetensors", to="selma")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(AdapterError, match="plain tensors"):
        convert(path, tmp_path / "out.safetensors", to="selma")


def image(model):
    (generated,) = model.generate(["a cat"], seeds=[3], steps=3, guidance=3.0, batch_size=1)
    return generated.tobytes()


def expert_folder(path, **settings):
    path.mkdir()
    written(path / ROTATION_FILE, **settings)
    return path


def lora_folder(path):
    path.mkdir()
    torch.manual_seed(0)
    module = names.split(KEY)[1]
    tensors = {
        f"{module}.lora_A.weight": torch.randn(2, 32),
        f"{module}.lora_B.weight": 0.3 * torch.randn(32, 2),
    }
    write_adapter(
        path / ADAPTER_FILE, given(tensors), rank=2, alpha=2, targets=("to_q",), lineage=Lineage()
    )
    return path


def test_images_are_the_same_fused_unfused_and_from_a_fused_folder(tmp_path):
    place = expert_folder(tmp_path / "expert", scale=0.5, magnitudes=True)
    model = tiny.load("sd1")
    plain, before = image(model), model.pipe.unet.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    with applied(model, chosen([place])):
        generated = image(model)
    assert generated != plain
    assert all(torch.equal(before[n], t) for n, t in model.pipe.unet.state_dict().items())
    with applied(model, chosen([place / ROTATION_FILE], [0.0])):
        assert image(model) == plain
    file, config = read_rotations(place), OftConfig(blocks=4, magnitudes=True)
    factors = oft.attach(model.pipe.unet, config, generator=torch.Generator())
    assert {name.rpartition(".")[0] for name in factors} == {names.split(k)[1] for k in file.layers}
    with torch.no_grad():
        for name, parameter in factors.items():
            module, _, role = name.rpartition(".")
            parameter.copy_(file.turn(f"unet.{module}").tensors[role])
    unfused = image(model)
    oft.detach(model.pipe.unet)
    pairs = zip(unfused, generated, strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 1  # rounding to bytes
    fuse(place, tmp_path / "fused", base=str(tiny.folder("sd1")))
    assert (
        image(load_text_to_image(BaseConfig(model=str(tmp_path / "fused"), device="cpu")))
        == generated
    )
    assert image(model) == plain


def test_several_adapters_of_both_kinds_are_applied_in_their_order(tmp_path):
    turning, adding = expert_folder(tmp_path / "a"), lora_folder(tmp_path / "b")
    other = expert_folder(tmp_path / "c", seed=1)
    model = tiny.load("sd1")
    weight = model.pipe.unet.get_parameter(f"{names.split(KEY)[1]}.weight")
    plain = weight.detach().clone()
    turns = {place: read_rotations(place).turn(KEY) for place in (turning, other)}
    delta = safetensors.torch.load_file(adding / ADAPTER_FILE)
    a, b = (delta[f"{KEY}.lora_{which}.weight"] for which in "AB")

    def rotated(w, place, strength=1.0):
        return turned(w.double(), cayley(skew(strength * turns[place].skew_entries.double())))

    with applied(model, chosen([turning, adding, other], [1.0, 0.5, 2.0])):
        wanted = rotated(rotated(plain, turning) + 0.5 * (b @ a), other, 2.0)
        torch.testing.assert_close(weight, wanted.float())
        with pytest.raises(AdapterError, match="one adapter"), applied(model, chosen([turning])):
            pass
    assert torch.equal(weight, plain)
    with applied(model, chosen([other, turning])):
        torch.testing.assert_close(weight, rotated(rotated(plain, other), turning).float())
        assert (weight - rotated(rotated(plain, turning), other)).abs().max() > 1e-3
    with applied(model, []):
        assert torch.equal(weight, plain)
    convert(turning / ROTATION_FILE, tmp_path / "peft", to="peft")
    with applied(model, chosen([tmp_path / "peft"])):
        torch.testing.assert_close(weight, rotated(plain, turning).float())
    with (
        pytest.raises(ConfigError, match="needs one strength"),
        applied(model, chosen([other], [1, 2])),
    ):
        pass


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path):
    model = tiny.load("sd1")
    before = {name: tensor.clone() for name, tensor in model.pipe.unet.state_dict().items()}
    wide = expert_folder(tmp_path / "wide", rows=8, size=8)
    lost = tmp_path / "lost"
    lost.mkdir()
    written(lost / ROTATION_FILE, {"unet.mid_block.nothing.to_q": Turn(torch.zeros(4, 28))})
    for place in (wide, lost):
        with pytest.raises(AdapterError), applied(model, chosen([place])):
            pass
        with pytest.raises(AdapterError):
            fuse(place, tmp_path / "fused", base=str(tiny.folder("sd1")))
        with pytest.raises(AdapterError):
            convert(place, tmp_path / "b.safetensors", to="selma", base=str(tiny.folder("sd1")))
    assert all(torch.equal(before[n], t) for n, t in model.pipe.unet.state_dict().items())
    with applied(model, chosen([expert_folder(tmp_path / "good")])):
        pass


def test_a_damaged_file_is_told_by_its_manifest(tmp_path):
    from selma.workspace import Workspace

    item = Workspace(tmp_path).item("4-merged", recipe={})
    place = written(item.begin() / ROTATION_FILE)
    item.finish([place], {})
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    with pytest.raises(AdapterError, match="manifest"):
        read_any_rotations(item.path)
    shutil.rmtree(item.path)


def test_a_files_rotation_is_what_its_skew_says(tmp_path):
    """The convention, by hand: one block [[0, s], [-s, 0]] turns by 2 arctan s."""
    s = 0.5
    vector = torch.tensor([[s]])
    rotation = cayley(skew(vector))[0]
    angle = 2 * torch.arctan(torch.tensor(s))
    wanted = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    torch.testing.assert_close(rotation, wanted)
    turn = Turn(skew_entries=vector)
    torch.testing.assert_close(turn.changed(torch.eye(2)), wanted.mT)
    torch.testing.assert_close(triangle(skew_of(wanted[None])), vector)
