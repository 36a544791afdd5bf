"""Faults in what all architectures share, planted in BERT and GPT-2."""

import torch
import torch.nn.functional as F

import minihf.models.bert as bert
import minihf.models.gpt2 as gpt2
from minihf.nn import attention, masks
from parity_tests.faults.planting import fault, layer


@fault("bert", "BertForMaskedLM", "the output of bert.encoder.layer.0.attention.self is")
def a_missing_scale(pair, monkeypatch):
    monkeypatch.setattr(bert, "attend", lambda *args, **kw: attention.attend(*args, **{**kw, "scale": 1.0}))


@fault("gpt2", "GPT2Model", "the output of h.0.attn.c_proj is")
def the_square_of_the_scale(pair, monkeypatch):
    for block in pair.ours.h:
        block.attn.scale **= 2


@fault("bert", "BertModel", "the output of encoder.layer.0.attention.self is")
def an_inverted_mask(pair, monkeypatch):
    def inverted(*args, **kw):
        mask = masks.encoder_mask(*args, **kw)
        return None if mask is None else ~mask

    monkeypatch.setattr(bert, "encoder_mask", inverted)


@fault("bert", "BertModel", "the output of encoder.layer.0.attention.self is")
def a_mask_that_is_forgotten(pair, monkeypatch):
    monkeypatch.setattr(bert, "encoder_mask", lambda *args, **kw: None)


@fault("gpt2", "GPT2LMHeadModel", "the output of transformer.h.0.attn.c_proj is")
def a_causal_mask_off_by_one(pair, monkeypatch):
    def late(q, k, v, mask, *, causal, **kw):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(1)[None, None] if mask is None else mask
        return attention.attend(q, k, v, mask, **kw)

    monkeypatch.setattr(gpt2, "attend", late)


@fault("gpt2", "GPT2LMHeadModel", "the output of transformer.h.0.attn.c_proj is")
def no_causal_mask(pair, monkeypatch):
    monkeypatch.setattr(gpt2, "attend", lambda *args, causal, **kw: attention.attend(*args, causal=False, **kw))


@fault("gpt2", "GPT2Model")
def dropout_on_the_context_instead_of_the_weights(pair, monkeypatch):
    def wrong(*args, dropout, **kw):
        context, weights = attention.attend(*args, dropout=0.0, **kw)
        return F.dropout(context, dropout), weights

    monkeypatch.setattr(gpt2, "attend", wrong)


@fault("bert", "BertModel")
def no_dropout_on_the_weights(pair, monkeypatch):
    monkeypatch.setattr(bert, "attend", lambda *args, dropout, **kw: attention.attend(*args, dropout=0.0, **kw))


@fault("bert", "BertModel", "layer.1.attention.self.query is")
def query_and_key_swapped_in_the_product(pair, monkeypatch):
    module = layer(pair).attention["self"]
    module.query, module.key = module.key, module.query


@fault("gpt2", "GPT2Model", "the output of h.1.attn.c_proj is")
def heads_split_in_the_wrong_order(pair, monkeypatch):
    def interleaved(x, parts, heads):
        return x.view(*x.shape[:-1], parts, -1, heads).permute(2, 0, 4, 1, 3).unbind()

    forward = type(layer(pair).attn).forward

    def wrong(self, *args, **kw):
        with monkeypatch.context() as patch:
            patch.setattr(gpt2, "split_parts", interleaved)
            return forward(self, *args, **kw)

    layer(pair).attn.forward = wrong.__get__(layer(pair).attn)


@fault("bert", "BertForMaskedLM", "layer.1.output.dense is")
def tanh_gelu_instead_of_the_exact_one(pair, monkeypatch):
    layer(pair).activation = lambda x: F.gelu(x, approximate="tanh")


@fault("gpt2", "GPT2Model", "h.1.mlp.c_proj is")
def the_exact_gelu_instead_of_tanh(pair, monkeypatch):
    layer(pair).mlp.activation = F.gelu


@fault("bert", "BertModel", "layer.1.attention.output.LayerNorm is")
def another_eps(pair, monkeypatch):
    layer(pair).attention["output"].LayerNorm.eps = 1e-5


@fault("gpt2", "GPT2Model", "h.1.ln_1 is")
def an_eps_of_another_size_in_one_norm(pair, monkeypatch):
    layer(pair).ln_1.eps = 2e-3


@fault("bert", "BertModel", "layer.1.attention.output.LayerNorm is")
def two_norms_swapped(pair, monkeypatch):
    first, second = layer(pair).attention["output"], layer(pair).output
    first.LayerNorm, second.LayerNorm = second.LayerNorm, first.LayerNorm


@fault("gpt2", "GPT2Model", "h.1.ln_1 is")
def two_norms_of_a_block_swapped(pair, monkeypatch):
    block = layer(pair)
    block.ln_1, block.ln_2 = block.ln_2, block.ln_1


@fault("gpt2", "GPT2Model", "h.1.attn.c_proj is")
def a_missing_bias(pair, monkeypatch):
    layer(pair).attn.c_proj.bias.data.zero_()


@fault("bert", "BertModel", "the output of encoder.layer.1.output.LayerNorm is")
def a_residual_left_out(pair, monkeypatch):
    module = layer(pair).output
    module.forward = lambda x, residual: module.LayerNorm(module.dropout(module.dense(x)))


@fault("gpt2", "GPT2LMHeadModel")
def a_gradient_that_stops_on_its_way(pair, monkeypatch):
    block = layer(pair)
    forward = block.mlp.forward
    block.mlp.forward = lambda x: forward(x).detach()


@fault("gpt2", "GPT2LMHeadModel", "gradient")
def a_gradient_twice_as_large(pair, monkeypatch):
    layer(pair).attn.register_full_backward_pre_hook(lambda module, gradients: (2 * gradients[0], *gradients[1:]))
