"""A shared beginning, rows that leave the batch, and room for keys and values change no reply."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from selma.backbones.language import local
from selma.backbones.language.decoding import can_decode, decode
from selma.backbones.language.local import LocalModel
from selma.backbones.language.model import Sampling
from selma.config.networks import LocalLLM

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
RULES = [5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def network(request):
    torch.manual_seed(3)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    if request.param == "gpt2":  # positions from a table
        return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).eval()


def alone(network, prompt: list[int], *, most: int, end: int) -> list[int]:
    """Greedy tokens, each from a pass over all that is before it."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < most and (len(tokens) == len(prompt) or tokens[-1] != end):
        tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


PROMPTS = {
    "rules in common": [[*RULES, 20], [*RULES, 21, 22, 23], [*RULES, 24, 25], [*RULES, 26]],
    "one the beginning of all": [RULES, [*RULES, 20], [*RULES, 20, 30, 31]],
    "all the same": [RULES, RULES],
    "nothing in common": [[1, 2, 3], [4], [7, 8]],
    "a single one": [RULES],
    "single tokens": [[1], [1], [2]],
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@torch.inference_mode()
def test_each_prompt_goes_on_as_it_does_alone(network, prompts):
    at_most = [alone(network, prompt, most=12, end=-1) for prompt in prompts]
    # An end that comes at another place in each row, and in some not at all.
    for end in {-1, *at_most[0][2:6]}:
        seen: list[list[int]] = []

        def choose(rows, logits, seen=seen):
            seen.append(list(rows))
            return logits.argmax(-1).tolist()

        came = decode(
            network, prompts, choose=choose, ended=lambda new, end=end: new[-1] == end, most=12
        )
        assert came == [alone(network, prompt, most=12, end=end) for prompt in prompts]
        # A row is computed for as long as it goes on, and no longer.
        assert [sum(row in rows for rows in seen) for row in range(len(prompts))] == [
            len(new) for new in came
        ]


@torch.inference_mode()
def test_a_beginning_is_read_once(network):
    read: list[int] = []
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        decode(
            network,
            [[*RULES, n] for n in range(20, 30)],
            choose=lambda rows, logits: logits.argmax(-1).tolist(),
            ended=lambda new: False,
            most=3,
        )
    finally:
        handle.remove()
    assert read == [len(RULES), 10, 10, 10]


def test_models_that_keep_something_else_are_left_to_transformers(network):
    assert can_decode(network)
    sliding = MistralConfig(**SIZES, sliding_window=4)
    assert not can_decode(MistralForCausalLM(sliding))
    assert can_decode(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)))
    assert not can_decode(MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=2)))
    bloom = BloomConfig(vocab_size=99, hidden_size=16, n_layer=2, n_head=2)
    assert not can_decode(BloomForCausalLM(bloom))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(24, temperature=0.8, stop=("\n4.", " a")),
        Sampling(20, temperature=1.2, top_p=0.9),
        Sampling(20, grammar='start: " " ("one" | "two") (" red" | " blue")+ " cup"'),
    ],
    ids=["stops", "nucleus", "grammar"],
)
def test_replies_are_those_of_transformers_own_loop(sampling, monkeypatch):
    model = LocalModel(LocalLLM(batch_size=5))
    rules = "Things in a kitchen, short ones:\n1. a red cup\n2."
    prompts = [f"{rules} {thing}\n3." for thing in ("a pan", "two forks and a knife", "salt")]
    prompts += [rules, "The sea is"]
    ours = model.complete(prompts, seeds=range(5), sampling=sampling)
    monkeypatch.setattr(local, "can_decode", lambda network: False)
    theirs = model.complete(prompts, seeds=range(5), sampling=sampling)
    assert [(reply.text, reply.truncated) for reply in ours] == [
        (reply.text, reply.truncated) for reply in theirs
    ]
    assert len({reply.reply_tokens for reply in ours}) > 1 or not any(sampling.stop)
