"""CTRL's peculiarities, each done wrong."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.ctrl as ctrl
from minihf.nn import attention
from parity_tests.faults.planting import fault, layer


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def sines_and_cosines_taking_turns(pair, monkeypatch):
    table = pair.ours.pos_encoding
    mixed = torch.empty_like(table)
    sines = (table.shape[1] + 1) // 2
    mixed[:, 0::2], mixed[:, 1::2] = table[:, :sines], table[:, sines:]
    pair.ours.pos_encoding = mixed


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def cosines_first(pair, monkeypatch):
    table = pair.ours.pos_encoding
    sines = (table.shape[1] + 1) // 2
    pair.ours.pos_encoding = torch.cat([table[:, sines:], table[:, :sines]], dim=1)


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def positions_counted_from_one(pair, monkeypatch):
    pair.ours.pos_encoding = pair.ours.pos_encoding.roll(-1, 0)


@fault("ctrl", "CTRLLMHeadModel", "the output of transformer.h.0.layernorm1 is")
def positions_that_count_padding_too(pair, monkeypatch):
    monkeypatch.setattr(ctrl, "positions_from_mask", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def embeddings_that_are_not_scaled(pair, monkeypatch):
    forward, scale = pair.ours.forward, pair.ours.config.n_embd**0.5

    def unscaled(input_ids=None, inputs_embeds=None, **kw):
        x = pair.ours.w(input_ids) if inputs_embeds is None else inputs_embeds
        return forward(inputs_embeds=x / scale, **kw)

    pair.ours.forward = unscaled


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def token_types_that_are_not_scaled(pair, monkeypatch):
    forward, scale = pair.ours.forward, pair.ours.config.n_embd**0.5

    def unscaled(input_ids=None, inputs_embeds=None, token_type_ids=None, **kw):
        x = pair.ours.w(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is not None:
            x = x + pair.ours.w(token_type_ids) / scale
        return forward(inputs_embeds=x, **kw)

    pair.ours.forward = unscaled


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def positions_that_are_scaled_too(pair, monkeypatch):
    pair.ours.pos_encoding *= pair.ours.config.n_embd**0.5


@fault("ctrl", "CTRLModel", "the output of h.0.layernorm1 is")
def the_configs_eps_in_the_blocks(pair, monkeypatch):
    for block in pair.ours.h:
        block.layernorm1.eps = block.layernorm2.eps = pair.ours.config.layer_norm_epsilon


@fault("ctrl", "CTRLModel", "the output of layernorm is")
def the_blocks_eps_in_the_last_norm(pair, monkeypatch):
    pair.ours.layernorm.eps = 1e-6


@fault("ctrl", "CTRLModel", "the output of h.1.multi_head_attention.Wq is")
def norms_after_the_sublayers(pair, monkeypatch):
    block = layer(pair)

    def post_norm(x, mask, cache=None):
        x = block.layernorm1(x + block.multi_head_attention(x, mask, cache)[0])
        return block.layernorm2(x + block.ffn["2"](F.relu(block.ffn["0"](x))))

    block.forward = post_norm


@fault("ctrl", "CTRLLMHeadModel", "the output of transformer.layernorm is")
def no_final_norm(pair, monkeypatch):
    pair.ours.transformer.layernorm.forward = lambda x: x


@fault("ctrl", "CTRLModel", "the output of h.0.ffn.2 is")
def gelu_instead_of_relu(pair, monkeypatch):
    monkeypatch.setattr(ctrl, "F", SimpleNamespace(relu=F.gelu))


@fault("ctrl", "CTRLModel", "the output of h.1.multi_head_attention.Wq is")
def queries_and_keys_swapped(pair, monkeypatch):
    module = layer(pair).multi_head_attention
    module.Wq, module.Wk = module.Wk, module.Wq


@fault("ctrl", "CTRLModel", "the output of h.1.multi_head_attention.Wv is")
def values_made_of_what_was_not_normed(pair, monkeypatch):
    block = layer(pair)
    block.register_forward_pre_hook(lambda module, args: setattr(module, "raw", args[0]))
    block.multi_head_attention.Wv.register_forward_pre_hook(lambda module, args: (block.raw,))


@fault("ctrl", "CTRLModel", "the output of h.0.multi_head_attention.dense is")
def scores_without_a_scale(pair, monkeypatch):
    monkeypatch.setattr(ctrl, "attend", lambda *args, **kw: attention.attend(*args, **kw, scale=1.0))


@fault("ctrl", "CTRLModel", "the output of h.0.multi_head_attention.dense is")
def dropout_on_the_attention_weights(pair, monkeypatch):
    module = layer(pair, 0).multi_head_attention

    def dropped(*args, **kw):
        return attention.attend(*args, **kw, dropout=0.1 if module.training else 0.0)

    monkeypatch.setattr(ctrl, "attend", dropped)


@fault("ctrl", "CTRLLMHeadModel", "the output of lm_head is")
def a_head_without_its_bias(pair, monkeypatch):
    pair.ours.lm_head.bias.data.zero_()


@fault("ctrl", "CTRLLMHeadModel", "lm_head.weight")
def a_tied_head_whose_gradient_does_not_reach_the_embeddings(pair, monkeypatch):
    pair.ours.lm_head.weight = nn.Parameter(pair.ours.lm_head.weight.detach().clone())


@fault("ctrl", "CTRLForSequenceClassification", "logits")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(ctrl, "last_real", lambda x, ids, pad: x[:, -1])
