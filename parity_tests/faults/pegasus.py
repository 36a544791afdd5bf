"""PEGASUS's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F

import minihf.models.pegasus as pegasus
from minihf.nn import attention, masks
from minihf.nn.losses import next_tokens
from parity_tests.faults.planting import fault, layer, relabel


@fault("pegasus", "PegasusModel", "the output of decoder.embed_positions is")
def sines_and_cosines_taking_turns(pair, monkeypatch):
    table = pair.ours.decoder.embed_positions.weight
    mixed = torch.empty_like(table)
    sines = (table.shape[1] + 1) // 2
    mixed[:, 0::2], mixed[:, 1::2] = table[:, :sines], table[:, sines:]
    pair.ours.decoder.embed_positions.weight = mixed


@fault("pegasus", "PegasusModel", "the output of encoder.embed_positions is")
def the_offset_of_barts_positions(pair, monkeypatch):
    pair.ours.encoder.embed_positions.weight = pair.ours.encoder.embed_positions.weight.roll(-2, 0)


@fault("pegasus", "PegasusModel", "the output of encoder.layers.0.self_attn_layer_norm is")
def an_encoder_that_does_not_scale_embeddings(pair, monkeypatch):
    pair.ours.encoder.scale = 1.0


@fault("pegasus", "PegasusForCausalLM", "the output of model.decoder.layers.0.self_attn_layer_norm is")
def a_decoder_that_does_not_scale_embeddings(pair, monkeypatch):
    pair.ours.model.decoder.scale = 1.0


@fault("pegasus", "PegasusModel", "the output of encoder.layers.0.self_attn_layer_norm is")
def an_encoder_that_scales_embeddings_made_elsewhere_too(pair, monkeypatch):
    encoder = pair.ours.encoder
    forward = encoder.forward

    def scaled(input_ids=None, attention_mask=None, inputs_embeds=None):
        return forward(input_ids, attention_mask, None if inputs_embeds is None else encoder.scale * inputs_embeds)

    encoder.forward = scaled


@fault("pegasus", "PegasusModel", "the output of encoder.layers.1.self_attn.q_proj is")
def norms_after_the_sublayers(pair, monkeypatch):
    block = layer(pair, 1, "encoder_")

    def post_norm(x, mask):
        x = block.self_attn_layer_norm(x + block.dropout(block.self_attn(x, mask)[0]))
        inner = block.activation_dropout(block.activation(block.fc1(x)))
        return block.final_layer_norm(x + block.dropout(block.fc2(inner)))

    block.forward = post_norm


@fault("pegasus", "PegasusModel", "the output of decoder.layers.1.encoder_attn.q_proj is")
def a_look_at_the_text_without_a_norm_before(pair, monkeypatch):
    block = layer(pair, 1, "decoder_")
    block.self_attn_layer_norm.register_forward_hook(lambda module, args, output: setattr(block, "before", args[0]))
    block.encoder_attn.q_proj.register_forward_pre_hook(lambda module, args: (block.raw,))
    block.encoder_attn_layer_norm.register_forward_hook(lambda module, args, output: setattr(block, "raw", args[0]))


@fault("pegasus", "PegasusModel", "the output of encoder.layer_norm is")
def no_last_norm_of_the_encoder(pair, monkeypatch):
    pair.ours.encoder.layer_norm.forward = lambda x: x


@fault("pegasus", "PegasusForConditionalGeneration", "the output of model.decoder.layer_norm is")
def no_last_norm_of_the_decoder(pair, monkeypatch):
    pair.ours.model.decoder.layer_norm.forward = lambda x: x


@fault("pegasus", "PegasusModel", "the output of decoder.layers.0.encoder_attn.k_proj is")
def a_decoder_that_looks_at_the_encoder_before_its_last_norm(pair, monkeypatch):
    def keep(module, args):
        pair.ours.before = args[0]

    pair.ours.encoder.layer_norm.register_forward_pre_hook(keep)
    pair.ours.decoder.register_forward_pre_hook(lambda module, args: (*args[:2], pair.ours.before, *args[3:]))


@fault("pegasus", "PegasusModel", "the output of decoder.layer_norm is")
def another_eps(pair, monkeypatch):
    pair.ours.decoder.layer_norm.eps = 1e-6


@fault("pegasus", "PegasusModel", "the output of encoder.layers.0.fc2 is")
def gelu_instead_of_relu(pair, monkeypatch):
    for side in ("encoder_", "decoder_"):
        for i in range(2):
            layer(pair, i, side).activation = F.gelu


@fault("pegasus", "PegasusModel", "the output of decoder.layers.0.encoder_attn.out_proj is")
def a_decoder_that_sees_the_texts_padding(pair, monkeypatch):
    def forgotten(mask, scores, **kw):
        return masks.encoder_mask(mask if scores[2] == scores[3] else None, scores, **kw)

    monkeypatch.setattr(pegasus, "encoder_mask", forgotten)


@fault("pegasus", "PegasusForCausalLM", "the output of model.decoder.layers.0.self_attn.out_proj is")
def no_causal_mask(pair, monkeypatch):
    monkeypatch.setattr(pegasus, "attend", lambda *args, causal, **kw: attention.attend(*args, causal=False, **kw))


@fault("pegasus", "PegasusModel", "the output of decoder.layers.0.self_attn.out_proj is")
def as_many_heads_in_the_decoder_as_in_the_encoder(pair, monkeypatch):
    for i in range(2):
        layer(pair, i, "decoder_").self_attn.heads = pair.ours.config.encoder_attention_heads


@fault("pegasus", "PegasusModel")
def dropout_after_the_last_norm(pair, monkeypatch):
    encoder = pair.ours.encoder
    encoder.layer_norm.register_forward_hook(lambda module, args, output: encoder.dropout(output))


@fault("pegasus", "PegasusForConditionalGeneration", "the output of model.decoder.embed_tokens is")
def decoder_ids_that_begin_with_the_end_token(pair, monkeypatch):
    shift_right = pegasus.shift_right
    end = pair.ours.config.eos_token_id
    monkeypatch.setattr(pegasus, "shift_right", lambda ids, start, pad: shift_right(ids, end, pad))


@fault("pegasus", "PegasusForConditionalGeneration", "logits")
def a_head_without_its_bias(pair, monkeypatch):
    pair.ours.final_logits_bias.zero_()


@fault("pegasus", "PegasusForCausalLM", "loss")
def labels_that_are_shifted(pair, monkeypatch):
    relabel(pegasus, monkeypatch, next_tokens)
