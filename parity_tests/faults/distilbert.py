"""DistilBERT's peculiarities, each done wrong: mostly, what BERT has and DistilBERT has not."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.distilbert as distilbert
from minihf.nn import losses
from parity_tests.faults.planting import fault, layer, relabel


@fault("distilbert", "DistilBertModel", "the output of embeddings.LayerNorm is")
def token_types_as_in_bert(pair, monkeypatch):
    first_segment = torch.linspace(-1, 1, pair.ours.config.dim, dtype=torch.float64)
    norm = pair.ours.embeddings.LayerNorm
    norm.register_forward_pre_hook(lambda module, args: (args[0] + first_segment.to(args[0].dtype),))


@fault("distilbert", "DistilBertModel", "the output of embeddings.position_embeddings is")
def positions_counted_from_one(pair, monkeypatch):
    pair.ours.embeddings.position_embeddings.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@fault("distilbert", "DistilBertModel", "the output of embeddings.LayerNorm is")
def an_eps_of_1e_5_in_the_embeddings(pair, monkeypatch):
    pair.ours.embeddings.LayerNorm.eps = 1e-5


@fault("distilbert", "DistilBertModel", "the output of transformer.layer.1.output_layer_norm is")
def an_eps_of_1e_5_in_a_layer(pair, monkeypatch):
    layer(pair).output_layer_norm.eps = 1e-5


@fault("distilbert", "DistilBertModel", "the output of transformer.layer.1.sa_layer_norm is")
def two_norms_of_a_layer_swapped(pair, monkeypatch):
    block = layer(pair)
    block.sa_layer_norm, block.output_layer_norm = block.output_layer_norm, block.sa_layer_norm


@fault("distilbert", "DistilBertModel", "the output of transformer.layer.1.sa_layer_norm is")
def no_residual_around_the_attention(pair, monkeypatch):
    block = layer(pair)

    def without(x, mask):
        x = block.sa_layer_norm(block.attention(x, mask)[0])
        return block.output_layer_norm(block.ffn(x) + x)

    block.forward = without


@fault("distilbert", "DistilBertModel", "the output of transformer.layer.1.attention.q_lin is")
def query_and_key_swapped(pair, monkeypatch):
    attention = layer(pair).attention
    attention.q_lin, attention.k_lin = attention.k_lin, attention.q_lin


@fault("distilbert", "DistilBertModel", "train")
def dropout_after_the_attention_as_in_bert(pair, monkeypatch):
    out = layer(pair).attention.out_lin
    out.register_forward_hook(lambda module, args, output: F.dropout(output, 0.15, module.training))


@fault("distilbert", "DistilBertModel", "train")
def no_dropout_in_a_feed_forward_network(pair, monkeypatch):
    layer(pair).ffn.dropout.p = 0.0


@fault("distilbert", "DistilBertForMaskedLM", "the output of vocab_layer_norm is")
def no_activation_in_the_transform(pair, monkeypatch):
    pair.ours.activation = lambda x: x


@fault("distilbert", "DistilBertForMaskedLM", "the output of vocab_projector is")
def a_projector_without_its_bias(pair, monkeypatch):
    pair.ours.vocab_projector.bias.data.zero_()


@fault("distilbert", "DistilBertForMaskedLM", "word_embeddings.weight")
def a_tied_projector_whose_gradient_does_not_reach_the_embeddings(pair, monkeypatch):
    pair.ours.vocab_projector.weight = nn.Parameter(pair.ours.vocab_projector.weight.detach().clone())


@fault("distilbert", "DistilBertForMaskedLM", "loss")
def labels_shifted_as_a_decoders(pair, monkeypatch):
    relabel(distilbert, monkeypatch, losses.next_tokens)


@fault("distilbert", "DistilBertForSequenceClassification", "the output of classifier is")
def tanh_as_in_berts_pooler(pair, monkeypatch):
    monkeypatch.setattr(distilbert, "F", type("F", (), {"relu": staticmethod(torch.tanh)}))


@fault("distilbert", "DistilBertForSequenceClassification", "the output of pre_classifier is")
def the_last_token_classified(pair, monkeypatch):
    def last_first(module, args, output):
        output.last_hidden_state = output.last_hidden_state.flip(1)
        return output

    pair.ours.distilbert.register_forward_hook(last_first)


@fault("distilbert", "DistilBertForSequenceClassification", "train")
def the_dropout_of_the_layers_before_the_classifier(pair, monkeypatch):
    pair.ours.dropout.p = pair.ours.config.dropout


@fault("distilbert", "DistilBertForQuestionAnswering", "train")
def the_dropout_of_the_layers_before_the_answer(pair, monkeypatch):
    pair.ours.dropout.p = pair.ours.config.dropout


@fault("distilbert", "DistilBertForQuestionAnswering", "the output of qa_outputs is")
def start_and_end_swapped_by_the_head(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))


@fault("distilbert", "DistilBertForTokenClassification", "train")
def no_dropout_before_the_token_classifier(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("distilbert", "DistilBertForMultipleChoice", "the output of classifier is")
def no_relu_before_the_choice(pair, monkeypatch):
    monkeypatch.setattr(distilbert, "F", type("F", (), {"relu": staticmethod(lambda x: x)}))
