"""What files call layers: a table drawn up from the models' own code, and what holds for all names.

The right answers are those of diffusers' converters (`_maybe_map_sgm_blocks_to_diffusers`,
`_convert_unet_lora_key`, `state_dict_utils`), of ComfyUI's key maps, and of the original UNet's
constructor, which appends one module for each residual block and one for each downsampler.
"""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.adapters import names
from selma.adapters.layers import Layers, known_models, layer_shapes
from selma.adapters.original import original_paths
from selma.adapters.reading import read_adapter
from selma.adapters.resolving import resolved
from selma.adapters.spellings import read_name, spelling
from selma.backbones.families import FAMILIES, stable_diffusion
from selma.errors import AdapterError
from selma.registry import registered
from selma.toybox import weights_folder

MODELS = {model.model: model for group in known_models() for model in group if model.shapes}
D0 = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
MID = "unet.mid_block.attentions.0"
TE = "text_encoder.encoder.layers"
TE2 = "text_encoder_2.encoder.layers"

# Tensor's name without its ending → our name of the layer, or None where no model has it.
TABLE = {
    # diffusers, with and without what programs wrap around its names
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{D0}.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{D0}.to_q",
    "unet.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{D0}.to_q",
    "unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q":
        f"{D0}.to_q",
    "base_model.model.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q":
        f"{D0}.to_q",
    "base_model.model.mid_block.resnets.1.conv2": "unet.mid_block.resnets.1.conv2",
    "base_model.model.base_model.model.conv_in": "unet.conv_in",
    "unet.conv_in": "unet.conv_in",
    "unet.conv_out": "unet.conv_out",
    "unet.time_embedding.linear_1": "unet.time_embedding.linear_1",
    "unet.up_blocks.0.upsamplers.0.conv": "unet.up_blocks.0.upsamplers.0.conv",
    "unet.down_blocks.2.downsamplers.0.conv": "unet.down_blocks.2.downsamplers.0.conv",
    "unet.up_blocks.3.attentions.2.proj_out": "unet.up_blocks.3.attentions.2.proj_out",
    "text_encoder.text_model.encoder.layers.3.mlp.fc1": f"{TE}.3.mlp.fc1",
    "text_encoder.encoder.layers.11.self_attn.out_proj": f"{TE}.11.self_attn.out_proj",
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc2": f"{TE2}.31.mlp.fc2",
    "text_encoder_2.text_projection": "text_encoder_2.text_projection",
    "base_model.model.text_model.encoder.layers.7.self_attn.k_proj": f"{TE}.7.self_attn.k_proj",
    # PEFT's and diffusers' old spellings of one projection (see ENDINGS for the rest)
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_q":
        f"{MID}.transformer_blocks.0.attn2.to_q",
    # kohya: SD by diffusers' paths, SDXL by the original ones
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": f"{D0}.to_q",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": f"{D0}.to_out.0",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj":
        f"{MID}.transformer_blocks.0.ff.net.0.proj",
    "lora_unet_mid_block_attentions_0_proj_in": f"{MID}.proj_in",
    "lora_unet_up_blocks_3_resnets_2_conv_shortcut": "unet.up_blocks.3.resnets.2.conv_shortcut",
    "lora_unet_up_blocks_1_resnets_0_time_emb_proj": "unet.up_blocks.1.resnets.0.time_emb_proj",
    "lora_unet_time_embedding_linear_2": "unet.time_embedding.linear_2",
    "lora_te_text_model_encoder_layers_0_mlp_fc1": f"{TE}.0.mlp.fc1",
    "lora_te_text_model_encoder_layers_22_self_attn_v_proj": f"{TE}.22.self_attn.v_proj",
    "lora_te1_text_model_encoder_layers_3_mlp_fc2": f"{TE}.3.mlp.fc2",
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": f"{TE2}.31.self_attn.out_proj",
    "lora_te2_text_projection": "text_encoder_2.text_projection",
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q":
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
    "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj":
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
    "lora_unet_middle_block_1_transformer_blocks_3_attn2_to_out_0":
        f"{MID}.transformer_blocks.3.attn2.to_out.0",
    "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_q":
        "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_q",
    "lora_unet_output_blocks_2_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_8_0_skip_connection": "unet.up_blocks.2.resnets.2.conv_shortcut",
    "lora_unet_label_emb_0_0": "unet.add_embedding.linear_1",
    "lora_unet_label_emb_0_2": "unet.add_embedding.linear_2",
    # the original UNet, whose numbers both families count in the same way up to SDXL's last block
    "lora_unet_input_blocks_0_0": "unet.conv_in",
    "lora_unet_out_2": "unet.conv_out",
    "lora_unet_time_embed_0": "unet.time_embedding.linear_1",
    "lora_unet_time_embed_2": "unet.time_embedding.linear_2",
    "lora_unet_input_blocks_3_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_input_blocks_1_0_in_layers_2": "unet.down_blocks.0.resnets.0.conv1",
    "lora_unet_middle_block_2_emb_layers_1": "unet.mid_block.resnets.1.time_emb_proj",
    # SD 1's own: its deepest blocks have no attention, so that the upsampler comes second
    "lora_unet_output_blocks_2_1_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_5_2_conv": "unet.up_blocks.1.upsamplers.0.conv",
    "lora_unet_output_blocks_8_2_conv": "unet.up_blocks.2.upsamplers.0.conv",
    "lora_unet_output_blocks_11_1_proj_out": "unet.up_blocks.3.attentions.2.proj_out",
    "lora_unet_input_blocks_9_0_op": "unet.down_blocks.2.downsamplers.0.conv",
    "lora_unet_input_blocks_10_0_out_layers_3": "unet.down_blocks.3.resnets.0.conv2",
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k":
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    # the same with dots, below what ComfyUI, OneTrainer and checkpoints put before them
    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q":
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "model.diffusion_model.output_blocks.2.1.conv": "unet.up_blocks.0.upsamplers.0.conv",
    "unet.output_blocks.5.1.transformer_blocks.1.attn1.to_q":
        "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_q",
    "diffusion_model.middle_block.1.proj_in": f"{MID}.proj_in",
    "diffusion_model.label_emb.0.0": "unet.add_embedding.linear_1",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.2.mlp.fc1": f"{TE}.2.mlp.fc1",
    "text_encoders.clip_g.transformer.text_model.encoder.layers.30.mlp.fc1": f"{TE2}.30.mlp.fc1",
    "clip_l.transformer.text_model.encoder.layers.2.self_attn.q_proj": f"{TE}.2.self_attn.q_proj",
    "lycoris_mid_block_attentions_0_proj_out": f"{MID}.proj_out",
    # layers that no model has
    "unet.down_blocks.99.resnets.0.conv1": None,
    "unet.down_blocks.0.resnets.2.conv1": None,
    "unet.up_blocks.0.attentions.2.conv": None,
    "unet.mid_block.attentions.1.proj_in": None,
    "unet.mid_block.attentions.0.transformer_blocks.10.attn1.to_q": None,
    "unet.mid_block.attentions.0.transformer_blocks.0.attn3.to_q": None,
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out": None,
    "lora_unet_conv_to_q_7": None,
    "lora_unet_input_blocks_99_1_transformer_blocks_0_attn1_to_q": None,
    "lora_unet_down_blocks_17_attentions_9_transformer_blocks_0_attn1_to_q": None,
    "lora_unet_output_blocks_2_7_conv": None,
    "lora_unet_input_blocks_3_0_in_layers_2": None,  # a downsampler lies there
    "lora_unet_input_blocks_0_1_proj_in": None,
    "lora_unet_output_blocks_12_0_in_layers_2": None,
    "lora_unet_middle_block_3_in_layers_2": None,
    "lora_unet_double_blocks_0_img_attn_qkv": None,  # Flux
    "lora_unet_": None,
    "unet.": None,
    "unet": None,
    "text_encoder.text_model.encoder.layers.23.mlp.fc1": None,
    "text_encoder_2.text_model.encoder.layers.32.mlp.fc1": None,
    "lora_te1_text_model_encoder_layers_0_mlp_fc3": None,
    "lora_te_text_model_embeddings_token_embedding": None,
    "text_encoder.text_projection": None,
    "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q": (
        "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"
    ),
    "text_encoder_3.encoder.block.24.layer.0.SelfAttention.q": None,
    "text_encoder_3.encoder.block.0.layer.1.SelfAttention.q": None,
    "text_encoder_3.shared": None,
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": None,  # SD 3's, FLUX.1's or Chroma's
    "text_encoder.unet.mid_block.attentions.0.proj_in": None,
    "unet.text_encoder.encoder.layers.0.mlp.fc1": None,
    "vae.encoder.conv_in": None,
    "transformer.single_transformer_blocks.0.attn.to_q":
        "transformer.single_transformer_blocks.0.attn.to_q",
    "lora_unet_double_blocks_18_img_attn_proj": "transformer.transformer_blocks.18.attn.to_out.0",
    "lora_unet_double_blocks_19_img_attn_proj": None,
    "transformer.transformer_blocks.60.attn.to_q": None,
    "transformer.transformer_blocks.01.attn.to_q": None,
    "mid_block.attentions.0.proj_in ": None,
}  # fmt: skip


def written(path: Path, *layers: str, shape: tuple[int, ...] = (5, 4)) -> Path:
    """A file that changes these layers, whose weights have this shape."""
    out, *inside = shape
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_down.weight"] = torch.ones(2, *inside)
        tensors[f"{layer}.lora_up.weight"] = torch.ones(out, 2, *(1 for _ in inside[1:]))
    safetensors.torch.save_file(tensors, path)
    return path


def key_of(layer: str) -> str | None:
    """Our name of the layer, by any model that is known."""
    spelled = spelling(layer)
    if spelled is None:
        return None
    try:
        return resolved(Path("a"), {spelled: None}).parts[spelled][0].key
    except AdapterError:
        return None


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 60 and sum(key is None for key in TABLE.values()) >= 25


@pytest.mark.parametrize(("theirs", "ours"), TABLE.items())
def test_a_name_means_its_layer_or_none(tmp_path: Path, theirs: str, ours: str | None) -> None:
    path = written(tmp_path / "a.safetensors", theirs)
    if ours is None:
        with pytest.raises(AdapterError):
            read_adapter(path)
    else:
        assert list(read_adapter(path).layers) == [ours]


@pytest.mark.parametrize("theirs", [name for name in TABLE if name.startswith("lora_unet_mid")])
def test_the_message_names_what_leads_nowhere(tmp_path: Path, theirs: str) -> None:
    path = written(tmp_path / "a.safetensors", theirs, "lora_unet_block_99")
    with pytest.raises(
        AdapterError, match="'block_99' that none of SD 1, SD 2, SDXL, toybox, SD 3,"
    ):
        read_adapter(path)


ENDINGS = {
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora", "to_q"),
    (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
        "to_out.0",
    ),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k_lora", "to_k"),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v.lora", "to_v"),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v.lora_linear_layer", "to_v"),
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora", "to_out.0"),
}


@pytest.mark.parametrize(("stem", "projection"), sorted(ENDINGS))
def test_each_ending_of_diffusers_is_read(stem: str, projection: str) -> None:
    for factor, role in (("down", "A"), ("up", "B")):
        named = read_name(f"{stem}.{factor}.weight")
        assert named is not None and named.role == role and named.scheme == "diffusers"
        assert (
            resolved(Path("a"), {named.layer: None}).parts[named.layer][0].key
            == f"{D0}.{projection}"
        )


@pytest.mark.parametrize("adapter", ["", ".default", ".my-style", ".a b", ".é"])
def test_pefts_own_name_of_the_adapter_says_nothing(adapter: str) -> None:
    named = read_name(f"unet.conv_in.lora_A{adapter}.weight")
    assert named is not None and (named.layer.path, named.role) == ("conv_in", "A")


@pytest.mark.parametrize(
    ("theirs", "projection"),
    [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")],
)
def test_old_processors_of_text_encoders(theirs: str, projection: str) -> None:
    named = read_name(f"text_encoder.text_model.encoder.layers.4.self_attn.{theirs}_lora.up.weight")
    assert named is not None and named.role == "B"
    parts = resolved(Path("a"), {named.layer: None}).parts
    assert parts[named.layer][0].key == f"{TE}.4.self_attn.{projection}"


def spelled(model: Layers, key: str) -> set[str]:
    """Every way to write a layer, in each scheme that has a name for it."""
    component, module = names.split(key)
    paths = {module, *([f"text_model.{module}"] if component in names.TEXTS else [])}
    if component == "unet":
        paths |= {model.originals[module]} if model.numbered else set()
        prefixes = {"lora_unet_": "_", "lycoris_": "_", "diffusion_model.": ".", "unet.unet.": "."}
        prefixes |= {"unet.": ".", "": ".", "base_model.model.": ".", "model.diffusion_model.": "."}
        prefixes |= {"unet.base_model.model.": "."}
    elif component == "text_encoder":
        prefixes = {"lora_te_": "_", "lora_te1_": "_", "text_encoder.": ".", "clip_l.": "."}
        prefixes |= {"text_encoders.clip_l.transformer.": ".", "text_encoder.text_encoder.": "."}
    else:
        prefixes = {
            "lora_te2_": "_",
            "text_encoder_2.": ".",
            "text_encoders.clip_g.transformer.": ".",
        }
    return {
        prefix + path.replace(".", joint) for prefix, joint in prefixes.items() for path in paths
    }


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_every_layer_in_every_scheme_leads_back_to_itself(model: Layers) -> None:
    for key in model.shapes:
        for theirs in spelled(model, key):
            layer = spelling(theirs)
            assert layer is not None
            assert resolved(Path("a"), {layer: None}, base=model).parts[layer][0].key == key, theirs


@pytest.mark.parametrize("sdxl", [False, True])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_kohyas_names_are_unique_and_lead_back(model: Layers, sdxl: bool) -> None:
    model = replace(model, numbered=True)  # as the base itself, where it is at hand
    named = {key: model.kohya_name(key, sdxl=sdxl) for key in model.shapes}
    assert None not in named.values() and len(set(named.values())) == len(named)
    for key, name in named.items():
        layer = spelling(str(name))
        assert layer is not None and model.key(*layer) == key  # type: ignore[arg-type]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_no_two_layers_share_a_spelling(model: Layers) -> None:
    ways = [way for key in model.shapes for way in spelled(model, key)]
    assert len(ways) == len(set(ways))


def test_families_that_count_blocks_alike_agree_on_every_shared_name() -> None:
    released = [MODELS[name] for name in ("SD 1", "SD 2", "SDXL")]
    for first in released:
        for other in released:
            for path in first._keys.keys() & other._keys.keys():
                assert first._keys[path] == other._keys[path], path


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_name_never_means_a_layer_that_does_not_exist(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(list(MODELS.values())))
    key = data.draw(st.sampled_from(sorted(model.shapes)))
    name = data.draw(st.sampled_from(sorted(spelled(model, key))))
    start = data.draw(st.integers(0, len(name)))
    more = data.draw(st.text(string.ascii_lowercase + string.digits + "._", max_size=3))
    changed = name[:start] + more + name[start + data.draw(st.integers(0, 3)) :]
    meant = key_of(changed)
    assert meant is None or any(meant in other.shapes for other in MODELS.values())
    layer = spelling(changed)
    if meant is not None and layer is not None and changed != name:
        # What still leads somewhere is another layer's name, letter by letter.
        joined = layer.path.replace(".", "_")
        ways = {
            way
            for other in MODELS.values()
            if meant in other.shapes
            for way in spelled(other, meant)
        }
        assert any(way.replace(".", "_").endswith(joined) for way in ways)


def test_the_packaged_layers_are_those_of_the_models_own_classes() -> None:
    """layers.json is what diffusers and transformers build on the meta device."""
    rows = [FAMILIES["stable-diffusion"], FAMILIES["stable-diffusion-xl"]]
    built = {
        model: layer_shapes(family, configs)
        for family in rows
        for model, configs in family.released.items()
    }
    parts = ("unet", "text_encoder")
    toybox = {
        part: json.loads((weights_folder() / "base" / part / "config.json").read_text("utf-8"))
        for part in parts
    }
    packaged = {name: dict(model.shapes) for name, model in MODELS.items()}
    assert packaged == {**built, "toybox": layer_shapes(rows[0], toybox)}
    counts = {name: len(model.originals) for name, model in MODELS.items()}
    assert counts == {"SD 1": 282, "SD 2": 282, "SDXL": 794, "toybox": 119}
    assert len(MODELS["SDXL"].shapes) == 794 + 72 + 193


ORIGINAL_SD1 = {
    "input_blocks": [
        "conv", *["resnet+attention"] * 2, "down", *["resnet+attention"] * 2, "down",
        *["resnet+attention"] * 2, "down", "resnet", "resnet",
    ],
    "output_blocks": [
        "resnet", "resnet", "resnet+up", *["resnet+attention"] * 2, "resnet+attention+up",
        *["resnet+attention"] * 2, "resnet+attention+up", *["resnet+attention"] * 3,
    ],
}  # fmt: skip
ORIGINAL_SDXL = {
    "input_blocks": [
        "conv", "resnet", "resnet", "down", *["resnet+attention"] * 2, "down",
        *["resnet+attention"] * 2,
    ],
    "output_blocks": [
        *["resnet+attention"] * 2, "resnet+attention+up", *["resnet+attention"] * 2,
        "resnet+attention+up", *["resnet"] * 3,
    ],
}  # fmt: skip
"""What `UNetModel.__init__` of ldm and sgm appends for each family's levels."""


@pytest.mark.parametrize(
    ("model", "blocks"), [("SD 1", ORIGINAL_SD1), ("SD 2", ORIGINAL_SD1), ("SDXL", ORIGINAL_SDXL)]
)
def test_the_blocks_are_those_that_the_original_unet_builds(
    model: str, blocks: dict[str, list[str]]
) -> None:
    wanted = {}
    for side, kinds in blocks.items():
        for number, kind in enumerate(kinds):
            if kind in ("conv", "down"):
                wanted[side, number] = {"0"}
            else:
                wanted[side, number] = set(map(str, range(len(kind.split("+")))))
    present: dict[tuple[str, int], set[str]] = {}
    for path in MODELS[model].originals.values():
        side, number, *rest = path.split(".")
        if side in blocks:
            present.setdefault((side, int(number)), set()).add(rest[0])
    assert present == wanted


def test_one_residual_block_a_level_is_counted_too() -> None:
    modules = [f"down_blocks.{b}.resnets.0.conv1" for b in range(2)]
    modules += ["down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"]
    modules += [f"up_blocks.{b}.resnets.{n}.conv1" for b in range(2) for n in range(2)]
    assert original_paths([*modules, "motion_modules.0.x"]) == {
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0.conv1": "input_blocks.3.0.in_layers.2",
        "up_blocks.0.resnets.0.conv1": "output_blocks.0.0.in_layers.2",
        "up_blocks.0.resnets.1.conv1": "output_blocks.1.0.in_layers.2",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0.conv1": "output_blocks.2.0.in_layers.2",
        "up_blocks.1.resnets.1.conv1": "output_blocks.3.0.in_layers.2",
    }


def test_another_packages_models_are_known_too(tmp_path: Path) -> None:
    config = {
        "block_out_channels": [8, 8], "layers_per_block": 4, "cross_attention_dim": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "norm_num_groups": 4,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 4,
    }  # fmt: skip
    row = replace(
        stable_diffusion.FAMILY,
        name="deep",
        pipeline="x:DeepPipeline",
        released={"Deep 1": {"unet": config}},
    )
    path = written(
        tmp_path / "a.safetensors", "unet.down_blocks.1.attentions.3.proj_in", shape=(8, 8)
    )
    with pytest.raises(AdapterError, match="that none of"):
        read_adapter(path)
    with registered("selma.families", row):
        file = read_adapter(path)
        assert [model.model for model in file.models] == ["Deep 1"]
