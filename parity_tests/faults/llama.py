"""Llama's peculiarities, each done wrong."""

import torch

import minihf.models.llama as llama
from minihf.nn import attention, rope
from parity_tests.faults.planting import fault, layer


@fault("llama", "LlamaModel", "the output of layers.0.self_attn.o_proj is")
def neighbouring_channels_turned_together_instead_of_halves(pair, monkeypatch):
    def interleaved(x, cos, sin):
        order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten()  # 0 2 4 … 1 3 5 …
        return rope.rotate(x[..., order], cos, sin)[..., order.argsort()]

    monkeypatch.setattr(llama, "rotate", interleaved)


@fault("llama", "LlamaModel", "the output of layers.0.self_attn.o_proj is")
def a_rotation_the_other_way_of_queries_alone(pair, monkeypatch):
    heads = pair.ours.config.num_attention_heads
    monkeypatch.setattr(llama, "rotate", lambda x, c, s: rope.rotate(x, c, -s if x.shape[1] == heads else s))


@fault("llama", "LlamaModel", "the output of layers.0.self_attn.o_proj is")
def keys_that_are_not_turned(pair, monkeypatch):
    heads = pair.ours.config.num_attention_heads
    monkeypatch.setattr(llama, "rotate", lambda x, c, s: rope.rotate(x, c, s) if x.shape[1] == heads else x)


@fault("llama", "LlamaForCausalLM", "the output of model.layers.0.self_attn.o_proj is")
def values_turned_too(pair, monkeypatch):
    def wrong(self, x, mask, rope_, cache=None, impl=None):
        with monkeypatch.context() as patch:
            patch.setattr(llama, "attend", lambda q, k, v, *a, **kw: attention.attend(
                q, k, rope.rotate(v, *rope_), *a, **kw))
            return forward(self, x, mask, rope_, cache, impl)

    forward = llama.LlamaAttention.forward
    monkeypatch.setattr(llama.LlamaAttention, "forward", wrong)


@fault("llama", "LlamaModel", "the output of rotary_emb is")
def another_theta(pair, monkeypatch):
    wrong = {**pair.ours.rotary_emb.rope, "rope_theta": 51.0}
    pair.ours.rotary_emb.here = rope.inverse_frequencies(wrong, 8, 10)


@fault("llama", "LlamaModel", "the output of rotary_emb is")
def frequencies_of_whole_heads_instead_of_halves(pair, monkeypatch):
    exponents = torch.arange(4) / 8  # not 0, 2, 4, 6
    pair.ours.rotary_emb.here = 50.0**-exponents


@fault("llama", "LlamaForCausalLM", "the output of model.rotary_emb is")
def positions_that_count_padding(pair, monkeypatch):
    monkeypatch.setattr(llama, "positions_from_mask", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


@fault("llama", "LlamaModel", "the output of layers.0.self_attn.o_proj is")
def keys_shared_by_every_second_query_instead_of_neighbours(pair, monkeypatch):
    def tiled(q, k, v, *args, **kw):
        n = q.shape[1] // k.shape[1]
        return attention.attend(q, k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1), *args, **kw)

    monkeypatch.setattr(llama, "attend", tiled)


@fault("llama", "LlamaModel", "the output of layers.0.self_attn.o_proj is")
def scores_scaled_by_the_share_of_the_width_instead_of_head_dim(pair, monkeypatch):
    monkeypatch.setattr(llama, "attend", lambda *args, **kw: attention.attend(*args, **kw, scale=(30 / 6) ** -0.5))


@fault("llama", "LlamaModel")
def no_dropout_on_the_weights(pair, monkeypatch):
    monkeypatch.setattr(llama, "attend", lambda *args, dropout, **kw: attention.attend(*args, dropout=0.0, **kw))


@fault("llama", "LlamaModel", "the output of layers.1.input_layernorm is")
def a_norm_that_takes_the_mean_away(pair, monkeypatch):
    norm = layer(pair).input_layernorm
    forward = norm.forward
    norm.forward = lambda x: forward(x - x.mean(-1, keepdim=True))


@fault("llama", "LlamaModel", "the output of layers.1.input_layernorm is")
def an_eps_outside_the_root(pair, monkeypatch):
    norm = layer(pair).input_layernorm
    norm.forward = lambda x: norm.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + norm.eps)


@fault("llama", "LlamaModel", "the output of layers.1.post_attention_layernorm is")
def another_eps(pair, monkeypatch):
    layer(pair).post_attention_layernorm.eps = 1e-5


@fault("llama", "LlamaModel", "the output of layers.1.input_layernorm is")
def two_norms_swapped(pair, monkeypatch):
    block = layer(pair)
    block.input_layernorm, block.post_attention_layernorm = block.post_attention_layernorm, block.input_layernorm


@fault("llama", "LlamaModel", "the output of norm is")
def no_final_norm(pair, monkeypatch):
    pair.ours.norm.forward = lambda x: x


@fault("llama", "LlamaModel", "the output of layers.1.mlp.down_proj is")
def the_gate_and_what_it_gates_swapped(pair, monkeypatch):
    mlp = layer(pair).mlp
    mlp.forward = lambda x: mlp.down_proj(mlp.gate_proj(x) * mlp.activation(mlp.up_proj(x)))


@fault("llama", "LlamaForCausalLM", "the output of lm_head is")
def a_head_that_is_the_embeddings_where_it_should_not_be(pair, monkeypatch):
    pair.ours.lm_head.weight = pair.ours.model.embed_tokens.weight


@fault("llama", "LlamaForSequenceClassification", "the gradient of score is")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(llama, "last_real", lambda x, ids, pad: x[:, -1])


@fault("llama", "LlamaForTokenClassification")
def no_dropout_before_the_classes(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("llama", "LlamaForQuestionAnswering", "start_logits")
def start_and_end_swapped(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))
