"""Mixtral's peculiarities, each done wrong. Those of its auxiliary loss are in `models/test_mixtral.py`.

A softmax over the chosen logits instead of all is no fault: renormalised shares are the same.
"""

import torch
import torch.nn.functional as F

import minihf.models.mixtral as mixtral
from minihf.nn import rope
from parity_tests.faults.planting import fault, layer


def other_shares(monkeypatch, change):
    right = mixtral.route

    def wrong(logits, k):
        chosen, shares = right(logits, k)
        return chosen, change(logits, chosen, shares)

    monkeypatch.setattr(mixtral, "route", wrong)


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def shares_that_are_not_made_to_sum_to_one(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: logits.softmax(-1).gather(-1, chosen))


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def a_softmax_before_the_choice_and_one_after(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: logits.softmax(-1).gather(-1, chosen).softmax(-1))


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def a_sigmoid_instead_of_the_softmax(pair, monkeypatch):
    def change(logits, chosen, shares):
        shares = logits.gather(-1, chosen).sigmoid()
        return shares / shares.sum(-1, keepdim=True)

    other_shares(monkeypatch, change)


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def answers_that_all_count_the_same(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: torch.full_like(shares, 1 / 3))


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def shares_in_the_order_of_the_experts_instead_of_the_choice(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: shares.gather(-1, chosen.argsort(-1)))


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def shares_rounded_to_float32(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: shares.type(torch.float32).double())


@fault("mixtral", "MixtralForCausalLM", "the output of model.layers.0.mlp.experts is")
def one_expert_less(pair, monkeypatch):
    right = mixtral.route
    monkeypatch.setattr(mixtral, "route", lambda logits, k: right(logits, k - 1))


@fault("mixtral", "MixtralModel", "the gradient of layers.2.post_attention_layernorm is")
def a_router_that_does_not_learn(pair, monkeypatch):
    other_shares(monkeypatch, lambda logits, chosen, shares: shares.detach())


@fault("mixtral", "MixtralModel", "the output of layers.1.mlp.experts is")
def an_experts_gate_and_what_it_gates_swapped(pair, monkeypatch):
    """w1 and w3 of the files."""
    with torch.no_grad():
        matrices = layer(pair).mlp.experts.gate_up_proj[2]
        matrices.copy_(matrices.roll(len(matrices) // 2, 0))


@fault("mixtral", "MixtralModel", "the output of layers.1.mlp.experts is")
def two_experts_swapped(pair, monkeypatch):
    with torch.no_grad():
        down = layer(pair).mlp.experts.down_proj
        down[:2] = down[:2].flip(0)


@fault("mixtral", "MixtralModel", "the output of layers.1.mlp.experts is")
def no_gates(pair, monkeypatch):
    layer(pair).mlp.experts.activation = torch.nn.Identity()


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.experts is")
def no_more_than_one_token_for_an_expert_in_ten(pair, monkeypatch):
    """A capacity, beyond which tokens are turned away, as in other mixtures of experts."""
    experts, right = layer(pair, 0).mlp.experts, mixtral.MixtralExperts.forward

    def wrong(x, chosen, shares):
        room = max(1, len(x) // 10)
        asked = F.one_hot(chosen, 5).sum(1).cumsum(0).gather(1, chosen)
        return right(experts, x, chosen, shares * (asked <= room))

    experts.forward = wrong


@fault("mixtral", "MixtralModel", "the output of layers.0.mlp.gate is")
def jitter_where_none_is_asked_for(pair, monkeypatch):
    pair.ours.config.router_jitter_noise = 0.1


@fault("mixtral", "MixtralModel", "the output of layers.1.mlp.gate is")
def a_router_that_reads_what_is_not_normed(pair, monkeypatch):
    block = layer(pair)
    read = []
    block.post_attention_layernorm.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    block.mlp.gate.register_forward_pre_hook(lambda module, args: (read.pop().flatten(0, 1),))


@fault("mixtral", "MixtralModel", "the output of layers.0.self_attn.o_proj is")
def a_window_where_there_is_none(pair, monkeypatch):
    pair.ours.config.sliding_window = 5


@fault("mixtral", "MixtralModel", "the output of rotary_emb is")
def mistrals_theta(pair, monkeypatch):
    wrong = {**pair.ours.rotary_emb.rope, "rope_theta": 10_000.0}
    pair.ours.rotary_emb.here = rope.inverse_frequencies(wrong, 8, 10)


@fault("mixtral", "MixtralModel", "the output of layers.1.post_attention_layernorm is")
def another_eps(pair, monkeypatch):
    layer(pair).post_attention_layernorm.eps = 1e-5


@fault("mixtral", "MixtralForSequenceClassification", "the gradient of score is")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(mixtral, "last_real", lambda x, ids, pad: x[:, -1])


@fault("mixtral", "MixtralForTokenClassification")
def no_dropout_before_the_classes(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("mixtral", "MixtralForQuestionAnswering", "the output of qa_outputs is")
def start_and_end_swapped(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))
