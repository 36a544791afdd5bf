"""Marian's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.marian as marian
from minihf.nn import attention, masks
from minihf.nn.losses import next_tokens
from parity_tests.faults.planting import fault, layer, relabel


@fault("marian", "MarianModel", "the output of encoder.embed_positions is")
def sines_and_cosines_taking_turns(pair, monkeypatch):
    table = pair.ours.encoder.embed_positions.weight
    mixed = torch.empty_like(table)
    sines = (table.shape[1] + 1) // 2
    mixed[:, 0::2], mixed[:, 1::2] = table[:, :sines], table[:, sines:]
    pair.ours.encoder.embed_positions.weight = mixed


@fault("marian", "MarianModel", "the output of decoder.embed_positions is")
def cosines_first(pair, monkeypatch):
    table = pair.ours.decoder.embed_positions.weight
    sines = (table.shape[1] + 1) // 2
    pair.ours.decoder.embed_positions.weight = torch.cat([table[:, sines:], table[:, :sines]], dim=1)


@fault("marian", "MarianModel", "the output of encoder.embed_positions is")
def the_offset_of_barts_positions(pair, monkeypatch):
    pair.ours.encoder.embed_positions.weight = pair.ours.encoder.embed_positions.weight.roll(-2, 0)


@fault("marian", "MarianModel", "the output of encoder.layers.0.self_attn.q_proj is")
def an_encoder_that_does_not_scale_embeddings(pair, monkeypatch):
    pair.ours.encoder.scale = 1.0


@fault("marian", "MarianMTModel", "the output of model.decoder.layers.0.self_attn.q_proj is")
def a_decoder_that_does_not_scale_embeddings(pair, monkeypatch):
    pair.ours.model.decoder.scale = 1.0


@fault("marian", "MarianModel", "the output of encoder.layers.0.self_attn.q_proj is")
def an_encoder_that_scales_embeddings_made_elsewhere_too(pair, monkeypatch):
    encoder = pair.ours.encoder
    forward = encoder.forward

    def scaled(input_ids=None, attention_mask=None, inputs_embeds=None):
        return forward(input_ids, attention_mask, None if inputs_embeds is None else encoder.scale * inputs_embeds)

    encoder.forward = scaled


@fault("marian", "MarianModel", "the output of decoder.layers.0.self_attn.q_proj is")
def a_decoder_that_does_not_scale_embeddings_made_elsewhere(pair, monkeypatch):
    decoder = pair.ours.decoder
    forward = decoder.forward

    def unscaled(ids, mask, context, context_mask, cache, embeds, use_cache):
        embeds = None if embeds is None else embeds / decoder.scale
        return forward(ids, mask, context, context_mask, cache, embeds, use_cache)

    decoder.forward = unscaled


@fault("marian", "MarianModel", "the output of encoder.embed_positions is")
def positions_that_are_scaled_too(pair, monkeypatch):
    pair.ours.encoder.embed_positions.weight *= pair.ours.encoder.scale


@fault("marian", "MarianModel", "the output of decoder.layers.0.self_attn.q_proj is")
def a_norm_of_the_embeddings(pair, monkeypatch):
    first = layer(pair, 0, "decoder_")
    first.register_forward_pre_hook(lambda module, args: (F.layer_norm(args[0], args[0].shape[-1:]), *args[1:]))


@fault("marian", "MarianModel", "the output of encoder.layers.1.self_attn_layer_norm is")
def norms_before_the_sublayers(pair, monkeypatch):
    block = layer(pair, 1, "encoder_")

    def pre_norm(x, mask):
        x = x + block.dropout(block.self_attn(block.self_attn_layer_norm(x), mask)[0])
        inner = block.activation_dropout(block.activation(block.fc1(block.final_layer_norm(x))))
        return x + block.dropout(block.fc2(inner))

    block.forward = pre_norm


@fault("marian", "MarianModel", "the output of encoder.layers.0.self_attn_layer_norm is")
def another_eps(pair, monkeypatch):
    layer(pair, 0, "encoder_").self_attn_layer_norm.eps = 1e-6


@fault("marian", "MarianModel", "the output of encoder.layers.0.fc2 is")
def gelu_instead_of_swish(pair, monkeypatch):
    for side in ("encoder_", "decoder_"):
        for i in range(2):
            layer(pair, i, side).activation = F.gelu


@fault("marian", "MarianModel", "the output of encoder.layers.0.self_attn.out_proj is")
def an_encoder_that_sees_padding(pair, monkeypatch):
    monkeypatch.setattr(marian, "encoder_mask", lambda *args, **kw: None)


@fault("marian", "MarianModel", "the output of decoder.layers.0.encoder_attn.out_proj is")
def a_decoder_that_sees_the_sources_padding(pair, monkeypatch):
    def forgotten(mask, scores, **kw):
        return masks.encoder_mask(mask if scores[2] == scores[3] else None, scores, **kw)

    monkeypatch.setattr(marian, "encoder_mask", forgotten)


@fault("marian", "MarianModel", "the output of decoder.layers.0.self_attn.out_proj is")
def a_decoder_that_sees_its_own_padding(pair, monkeypatch):
    monkeypatch.setattr(marian, "decoder_mask", lambda *args, **kw: None)


@fault("marian", "MarianForCausalLM", "the output of model.decoder.layers.0.self_attn.out_proj is")
def no_causal_mask(pair, monkeypatch):
    monkeypatch.setattr(marian, "attend", lambda *args, causal, **kw: attention.attend(*args, causal=False, **kw))


@fault("marian", "MarianModel", "the output of decoder.layers.0.encoder_attn.out_proj is")
def a_causal_mask_over_the_source(pair, monkeypatch):
    layer(pair, 0, "decoder_").encoder_attn.causal = True


@fault("marian", "MarianModel", "the output of decoder.layers.0.self_attn.out_proj is")
def as_many_heads_in_the_decoder_as_in_the_encoder(pair, monkeypatch):
    for i in range(2):
        layer(pair, i, "decoder_").self_attn.heads = pair.ours.config.encoder_attention_heads


@fault("marian", "MarianModel", "the output of decoder.layers.1.encoder_attn.q_proj is")
def the_decoders_two_attentions_swapped(pair, monkeypatch):
    block = layer(pair, 1, "decoder_")

    def swapped(x, mask, cache=None, context=None, context_mask=None):
        x = block.encoder_attn_layer_norm(x + block.dropout(block.encoder_attn(x, context_mask, cache, context)[0]))
        x = block.self_attn_layer_norm(x + block.dropout(block.self_attn(x, mask, cache)[0]))
        inner = block.activation_dropout(block.activation(block.fc1(x)))
        return block.final_layer_norm(x + block.dropout(block.fc2(inner)))

    block.forward = swapped


@fault("marian", "MarianModel", "the output of decoder.layers.0.encoder_attn.k_proj is")
def keys_of_a_state_of_the_encoder_before_its_last_layer(pair, monkeypatch):
    last = layer(pair, 2, "encoder_")
    last.register_forward_pre_hook(lambda module, args: setattr(pair.ours, "before", args[0]))
    pair.ours.decoder.register_forward_pre_hook(lambda module, args: (*args[:2], pair.ours.before, *args[3:]))


@fault("marian", "MarianModel")
def no_dropout_between_the_two_linear_layers(pair, monkeypatch):
    layer(pair, 0, "encoder_").activation_dropout.p = 0.0


@fault("marian", "MarianModel")
def no_dropout_of_the_embeddings(pair, monkeypatch):
    pair.ours.decoder.dropout.p = 0.0


@fault("marian", "MarianModel", "shared.weight")
def a_pad_token_that_learns(pair, monkeypatch):
    pair.ours.encoder.embed_tokens.padding_idx = None


@fault("marian", "MarianMTModel", "the output of model.decoder.embed_tokens is")
def decoder_ids_that_are_the_labels(pair, monkeypatch):
    monkeypatch.setattr(marian, "shift_right", lambda ids, start, pad: ids.clamp(min=0))


@fault("marian", "MarianMTModel", "the output of model.decoder.embed_tokens is")
def decoder_ids_that_begin_with_the_end_token(pair, monkeypatch):
    shift_right = marian.shift_right
    end = pair.ours.config.eos_token_id
    monkeypatch.setattr(marian, "shift_right", lambda ids, start, pad: shift_right(ids, end, pad))


@fault("marian", "MarianMTModel", "the output of model.decoder.embed_tokens is")
def labels_that_do_not_count_read_as_the_first_token(pair, monkeypatch):
    shift_right = marian.shift_right
    monkeypatch.setattr(marian, "shift_right", lambda ids, start, pad: shift_right(ids, start, 0))


@fault("marian", "MarianMTModel", "logits")
def a_head_without_its_bias(pair, monkeypatch):
    pair.ours.final_logits_bias.zero_()


@fault("marian", "MarianMTModel", "lm_head.weight")
def a_tied_head_whose_gradient_does_not_reach_the_embeddings(pair, monkeypatch):
    pair.ours.lm_head.weight = nn.Parameter(pair.ours.lm_head.weight.detach().clone())


@fault("marian", "MarianMTModel", "model.shared.weight")
def a_decoder_with_embeddings_of_its_own(pair, monkeypatch):
    table = pair.ours.model.decoder.embed_tokens
    table.weight = nn.Parameter(table.weight.detach().clone())


@fault("marian", "MarianForCausalLM", "loss")
def labels_that_are_shifted(pair, monkeypatch):
    relabel(marian, monkeypatch, next_tokens)
