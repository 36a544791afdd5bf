"""Mistral's peculiarities, each done wrong."""

import torch

import minihf.models.mistral as mistral
from minihf.nn import attention, masks, rope
from minihf.nn.positions import positions_from_mask
from parity_tests.faults.planting import fault, layer


def another_window(monkeypatch, change):
    def wrong(*args, window, **kw):
        return masks.decoder_mask(*args, window=change(window), **kw)

    monkeypatch.setattr(mistral, "decoder_mask", wrong)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def a_window_of_one_more(pair, monkeypatch):
    """W tokens before the token itself."""
    another_window(monkeypatch, lambda window: window + 1)


@fault("mistral", "MistralForCausalLM", "the output of model.layers.0.self_attn.o_proj is")
def a_window_of_one_less(pair, monkeypatch):
    another_window(monkeypatch, lambda window: window - 1)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def no_window(pair, monkeypatch):
    another_window(monkeypatch, lambda window: None)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def a_window_on_both_sides(pair, monkeypatch):
    def wrong(attention_mask, scores, *, dtype, window, device, positions=None):
        T = scores[3]
        near = torch.ones(T, T, dtype=torch.bool).tril(window - 1).triu(1 - window)[None, None]
        return near if attention_mask is None else near & attention_mask.bool()[:, None, None]

    monkeypatch.setattr(mistral, "decoder_mask", wrong)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def a_window_that_counts_real_tokens_only(pair, monkeypatch):
    def wrong(attention_mask, scores, *, dtype, window, device, positions=None):
        if attention_mask is None or attention_mask[:, 0].eq(0).any() or attention_mask[:, -1].eq(0).any():
            return masks.decoder_mask(attention_mask, scores, dtype=dtype, window=window, device=device)
        places = positions_from_mask(attention_mask)
        near = places[:, None, :, None] - places[:, None, None, :] < window
        return near & masks.decoder_mask(attention_mask, scores, dtype=dtype)

    monkeypatch.setattr(mistral, "decoder_mask", wrong)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def a_window_in_every_second_layer_only(pair, monkeypatch):
    pair.ours.layers[0].self_attn.forward = lambda x, mask, rope_, cache=None, impl=None, self=pair.ours.layers[
        0
    ].self_attn: mistral.MistralAttention.forward(self, x, None, rope_, cache, impl)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def scores_scaled_by_the_share_of_the_width_instead_of_head_dim(pair, monkeypatch):
    monkeypatch.setattr(mistral, "attend", lambda *args, **kw: attention.attend(*args, **kw, scale=(30 / 6) ** -0.5))


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def keys_shared_by_every_second_query_instead_of_neighbours(pair, monkeypatch):
    def tiled(q, k, v, *args, **kw):
        n = q.shape[1] // k.shape[1]
        return attention.attend(q, k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1), *args, **kw)

    monkeypatch.setattr(mistral, "attend", tiled)


@fault("mistral", "MistralModel", "the output of layers.0.self_attn.o_proj is")
def keys_that_are_not_turned(pair, monkeypatch):
    heads = pair.ours.config.num_attention_heads
    monkeypatch.setattr(mistral, "rotate", lambda x, c, s: rope.rotate(x, c, s) if x.shape[1] == heads else x)


@fault("mistral", "MistralForCausalLM", "the output of model.rotary_emb is")
def positions_that_count_padding(pair, monkeypatch):
    monkeypatch.setattr(mistral, "positions_from_mask", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


@fault("mistral", "MistralModel")
def no_dropout_on_the_weights(pair, monkeypatch):
    monkeypatch.setattr(mistral, "attend", lambda *args, dropout, **kw: attention.attend(*args, dropout=0.0, **kw))


@fault("mistral", "MistralModel", "the output of layers.1.mlp.down_proj is")
def the_gate_and_what_it_gates_swapped(pair, monkeypatch):
    mlp = layer(pair).mlp
    mlp.forward = lambda x: mlp.down_proj(mlp.gate_proj(x) * mlp.activation(mlp.up_proj(x)))


@fault("mistral", "MistralModel", "the output of layers.1.post_attention_layernorm is")
def another_eps(pair, monkeypatch):
    layer(pair).post_attention_layernorm.eps = 1e-6


@fault("mistral", "MistralModel", "the output of norm is")
def no_final_norm(pair, monkeypatch):
    pair.ours.norm.forward = lambda x: x


@fault("mistral", "MistralForCausalLM", "the output of lm_head is")
def a_head_that_is_the_embeddings_where_it_should_not_be(pair, monkeypatch):
    pair.ours.lm_head.weight = pair.ours.model.embed_tokens.weight


@fault("mistral", "MistralForSequenceClassification", "the gradient of score is")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(mistral, "last_real", lambda x, ids, pad: x[:, -1])


@fault("mistral", "MistralForTokenClassification")
def no_dropout_before_the_classes(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("mistral", "MistralForQuestionAnswering", "the output of qa_outputs is")
def start_and_end_swapped(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))
