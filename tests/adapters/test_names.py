"""Every layer of the tiny models has one name in each format, and it leads back."""

import pytest
import tiny
from torch import nn

from selma.adapters import names


def layers(shape):
    """Our names of all layers that a LoRA can change."""
    pipe = tiny.load(shape).pipe
    for component in names.components():
        model = getattr(pipe, component, None)
        for path, module in model.named_modules() if model is not None else ():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield names.plain(component, path)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_kohyas_names_lead_back(shape):
    keys = list(layers(shape))
    assert len(keys) > 60
    found = [names.kohya_name(key, sdxl=shape == "sdxl", layers_per_block=1) for key in keys]
    assert None not in found
    assert len(set(found)) == len(keys)
    assert [names.from_kohya(name, layers_per_block=1) for name in found] == keys


REAL_SDXL = {  # as files of kohya's trainer have them
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q":
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj":
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
    "lora_unet_middle_block_1_transformer_blocks_3_attn2_to_out_0":
        "unet.mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0",
    "lora_unet_output_blocks_5_1_proj_in": "unet.up_blocks.1.attentions.2.proj_in",
    "lora_unet_output_blocks_2_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_input_blocks_3_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_input_blocks_1_0_in_layers_2": "unet.down_blocks.0.resnets.0.conv1",
    "lora_unet_output_blocks_8_0_skip_connection": "unet.up_blocks.2.resnets.2.conv_shortcut",
    "lora_unet_middle_block_2_emb_layers_1": "unet.mid_block.resnets.1.time_emb_proj",
    "lora_unet_label_emb_0_0": "unet.add_embedding.linear_1",
    "lora_te1_text_model_encoder_layers_3_mlp_fc1": "text_encoder.encoder.layers.3.mlp.fc1",
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj":
        "text_encoder_2.encoder.layers.31.self_attn.out_proj",
}  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), REAL_SDXL.items())
def test_names_of_real_sdxl_files(theirs, ours):
    assert names.from_kohya(theirs) == ours
    assert names.kohya_name(ours, sdxl=True) == theirs


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_mid_block_attentions_0_to_somewhere",
        "lora_unet_double_blocks_0_img_attn_qkv",  # Flux
        "lora_te_text_model_embeddings_token_embedding",
        "lora_vae_x",
        "lora_unet_output_blocks_2_7_conv",
        "lora_unet_",
    ],
)
def test_other_names_are_not_guessed(name):
    assert names.from_kohya(name) in (None, "unet.")
