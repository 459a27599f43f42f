"""Merging rotations: properties of each method, worked examples, and files of both kinds."""

import json
import math
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import save_file

from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage, given, write_adapter
from selma.adapters.rotations.cayley import (
    ORTHOGONAL,
    cayley,
    log,
    orthogonality_error,
    power,
    skew,
    skew_of,
    triangle,
    turned,
)
from selma.adapters.rotations.energy import hyperspherical_energy
from selma.adapters.rotations.files import Turn, read_rotations, write_rotations
from selma.adapters.table import read_any
from selma.backbones.text_to_image import ADAPTER_FILE, ROTATION_FILE
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, IncompatibleExperts
from selma.merged.diagnostics import FIGURES, read_diagnostics
from selma.merged.merging import merge_experts, merge_files
from selma.merged.methods import METHODS
from selma.merged.planning import Plan
from selma.merged.rotation_methods import (
    RotationPart,
    conflict,
    karcher_mean,
    mean_of_skews,
    product,
    rescaled,
)
from selma.merged.rotations import merged_blocks
from selma.records.experts import Expert
from selma.workspace import Workspace

ROTATING = {name: method for name, method in METHODS.items() if method.rotates}
ORTHOGONALS = [name for name, method in ROTATING.items() if method.orthogonal]
ORDER_FREE = [name for name, method in ROTATING.items() if not method.ordered]
BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
KEYS = tuple(f"{BLOCK}.attn2.{to}" for to in ("to_k", "to_q", "to_v"))


def has(name, setting):
    return setting in METHODS[name].settings.model_fields


def skews_of(name, some, **more):
    """S, or M of the method that leaves no rotation; all entries are kept unless told otherwise."""
    told = {key: value for key, value in {"density": 1.0, **more}.items() if has(name, key)}
    settings = METHODS[name].settings.model_validate(told)
    return merged_blocks(some, Plan(METHODS[name], settings, {}))


def part(seed=0, *, blocks=3, size=6, scale=0.2, weight=1.0):
    made = torch.Generator().manual_seed(seed)
    vector = scale * torch.randn(blocks, size * (size - 1) // 2, generator=made)
    return RotationPart(vector.double(), weight)


def parts(count=4, **more):
    return [part(seed, weight=1 / count, **more) for seed in range(count)]


def blocks_of(name, some, **more):
    """R, or M of the method that leaves no rotation."""
    found = skews_of(name, some, **more)
    return cayley(found) if METHODS[name].orthogonal else found


def weighted(some, weights):
    return [RotationPart(one.vector, weight) for one, weight in zip(some, weights, strict=True)]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", ROTATING)
def test_one_expert_at_weight_one_is_itself(name, rescale):
    one = part(scale=1.0)
    more = {"rescale": True} if rescale else {}
    torch.testing.assert_close(blocks_of(name, [one], **more), one.rotation)


@pytest.mark.parametrize("name", ROTATING)
def test_experts_that_agree_stay_what_they_are(name):
    weights = [1.0, 0.0, 0.0] if name == "product" else [0.2, 0.3, 0.5]
    some = weighted([part(3, scale=0.5)] * 3, weights)
    torch.testing.assert_close(blocks_of(name, some), some[0].rotation)


@pytest.mark.parametrize("name", ORTHOGONALS)
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0])
def test_rotations_stay_rotations_and_energy_stays(name, scale):
    found = blocks_of(name, parts(scale=scale))
    assert orthogonality_error(found) < 1e-9
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(3).double())
    weight = torch.randn(20, 18).double()
    before = hyperspherical_energy(weight)
    assert hyperspherical_energy(turned(weight, found)) == pytest.approx(before, rel=1e-9)


def test_the_mean_of_rotations_is_none():
    found = blocks_of("mean_of_rotations", parts(scale=1.0))
    assert orthogonality_error(found) > 0.1
    weight = torch.randn(20, 18).double()
    after = turned(weight, found)
    mean = sum((turned(weight, one.rotation) for one in parts(scale=1.0)), torch.zeros(())) / 4
    torch.testing.assert_close(after, mean)  # the mean of the changed weights itself
    assert (after.norm(dim=1) < weight.norm(dim=1)).all()
    before = hyperspherical_energy(weight)
    assert hyperspherical_energy(after) != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("name", ORDER_FREE)
def test_the_order_changes_nothing(name):
    some = parts(scale=0.5)
    torch.testing.assert_close(blocks_of(name, some[::-1]), blocks_of(name, some))


def test_a_product_is_one_after_another_and_has_an_order():
    some = [part(seed, scale=0.5) for seed in range(3)]
    weight = torch.randn(5, 18).double()
    after = weight
    for one in some:
        after = turned(after, one.rotation)
    torch.testing.assert_close(turned(weight, cayley(product(some))), after)
    assert (product(some[::-1]) - product(some)).abs().max() > 1e-2
    halves = weighted([some[0]] * 2, [0.5, 0.5])
    torch.testing.assert_close(cayley(product(halves)), some[0].rotation)


@pytest.mark.parametrize("name", sorted({*ROTATING} - {"ties_of_skews"}))
def test_small_rotations_agree_to_first_order(name):
    some = parts(scale=1e-4)
    mean = mean_of_skews(some)
    found = blocks_of(name, some) - torch.eye(6).double()
    torch.testing.assert_close(found, 2 * mean, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", ["mean_of_skews", "mean_of_logs", "karcher_mean",
                                  "chordal_mean", "mean_of_rotations", "product"])  # fmt: skip
def test_a_change_of_basis_goes_through(name):
    """Merging what was turned into another basis is turning the merge into it."""
    some, basis = parts(scale=0.5), part(99, scale=2.0).rotation
    there = [RotationPart(triangle(basis @ one.skew @ basis.mT), one.weight) for one in some]
    wanted = basis @ blocks_of(name, some) @ basis.mT
    torch.testing.assert_close(blocks_of(name, there), wanted, atol=1e-8, rtol=1e-6)


def test_the_karcher_mean_is_the_mean():
    some = parts(scale=0.1)  # all within 90° of one another, so that there is one mean
    found = cayley(karcher_mean(some))
    residual = sum(
        (one.weight * log(skew_of(found.mT @ one.rotation)) for one in some), torch.zeros(())
    )
    assert residual.abs().max() < 1e-9
    # Unlike the others it also goes through a turn on one side alone.
    left = part(7, scale=0.5).rotation
    moved = [RotationPart(triangle(skew_of(left @ one.rotation)), one.weight) for one in some]
    torch.testing.assert_close(cayley(karcher_mean(moved)), left @ found, atol=1e-8, rtol=1e-6)
    two = weighted(parts(2, scale=0.1), [0.75, 0.25])
    first, second = two[0].rotation, two[1].rotation
    along = first @ cayley(power(skew_of(first.mT @ second), 0.25))
    torch.testing.assert_close(cayley(karcher_mean(two)), along, atol=1e-8, rtol=1e-6)


def test_weights_below_one_leave_the_rest_to_the_identity():
    one = part(scale=0.5)
    half = weighted([one], [0.5])
    logs = blocks_of("mean_of_logs", half)
    torch.testing.assert_close(logs @ logs, one.rotation)
    karcher = blocks_of("karcher_mean", half)
    torch.testing.assert_close(karcher, logs)
    chord = blocks_of("chordal_mean", half)
    torch.testing.assert_close(chord, logs)
    mixture = blocks_of("mean_of_rotations", half)
    torch.testing.assert_close(mixture, (torch.eye(6).double() + one.rotation) / 2)


def test_conflict_and_rescaling():
    agree = weighted([part(1)] * 2, [0.5, 0.5])
    assert conflict(agree) == pytest.approx(1)
    opposed = [agree[0], RotationPart(-agree[0].vector, 0.5)]
    assert conflict(opposed) == math.inf
    assert torch.equal(rescaled(mean_of_skews(opposed), opposed), torch.zeros(3, 6, 6).double())
    some = parts(5)
    c = conflict(some)
    assert 2 < c < 2.5  # experts without relation: about √5
    back = skews_of("mean_of_skews", some, rescale=True)
    torch.testing.assert_close(back, c * mean_of_skews(some))
    average = sum(float(one.skew.norm()) for one in some) / 5
    assert float(back.norm()) == pytest.approx(average)
    for name in sorted({*ORTHOGONALS} - {"product"}):
        if name == "ties_of_skews":  # by its own default weights, which are 1
            some = weighted(some, [1.0] * 5)
        wide = skews_of(name, some, rescale=True)
        assert float(wide.norm()) == pytest.approx(average), name


def test_ties_and_dare_on_skews_keep_pairs_together():
    some = [RotationPart(one.vector, 1.0, least=0.25) for one in parts()]
    found = skews_of("ties_of_skews", some)
    assert torch.equal(found, -found.mT)
    kept = [torch.where(one.vector.abs() >= 0.25, one.vector, 0) for one in some]
    sign = torch.where(sum(kept) >= 0, 1.0, -1.0)
    agree = [one.sign() == sign for one in kept]
    total = sum(one * mask for one, mask in zip(kept, agree, strict=True))
    count = sum(mask.double() for mask in agree)
    torch.testing.assert_close(found, skew(total / count.clamp(min=1)))

    one = [replace(part(blocks=40, size=12), layer="a")]

    def dare(some, **more):
        return skews_of("dare_of_skews", some, density=0.5, **more)

    dropped = dare(one)
    assert torch.equal(dropped, dare(one))
    assert torch.equal(dropped, -dropped.mT)
    rest = dropped != 0
    torch.testing.assert_close(dropped[rest], 2 * one[0].skew[rest])
    assert 0.45 < float((triangle(dropped) != 0).double().mean()) < 0.55
    assert not torch.equal(dropped, dare(one, seed=1))
    assert not torch.equal(dropped, dare([replace(one[0], layer="b")]))


def expert(folder, skill, *, rows=4, size=8, keys=KEYS, base="b" * 64, scale=0.2, magnitudes=False):
    torch.manual_seed(sum(map(ord, skill)))
    turns = {
        key: Turn(
            skew_entries=scale * torch.randn(rows, size * (size - 1) // 2),
            log_magnitudes=0.1 * torch.randn(32) if magnitudes else None,
        )
        for key in keys
    }
    path = folder / skill
    path.mkdir(parents=True)
    lineage = Lineage(base=base, made_by={"skill": skill})
    write_rotations(path / ROTATION_FILE, turns, lineage=lineage)
    return Expert(skill=skill, folder=path, key=f"key-{skill}")


def lora(folder, skill, *, base="b" * 64):
    torch.manual_seed(sum(map(ord, skill)))
    tensors = {}
    for key in KEYS:
        tensors[f"{key.removeprefix('unet.')}.lora_A.weight"] = torch.randn(2, 32)
        tensors[f"{key.removeprefix('unet.')}.lora_B.weight"] = 0.1 * torch.randn(32, 2)
    path = folder / skill
    path.mkdir(parents=True)
    lineage = Lineage(base=base, made_by={"skill": skill})
    write_adapter(
        path / ADAPTER_FILE, given(tensors), rank=2, alpha=6, targets=("to_q",), lineage=lineage
    )
    return Expert(skill=skill, folder=path, key=f"key-{skill}")


def merged(folder, experts, **settings):
    return merge_experts(experts, MergedConfig(**settings), Workspace(folder / "run"))


def turns_of(place):
    file = read_rotations(place)
    return {key: file.turn(key) for key in file.layers}


@pytest.mark.parametrize("method", ROTATING)
def test_a_runs_experts_are_merged_into_one_file(tmp_path, method):
    some = [expert(tmp_path, skill) for skill in ("cats", "ants", "bees")]
    result = merged(tmp_path, some, method=method)
    found = turns_of(result.folder)
    assert set(found) == set(KEYS)
    diagnostics = json.loads((result.folder / "diagnostics.json").read_text())
    assert diagnostics["all"]["conflict"] > 1
    assert set(diagnostics["experts"]) == {"cats", "ants", "bees"}
    assert set(diagnostics["layers"]) == set(KEYS)
    if method == "mean_of_rotations":
        assert (
            diagnostics["all"]["relative_error"] < 1e-6
            and diagnostics["all"]["orthogonality"] > 0.01
        )
    else:
        assert diagnostics["all"]["orthogonality"] < ORTHOGONAL
        for turn in found.values():
            assert orthogonality_error(cayley(skew(turn.skew_entries))) < ORTHOGONAL
    assert merged(tmp_path, some, method=method) == result
    with applied(tiny.load("sd1"), chosen([result.folder])):
        pass
    other = merged(tmp_path / "other", some[::-1], method=method)
    equal = (other.folder / ROTATION_FILE).read_bytes() == (
        result.folder / ROTATION_FILE
    ).read_bytes()
    assert equal == (method != "product")
    assert (other.key == result.key) == equal


@pytest.mark.parametrize("method", ROTATING)
def test_one_expert_merged_is_itself(tmp_path, method):
    only = expert(tmp_path, "cats", magnitudes=True)
    settings = {"density": 1.0} if has(method, "density") else {}
    after = turns_of(merged(tmp_path, [only], method=method, **settings).folder)
    for key, before in turns_of(only.folder).items():
        torch.testing.assert_close(after[key].log_magnitudes, before.log_magnitudes)
        weight = torch.randn(32, 32)
        torch.testing.assert_close(
            after[key].changed(weight), before.changed(weight), atol=1e-5, rtol=1e-4
        )


def test_magnitudes_are_averaged_as_logarithms_and_lacking_ones_are_one(tmp_path):
    some = [expert(tmp_path, "a", magnitudes=True), expert(tmp_path, "b", magnitudes=True),
            expert(tmp_path, "c")]  # fmt: skip
    found = turns_of(merged(tmp_path, some, method="mean_of_logs").folder)
    a, b = (turns_of(one.folder) for one in some[:2])
    for key, turn in found.items():
        wanted = (a[key].log_magnitudes + b[key].log_magnitudes) / 3
        torch.testing.assert_close(turn.log_magnitudes, wanted)


def test_ties_averages_magnitudes_and_low_rank_changes_as_it_does_skews(tmp_path):
    """Experts that agree stay what they are, by the default weights of 1 as well."""
    one, added = expert(tmp_path, "a", magnitudes=True), lora(tmp_path, "b")
    copies = [Expert(skill=f"{e.skill}{n}", folder=e.folder, key="k") for n in "12"
              for e in (one, added)]  # fmt: skip
    settings = {"method": "ties_of_skews", "density": 1.0}
    found = turns_of(merged(tmp_path / "mean", copies, **settings).folder)
    total = turns_of(merged(tmp_path / "sum", copies, normalize=False, **settings).folder)
    file = read_any(added.folder)
    for key, before in turns_of(one.folder).items():
        a, b = file.factors(key)
        for times, after in ((1, found[key]), (2, total[key])):
            torch.testing.assert_close(after.skew_entries, times * before.skew_entries)
            torch.testing.assert_close(after.log_magnitudes, times * before.log_magnitudes)
            after_a, after_b = after.low_rank
            torch.testing.assert_close(after_b @ after_a, times * 3 * (b @ a))


def test_lora_experts_that_could_not_be_drawn_with_are_refused(tmp_path):
    turning = expert(tmp_path, "turns", keys=KEYS[:1])
    for number, (layer, width, says) in enumerate(
        [
            (KEYS[0], 48, "4 blocks of side 8"),
            ("text_encoder.encoder.layers.0.mlp.fc1", 32, "denoiser"),
        ]
    ):
        place = tmp_path / f"{number}.safetensors"
        factors = {"A": torch.ones(2, width), "B": torch.ones(32, 2)}
        save_file({f"{layer}.lora_{f}.weight": t for f, t in factors.items()}, place)
        with pytest.raises(AdapterError, match=says):
            merge_files(
                [turning.folder, place],
                MergedConfig(method="mean_of_skews"),
                tmp_path / "out.safetensors",
            )
    assert not (tmp_path / "out.safetensors").exists()


def test_a_shared_block_goes_with_as_many_as_the_others_have(tmp_path):
    some = [expert(tmp_path, "a", rows=1), expert(tmp_path, "b")]
    found = turns_of(merged(tmp_path, some, method="mean_of_skews").folder)
    a, b = (turns_of(one.folder) for one in some)
    for key, turn in found.items():
        torch.testing.assert_close(
            turn.skew_entries, (a[key].skew_entries + b[key].skew_entries) / 2
        )
    alone = [expert(tmp_path / "x", skill, rows=1) for skill in "ab"]
    kept = turns_of(merged(tmp_path / "x", alone, method="mean_of_skews").folder)
    assert all(len(turn.skew_entries) == 1 for turn in kept.values())


def test_an_expert_that_leaves_a_layer_alone_counts_as_the_identity(tmp_path):
    some = [expert(tmp_path, "a"), expert(tmp_path, "b", keys=KEYS[:1])]
    found = turns_of(merged(tmp_path, some, method="mean_of_skews").folder)
    a = turns_of(some[0].folder)
    for key in KEYS[1:]:
        torch.testing.assert_close(found[key].skew_entries, a[key].skew_entries / 2)


def test_lora_and_oft_experts_together(tmp_path):
    """The rotations first, then the mean of the LoRA changes: W Rᵀ + Σ w B A."""
    some = [expert(tmp_path, "turns"), lora(tmp_path, "adds")]
    result = merged(tmp_path, some, method="mean_of_skews", weights={"turns": 0.7, "adds": 0.4})
    found, turns = turns_of(result.folder), turns_of(some[0].folder)
    file = read_any(some[1].folder)
    weight = torch.randn(32, 32)
    for key in KEYS:
        a, b = file.factors(key)
        rotation = cayley(skew(0.7 * turns[key].skew_entries))
        wanted = turned(weight, rotation) + 0.4 * 3 * (b @ a)
        torch.testing.assert_close(found[key].changed(weight), wanted, atol=1e-5, rtol=1e-4)
    diagnostics = json.loads((result.folder / "diagnostics.json").read_text())
    assert list(diagnostics["experts"]) == ["turns"]
    with pytest.raises(IncompatibleExperts, match="is a rotation"):
        merged(tmp_path / "x", some, method="mean_of_deltas")
    with pytest.raises(IncompatibleExperts, match="add to weights"):
        merged(tmp_path / "x", some[1:], method="mean_of_skews")


def test_the_global_scale_is_a_strength(tmp_path):
    some = [expert(tmp_path, skill, magnitudes=True) for skill in "ab"]
    for method in ("mean_of_skews", "mean_of_rotations"):
        plain = turns_of(merged(tmp_path / method, some, method=method).folder)
        half = merged(tmp_path / method / "x", some, method=method, scale=0.5).folder
        wide = turns_of(half)
        said = json.loads((half / "diagnostics.json").read_text())["all"]
        assert 0.4 < said["norm_ratio"] < 0.65  # judged is what was written
        for key in KEYS:
            for role, tensor in plain[key].scaled(0.5).tensors.items():
                torch.testing.assert_close(wide[key].tensors[role], tensor)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 16, "rows": 2}, "blocks of one size"),
        ({"rows": 3}, "blocks of one size"),
        ({"base": "c" * 64}, "one base model"),
    ],
)
def test_experts_that_do_not_fit_are_refused(tmp_path, settings, says):
    some = [expert(tmp_path, "a"), expert(tmp_path, "b", **settings)]
    with pytest.raises(IncompatibleExperts, match=says):
        merged(tmp_path, some, method="mean_of_skews")


def test_a_mixture_is_not_merged_again(tmp_path):
    some = [expert(tmp_path, skill) for skill in "ab"]
    result = merged(tmp_path, some, method="mean_of_rotations")
    again = [some[0], Expert(skill="m", folder=result.folder, key="m")]
    with pytest.raises(IncompatibleExperts, match="is none"):
        merged(tmp_path / "x", again, method="mean_of_skews")


def test_files_of_any_origin_are_merged_and_written(tmp_path):
    some = [expert(tmp_path, skill) for skill in ("a", "b", "c")]
    places = [one.folder / ROTATION_FILE for one in some]
    config = MergedConfig(method="karcher_mean")
    written, diagnostics = merge_files(places, config, tmp_path / "out.safetensors")
    assert written == [tmp_path / "out.safetensors"]
    back, _ = merge_files(places[::-1], config, tmp_path / "back.safetensors")
    ours, theirs = turns_of(written[0]), turns_of(back[0])
    assert all(torch.equal(ours[key].skew_entries, theirs[key].skew_entries) for key in ours)
    folder, _ = merge_files(places, config, tmp_path / "peft", to="peft")
    read = read_any(tmp_path / "peft")
    assert all(torch.equal(read.turn(key).skew_entries, ours[key].skew_entries) for key in ours)
    assert len(folder) == 2 and diagnostics["all"]["conflict"] > 1
    for place in (written[0], tmp_path / "peft"):
        said = read_diagnostics(place)
        assert (
            said["all"] == diagnostics["all"]
            and said["layers"].keys() == diagnostics["layers"].keys()
        )
        for key, layer in said["layers"].items():
            told = {name: diagnostics["layers"][key][name] for name in FIGURES}
            assert layer == pytest.approx(told, rel=1e-3)
    with pytest.raises(AdapterError, match="output side"):
        merge_files(places, config, tmp_path / "k.safetensors", to="kohya")
    with pytest.raises(AdapterError, match=r"one \.safetensors file"):
        merge_files(places, config, tmp_path / "folder")
    base = str(tiny.folder("sd1"))
    merge_files(places, config, tmp_path / "based.safetensors", base=base)
    wide = expert(tmp_path, "wide", rows=8).folder
    with pytest.raises(AdapterError, match="8 blocks"):
        merge_files([wide], config, tmp_path / "no.safetensors", base=base)
    # In their order the files are what applying them one by one is.
    ordered, _ = merge_files(
        places, MergedConfig(method="product"), tmp_path / "product.safetensors"
    )
    weight = tiny.load("sd1").denoiser.get_parameter(f"{KEYS[0].removeprefix('unet.')}.weight")
    model = tiny.load("sd1")
    inside = model.denoiser.get_parameter(f"{KEYS[0].removeprefix('unet.')}.weight")
    with applied(model, chosen([one.folder for one in some])):
        torch.testing.assert_close(
            turns_of(ordered[0])[KEYS[0]].changed(weight.detach()), inside, atol=1e-5, rtol=1e-4
        )


def test_merged_images_differ_from_the_base(tmp_path):
    some = [expert(tmp_path, skill, scale=0.5) for skill in "ab"]
    result = merged(tmp_path, some, method="mean_of_logs")
    model = tiny.load("sd1")

    def image():
        (generated,) = model.generate(["a cat"], seeds=[3], steps=3, guidance=3.0, batch_size=1)
        return generated.tobytes()

    plain = image()
    with applied(model, chosen([result.folder])):
        assert image() != plain
    assert image() == plain
