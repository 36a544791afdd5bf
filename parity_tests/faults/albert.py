"""ALBERT's peculiarities, each done wrong."""

import torch.nn.functional as F
from torch import nn

import minihf.models.albert as albert
from minihf.nn import losses
from parity_tests.faults.planting import fault, layer


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.1.albert_layers.0.attention.query is")
def groups_in_turn_rather_than_side_by_side(pair, monkeypatch):
    """0 1 0 instead of 0 0 1."""
    monkeypatch.setattr(albert, "group_of", lambda i, config: i % config.num_hidden_groups)


@fault("albert", "AlbertModel", "albert_layer_groups.0.albert_layers.0.ffn")
def a_second_use_of_a_layer_that_teaches_it_nothing(pair, monkeypatch):
    ffn, uses = layer(pair, 0).ffn, []

    def second_use_detached(x):
        uses.append(x)
        weight, bias = (p.detach() if len(uses) % 2 == 0 else p for p in (ffn.weight, ffn.bias))
        return F.linear(x, weight, bias)

    ffn.forward = second_use_detached


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.1.albert_layers.0.attention.query is")
def inner_layers_that_are_left_out_the_second_time(pair, monkeypatch):
    inner, uses = layer(pair, 0), []
    forward = inner.forward

    def once(x, mask):
        uses.append(x)
        return forward(x, mask) if len(uses) % 2 else x

    inner.forward = once


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.0.albert_layers.0.attention.query is")
def inner_layers_in_the_wrong_order(pair, monkeypatch):
    layers = pair.ours.encoder["albert_layer_groups"][0]["albert_layers"]
    first, second = layers
    layers[0], layers[1] = second, first


@fault("albert", "AlbertModel", "the output of encoder.embedding_hidden_mapping_in is")
def a_map_to_the_hidden_size_without_its_bias(pair, monkeypatch):
    pair.ours.encoder["embedding_hidden_mapping_in"].bias.data.zero_()


@fault("albert", "AlbertModel", "the output of encoder.embedding_hidden_mapping_in is")
def embeddings_that_are_not_normed_before_the_map(pair, monkeypatch):
    mapping = pair.ours.encoder["embedding_hidden_mapping_in"]
    heard = {}
    norm = pair.ours.embeddings.LayerNorm
    norm.register_forward_pre_hook(lambda module, args: heard.update(x=args[0]))
    mapping.register_forward_pre_hook(lambda module, args: (heard["x"],))


@fault("albert", "AlbertModel", "the output of embeddings.LayerNorm is")
def token_types_left_out_of_the_embeddings(pair, monkeypatch):
    embeddings = pair.ours.embeddings
    embeddings.forward = lambda words, types, positions: embeddings.dropout(
        embeddings.LayerNorm(words + embeddings.position_embeddings(positions))
    )


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.0.albert_layers.1.attention.LayerNorm is")
def the_two_norms_of_an_inner_layer_swapped(pair, monkeypatch):
    inner = layer(pair)
    inner.attention.LayerNorm, inner.full_layer_layer_norm = inner.full_layer_layer_norm, inner.attention.LayerNorm


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.0.albert_layers.1.full_layer_layer_norm is")
def no_residual_around_the_two_linear_layers(pair, monkeypatch):
    inner = layer(pair)

    def without(x, mask):
        x, _ = inner.attention(x, mask)
        return inner.full_layer_layer_norm(inner.ffn_output(inner.activation(inner.ffn(x))))

    inner.forward = without


@fault("albert", "AlbertModel", "the output of encoder.albert_layer_groups.0.albert_layers.1.ffn_output is")
def gelu_new_whatever_the_config_says(pair, monkeypatch):
    layer(pair).activation = lambda x: F.gelu(x, approximate="tanh")


@fault("albert", "AlbertModel", "train")
def dropout_after_the_two_linear_layers(pair, monkeypatch):
    """The reference makes one, and does not use it."""
    out = layer(pair).ffn_output
    out.register_forward_hook(lambda module, args, output: F.dropout(output, 0.1, module.training))


@fault("albert", "AlbertForSequenceClassification", "the output of classifier is")
def a_pooler_without_tanh(pair, monkeypatch):
    def undo(module, args, output):
        output.pooler_output = output.pooler_output.atanh()
        return output

    pair.ours.albert.register_forward_hook(undo)


@fault("albert", "AlbertForSequenceClassification", "train")
def the_dropout_of_the_layers_before_the_head(pair, monkeypatch):
    pair.ours.dropout.p = pair.ours.config.hidden_dropout_prob


@fault("albert", "AlbertForMaskedLM", "the output of predictions.decoder is")
def an_untied_decoder(pair, monkeypatch):
    decoder = pair.ours.predictions.decoder
    decoder.weight = nn.Parameter(decoder.weight.detach() * 1.001)


@fault("albert", "AlbertForMaskedLM", "the output of predictions.decoder is")
def no_norm_before_the_decoder(pair, monkeypatch):
    head = pair.ours.predictions
    head.forward = lambda x: head.decoder(head.activation(head.dense(x)))


@fault("albert", "AlbertForPreTraining", "the gradient of sop_classifier.classifier is")
def a_loss_without_the_sentence_order(pair, monkeypatch):
    monkeypatch.setattr(albert, "cross_entropy", lambda x, y: losses.cross_entropy(x, y) * (x.shape[-1] != 2))


@fault("albert", "AlbertForPreTraining", "train")
def no_dropout_before_the_sentence_order(pair, monkeypatch):
    pair.ours.sop_classifier["dropout"].p = 0.0


@fault("albert", "AlbertForPreTraining", "loss")
def a_sentence_order_read_the_other_way_round(pair, monkeypatch):
    monkeypatch.setattr(
        albert, "cross_entropy", lambda x, y: losses.cross_entropy(x, 1 - y if x.shape[-1] == 2 else y)
    )


@fault("albert", "AlbertForMultipleChoice", "the output of classifier is")
def choices_scored_for_another_text(pair, monkeypatch):
    pair.ours.classifier.register_forward_hook(lambda module, args, output: output.roll(1, 0))
