"""Vectors of language models: which state they are, that none alters another, and the cache."""

import pytest
import torch
from applications.sur.sur_data import llm

from selma.backbones.language import states as language_states
from selma.backbones.language.loading import load_language_model
from selma.backbones.language.states import Reading, read_states
from selma.backbones.language.vectors import vectors, vectors_identity
from selma.config.networks import LlmVectors
from selma.errors import DataError, ModelError

KINDS = ("llama", "gpt2", "opt")
TEXTS = ["two red dog left of a tree", "cat", "is there a blue car", "one"]


@pytest.fixture(scope="module", params=KINDS)
def local(request):
    return load_language_model(llm(request.param).backend)


def hidden(local, text):
    """transformers' own: before the first block, behind each but the last, behind the last norm."""
    words = local._tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        out = local._model(
            words.input_ids, attention_mask=words.attention_mask, output_hidden_states=True
        )
    return [state[0] for state in out.hidden_states]


def test_layers_are_counted_from_zero_and_the_last_norm_is_a_choice(local):
    for text in TEXTS:
        states = hidden(local, text)
        first = local.states([text], Reading(layer=0))[0]
        torch.testing.assert_close(first, states[1][-1])
        normed = local.states([text], Reading(layer=1, final_norm=True))[0]
        torch.testing.assert_close(normed, states[2][-1])
        plain = local.states([text], Reading(layer=1))[0]
        assert not torch.allclose(plain, normed, atol=1e-3)  # what hidden_states cannot give
        assert torch.equal(plain, local.states([text], Reading())[0])


def test_pooling_by_name(local):
    states = hidden(local, TEXTS[0])[1]
    for pooling, expected in (("last", states[-1]), ("first", states[0]), ("mean", states.mean(0))):
        made = local.states([TEXTS[0]], Reading(layer=0, pooling=pooling))[0]
        torch.testing.assert_close(made, expected)


def test_no_text_alters_another(local):
    for pooling in ("last", "mean"):
        reading = Reading(pooling=pooling)
        together = local.states(TEXTS, reading)
        for n, text in enumerate(TEXTS):
            assert torch.equal(together[n], local.states([text], reading)[0])


def test_padding_on_the_right_is_not_looked_at(local):
    """As passes on a GPU are made: several rows of different length."""
    for pooling in ("last", "mean", "first"):
        reading, model = Reading(pooling=pooling), local._model
        alone = local.states(TEXTS, reading)

        inputs = language_states._read(model, local._tokenizer, TEXTS)
        assert len(set(inputs["attention_mask"].sum(1).tolist())) > 1
        blocks, _ = language_states._blocks(model)
        with torch.inference_mode():
            states = language_states._behind(blocks[-1], model, inputs)
            rows = language_states._pooled(states, inputs["attention_mask"], pooling)
        torch.testing.assert_close(rows, alone, atol=1e-5, rtol=1e-4)


def test_what_a_model_has_not_is_named(local):
    with pytest.raises(ModelError, match="0 to 1"):
        local.states(["cat"], Reading(layer=2))
    with pytest.raises(ModelError, match="list"):
        read_states(_Headless(local._model), local._tokenizer, ["cat"], Reading(), rows=1)


class _Headless(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.config, self.device = model.config, model.device


def test_an_empty_text_has_a_state():
    local = load_language_model(llm().backend)
    assert torch.isfinite(local.states(["", "  "], Reading())).all()


def never(*_):
    raise AssertionError("the language model was loaded")


def test_vectors_are_computed_once_whatever_their_order(tmp_path):
    config = llm()
    first = vectors(TEXTS, config, tmp_path)
    again = vectors(TEXTS[::-1] + TEXTS[:1], config, tmp_path, load=never)
    assert torch.equal(again, torch.cat([first.flip(0), first[:1]]))
    more = vectors([*TEXTS, "tree"], config, tmp_path)
    assert torch.equal(more[:4], first)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


@pytest.mark.parametrize("change", [{"layer": 0}, {"pooling": "mean"}, {"final_norm": True}])
def test_other_settings_are_other_vectors(tmp_path, change):
    first = vectors(TEXTS, llm(), tmp_path)
    other = vectors(TEXTS, llm(**change), tmp_path)
    assert not torch.allclose(first, other)
    assert vectors_identity(llm()) != vectors_identity(llm(**change))
    assert vectors_identity(llm()) == vectors_identity(llm(projection="pca"))
    assert vectors_identity(llm()) != vectors_identity(llm("gpt2"))


def test_a_damaged_shard_is_found_out(tmp_path):
    vectors(TEXTS, llm(), tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        vectors(TEXTS, llm(), tmp_path, load=never)


def test_released_dictionaries_are_read(tmp_path):
    path = tmp_path / "39.pt"
    torch.save({text: torch.full((5,), float(n)) for n, text in enumerate(TEXTS)}, path)
    config = LlmVectors(file=str(path))
    assert vectors(TEXTS[::-1], config, tmp_path)[:, 0].tolist() == [3.0, 2.0, 1.0, 0.0]
    with pytest.raises(DataError, match="1 has none"):
        vectors([*TEXTS, "tree"], config, tmp_path)
    torch.save({"cat": torch.zeros(5), "one": torch.zeros(4)}, path)
    with pytest.raises(DataError, match="one length"):
        vectors(["cat", "one"], config, tmp_path)


def test_the_embedded_model_has_a_vector_for_a_text(tmp_path):
    made = vectors(["two red dogs", "a blue cat"], LlmVectors(), tmp_path)
    assert made.shape == (2, 576) and made.dtype == torch.float32
    assert torch.isfinite(made).all() and not torch.allclose(made[0], made[1])
