"""BART's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.bart as bart
from minihf.models import inputs
from minihf.nn.losses import next_tokens
from parity_tests.faults.planting import fault, layer, relabel


@fault("bart", "BartModel", "the output of encoder.layernorm_embedding is")
def no_offset_of_two(pair, monkeypatch):
    monkeypatch.setattr(bart, "UNUSED_POSITIONS", 0)


@fault("bart", "BartModel", "the output of decoder.embed_positions is")
def no_offset_in_the_decoder(pair, monkeypatch):
    table = pair.ours.decoder.embed_positions
    table.forward = lambda positions: table.weight[None, positions]


@fault("bart", "BartModel", "the output of encoder.embed_tokens is")
def embeddings_scaled_unasked(pair, monkeypatch):
    pair.ours.encoder.embed_tokens.scale = pair.ours.config.d_model**0.5


@fault("bart", "BartForConditionalGeneration", "the output of model.decoder.embed_tokens is")
def decoder_embeddings_scaled_unasked(pair, monkeypatch):
    pair.ours.model.decoder.embed_tokens.scale = pair.ours.config.d_model**0.5


@fault("bart", "BartModel", "the output of encoder.layernorm_embedding is")
def no_norm_of_the_embeddings(pair, monkeypatch):
    pair.ours.encoder.layernorm_embedding.forward = lambda x: x


@fault("bart", "BartModel", "encoder.layers.1")
def norms_before_the_sublayers(pair, monkeypatch):
    block = layer(pair, side="encoder_")

    def pre_norm(x, mask):
        x = x + block.self_attn(block.self_attn_layer_norm(x), mask)[0]
        return x + block.fc2(block.activation(block.fc1(block.final_layer_norm(x))))

    block.forward = pre_norm


@fault("bart", "BartModel", "the output of decoder.layers.1.encoder_attn_layer_norm is")
def two_norms_of_the_decoder_swapped(pair, monkeypatch):
    block = layer(pair, side="decoder_")
    block.encoder_attn_layer_norm, block.final_layer_norm = block.final_layer_norm, block.encoder_attn_layer_norm


@fault("bart", "BartModel", "the output of decoder.layers.0.encoder_attn")
def the_encoders_padding_seen_by_the_decoder(pair, monkeypatch):
    forward = pair.ours.decoder.forward
    pair.ours.decoder.forward = lambda ids, mask, context, context_mask, *rest: forward(ids, mask, context, None, *rest)


@fault("bart", "BartModel", "the output of decoder.layers.1.encoder_attn")
def a_layer_that_looks_at_the_decoder_instead_of_the_encoder(pair, monkeypatch):
    attention = layer(pair, side="decoder_").encoder_attn
    forward = attention.forward
    attention.forward = lambda x, mask, cache, context, impl=None: forward(x, None, None, x, impl=impl)


@fault("bart", "BartModel", "the output of decoder.layers.0.self_attn")
def a_decoder_that_sees_the_future(pair, monkeypatch):
    monkeypatch.setattr(bart, "decoder_mask", bart.encoder_mask)
    for block in pair.ours.decoder.layers:
        block.self_attn.causal = False


@fault("bart", "BartModel")
def no_dropout_between_the_linear_layers(pair, monkeypatch):
    layer(pair, side="decoder_").activation_dropout.p = 0.0


@fault("bart", "BartForConditionalGeneration", "logits")
def no_bias_of_the_logits(pair, monkeypatch):
    pair.ours.final_logits_bias.zero_()


@fault("bart", "BartForConditionalGeneration", "the output of lm_head is")
def a_head_that_is_not_the_embeddings(pair, monkeypatch):
    pair.ours.lm_head.weight = nn.Parameter(pair.ours.lm_head.weight.detach().roll(1, 0))


@fault("bart", "BartForConditionalGeneration", "model.decoder")
def labels_shifted_behind_the_wrong_start(pair, monkeypatch):
    monkeypatch.setattr(bart, "shift_right", lambda ids, start, pad: inputs.shift_right(ids, pad, pad))


@fault("bart", "BartForConditionalGeneration", "model.decoder")
def ignored_labels_read_as_the_start_token(pair, monkeypatch):
    monkeypatch.setattr(bart, "shift_right", lambda ids, start, pad: inputs.shift_right(ids, start, start))


@fault("bart", "BartForConditionalGeneration", "loss")
def a_loss_shifted_once_more(pair, monkeypatch):
    relabel(bart, monkeypatch, next_tokens)


@fault("bart", "BartForCausalLM", "loss")
def a_shifted_loss_of_the_decoder_alone(pair, monkeypatch):
    relabel(bart, monkeypatch, next_tokens)


@fault("bart", "BartForSequenceClassification", "the output of classification_head")
def the_first_end_token_instead_of_the_last(pair, monkeypatch):
    def first(x, ids, end):
        return x[torch.arange(len(x)), (ids == end).long().argmax(-1)]

    monkeypatch.setattr(bart, "at_last_end", first)


@fault("bart", "BartForSequenceClassification", "the output of classification_head.out_proj is")
def a_classification_head_without_tanh(pair, monkeypatch):
    head = pair.ours.classification_head
    head.forward = lambda x: head.out_proj(head.dropout(F.relu(head.dense(head.dropout(x)))))
