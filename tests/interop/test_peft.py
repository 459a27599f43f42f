"""PEFT beside selma: folders both ways, of LoRA and of OFT, and its merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from interop import deltas, shaped
from interop.merging import merge

from selma.adapters import names
from selma.adapters.applying import applied, chosen
from selma.adapters.converting import convert
from selma.backbones.text_to_image import load_text_to_image
from selma.config.networks import BaseConfig

EXACT = 1e-6
DECOMPOSED = 1e-5
"""PEFT decomposes in float32."""
TIED = 0.99
"""Where the first singular value that is cut off is more than this share of the last one that is
kept, float32's rounding turns what is kept: 3e-5 at 0.9966."""
NAME, VERSION = "PEFT", peft.__version__
EMPTY = {"sd1": shaped.emptied(tiny.folder("sd1")), "sdxl": shaped.emptied(tiny.folder("sdxl"))}
WEIGHTS = [0.7, -0.4, 0.5]
NAMES = ["counting", "colours", "whimsy"]

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


def part(folder: Path, component: str) -> Any:
    """One model of a pipeline's, as PEFT takes it."""
    return getattr(load_text_to_image(BaseConfig(model=str(folder), device="cpu")).pipe, component)


def changes(model: Any, component: str, adapter: str = "default") -> deltas.Deltas:
    """What PEFT would add to each weight."""
    inner = model.base_model.model
    return {
        names.plain(component, path): module.get_delta_weight(adapter).detach().clone()
        for path, module in inner.named_modules()
        if hasattr(module, "get_delta_weight") and adapter in module.lora_A
    }


FOLDERS = [
    {"r": 2, "lora_alpha": 3, "target_modules": ["to_q", "to_out.0", "conv1", "proj_in"]},
    {"r": 4, "lora_alpha": 2, "use_rslora": True, "target_modules": ["to_k", "ff.net.0.proj"]},
    {"r": 4, "lora_alpha": 6, "target_modules": r".*attn\d\.to_[qv]",
     "rank_pattern": {"attn1.to_q": 2, "mid_block.*attn2.to_v": 3},
     "alpha_pattern": {r"^down_blocks\.1.*to_q": 1}},
]  # fmt: skip


@pytest.mark.parametrize("settings", FOLDERS, ids=["plain", "rslora", "patterns"])
@pytest.mark.parametrize("shape", EMPTY)
def test_folders_of_peft_are_read_right(tmp_path, measured, shape, settings):
    torch.manual_seed(3)
    config = peft.LoraConfig(init_lora_weights=False, **settings)
    model = peft.get_peft_model(part(EMPTY[shape], "unet"), config)
    model.save_pretrained(tmp_path)
    theirs = changes(model, "unet")
    for ours in (deltas.read(tmp_path, EMPTY[shape]),
                 deltas.generated_with(tmp_path, EMPTY[shape])):  # fmt: skip
        measured(NAME, VERSION, "folders of save_pretrained: weight change",
                 deltas.difference(theirs, ours), EXACT)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ranks", "alphas"), [((2,), (3.0,)), ((2, 3, 4), (3.0, 2.5))])
@pytest.mark.parametrize("shape", EMPTY)
def test_folders_of_selma_are_read_right(tmp_path, measured, shape, ranks, alphas, dtype):
    endings = (*deltas.LINEAR, *deltas.PROJECTIONS, *deltas.CONVOLUTIONS, *deltas.IN_TEXT)
    ours = deltas.random_lora(tmp_path / "lora", EMPTY[shape], endings=endings, to="peft",
                              ranks=ranks, alphas=alphas, dtype=dtype)  # fmt: skip
    theirs: deltas.Deltas = {}
    for component in {names.split(key)[0] for key in ours}:
        folder = tmp_path / "lora" / component
        model = peft.PeftModel.from_pretrained(part(EMPTY[shape], component), folder)
        theirs |= changes(model, component)
    measured(NAME, VERSION, "folders of selma, loaded: weight change",
             deltas.difference(theirs, ours), EXACT)  # fmt: skip


# Rotations: PEFT's OFT


def rotated(model: Any) -> deltas.Deltas:
    """All weights of the UNet after PEFT has merged."""
    merged = model.merge_and_unload()
    return {
        names.plain("unet", path): module.weight.detach().clone()
        for path, module in merged.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def generated(adapter: Path) -> deltas.Deltas:
    """All weights of the UNet while selma generates with the adapter."""
    model = load_text_to_image(tiny.base("sd1"))
    with applied(model, chosen([adapter])):
        layers = model.pipe.unet.named_modules()
        return {
            names.plain("unet", path): module.weight.detach().clone()
            for path, module in layers
            if isinstance(module, torch.nn.Linear)
        }


def oft(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = peft.OFTConfig(
        target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_weights=False,
        **{"r": 4, "oft_block_size": 0, "use_cayley_neumann": False} | settings,
    )  # fmt: skip
    model = peft.get_peft_model(part(tiny.folder("sd1"), "unet"), config)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [{}, {"r": 0, "oft_block_size": 16}, {"block_share": True}, {"coft": True, "eps": 0.05}],
    ids=["blocks", "block size", "shared", "coft"],
)
def test_rotations_go_both_ways(tmp_path, measured, settings):
    """A folder of PEFT's, as selma applies it; then as selma writes it again and PEFT reads it."""
    theirs = rotated(oft(tmp_path / "theirs", **settings))
    measured(NAME, VERSION, "OFT folders of save_pretrained: weights",
             deltas.difference(theirs, generated(tmp_path / "theirs")), EXACT)  # fmt: skip
    convert(tmp_path / "theirs", tmp_path / "ours.safetensors", to="selma")
    convert(tmp_path / "ours.safetensors", tmp_path / "ours", to="peft",
            base=str(tiny.folder("sd1")))  # fmt: skip
    unet = part(tiny.folder("sd1"), "unet")
    back = rotated(peft.PeftModel.from_pretrained(unet, tmp_path / "ours").eval())
    measured(NAME, VERSION, "OFT folders of selma, loaded: weights",
             deltas.difference(back, theirs), EXACT)  # fmt: skip


# Merges: add_weighted_adapter


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Three folders of ranks 2, 3 and 4, and of one rank; and a PEFT model that holds each set."""
    sets = {}
    for kind, ranks in {"mixed": (2, 3, 4), "equal": (3, 3, 3)}.items():
        folders = [tmp_path_factory.mktemp(kind) for _ in ranks]
        model = part(EMPTY["sd1"], "unet")
        for n, (folder, rank) in enumerate(zip(folders, ranks, strict=True)):
            torch.manual_seed(n)
            config = peft.LoraConfig(r=rank, lora_alpha=n + 1, init_lora_weights=False,
                                     target_modules=["to_q", "to_out.0", "conv1"])  # fmt: skip
            if n == 0:
                model = peft.get_peft_model(model, config, adapter_name=NAMES[n])
            else:
                model.add_adapter(NAMES[n], config)
            model.save_pretrained(folder, selected_adapters=[NAMES[n]])
        sets[kind] = [folder / name for folder, name in zip(folders, NAMES, strict=True)], model
    return sets


def merged(experts, kind, combination, **settings):
    """PEFT's merge of three experts, and their folders."""
    folders, model = experts[kind]
    name = f"{combination}-{len(model.peft_config)}"
    model.add_weighted_adapter(NAMES, WEIGHTS, name, combination_type=combination, **settings)
    return changes(model, "unet", name), folders


def summed(experts, kind):
    """The weighted sum of what PEFT would add for each expert, in double."""
    _, model = experts[kind]
    each = [changes(model, "unet", name) for name in NAMES]
    return {
        key: sum(weight * delta[key].double() for weight, delta in zip(WEIGHTS, each, strict=True))
        for key in each[0]
    }


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize(
    ("kind", "combination", "theirs", "method", "ours", "bound"),
    [
        ("mixed", "cat", {}, "sum_of_deltas", {}, EXACT),
        ("equal", "cat", {}, "mean_of_deltas", {}, EXACT),
        ("mixed", "svd", {}, "svd", {}, DECOMPOSED),
        ("mixed", "svd", {"svd_rank": 2}, "svd", {"rank": 2}, DECOMPOSED),
        ("equal", "ties", {"density": 0.3}, "ties_of_factors", {"density": 0.3}, EXACT),
        ("equal", "ties", {"density": 1.0}, "ties_of_factors", {"density": 1.0}, EXACT),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_merges_are_pefts(
    tmp_path, measured, experts, kind, combination, theirs, method, ours, bound
):
    wanted, folders = merged(experts, kind, combination, **theirs)
    out = merge(folders, tmp_path / "merged.safetensors", method=method, weights=WEIGHTS,
                base=EMPTY["sd1"], **ours)  # fmt: skip
    mine = deltas.read(out, EMPTY["sd1"])
    if combination == "svd":
        rank = ours.get("rank", 4)
        values = {
            key: torch.linalg.svdvals(delta.flatten(1))
            for key, delta in summed(experts, kind).items()
        }
        tied = {key for key, of in values.items() if of[rank] > TIED * of[rank - 1]}
        assert len(tied) < len(wanted) / 10  # all layers: test_an_svd_is_the_best_of_its_rank
        wanted, mine = ({k: d for k, d in of.items() if k not in tied} for of in (wanted, mine))
    measured(NAME, VERSION, f"add_weighted_adapter, {combination}: {method}",
             deltas.difference(wanted, mine), bound)  # fmt: skip


@pytest.mark.parametrize(("rank", "ours"), [(4, {}), (2, {"rank": 2})])
def test_an_svd_is_the_best_of_its_rank(tmp_path, experts, rank, ours):
    best = {}
    for key, total in summed(experts, "mixed").items():
        u, s, v = torch.linalg.svd(total.flatten(1), full_matrices=False)
        best[key] = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(total.shape)
    folders, _ = experts["mixed"]
    out = merge(folders, tmp_path / "merged.safetensors", method="svd", weights=WEIGHTS,
                base=EMPTY["sd1"], **ours)  # fmt: skip
    assert deltas.difference(best, deltas.read(out, EMPTY["sd1"])) <= EXACT


def test_cat_is_the_sum_of_what_peft_would_add(experts):
    wanted, _ = merged(experts, "mixed", "cat")
    assert deltas.difference(wanted, summed(experts, "mixed")) <= EXACT


def test_pefts_linear_is_neither_mean(tmp_path, experts):
    """It weighs A and B by the root of the weight each: docs/paper.md says so."""
    wanted, folders = merged(experts, "equal", "linear")
    for method in ("mean_of_deltas", "mean_of_factors"):
        out = merge(folders, tmp_path / f"{method}.safetensors", method=method, weights=WEIGHTS,
                    base=EMPTY["sd1"])  # fmt: skip
        assert deltas.difference(wanted, deltas.read(out, EMPTY["sd1"])) > 0.1
