"""BERT's peculiarities, each done wrong."""

import torch
from torch import nn

import minihf.models.bert as bert
from minihf.nn import losses
from parity_tests.faults.planting import fault, relabel


@fault("bert", "BertModel", "the output of embeddings.position_embeddings is")
def positions_counted_from_one(pair, monkeypatch):
    pair.ours.embeddings.position_embeddings.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@fault("bert", "BertModel", "the output of embeddings.LayerNorm is")
def token_types_left_out(pair, monkeypatch):
    embeddings = pair.ours.embeddings
    embeddings.forward = lambda words, types, positions: embeddings.dropout(
        embeddings.LayerNorm(words + embeddings.position_embeddings(positions))
    )


@fault("bert", "BertForSequenceClassification", "the output of bert.pooler")
def the_last_token_pooled(pair, monkeypatch):
    pooler = pair.ours.bert.pooler
    pooler.forward = lambda x: torch.tanh(pooler.dense(x[:, -1]))


@fault("bert", "BertForSequenceClassification")
def no_tanh_in_the_pooler(pair, monkeypatch):
    pooler = pair.ours.bert.pooler
    pooler.forward = lambda x: pooler.dense(x[:, 0])


@fault("bert", "BertForMaskedLM", "the output of cls.predictions")
def an_untied_head(pair, monkeypatch):
    decoder = pair.ours.cls["predictions"].decoder
    decoder.weight = nn.Parameter(decoder.weight.detach() * 1.001)


@fault("bert", "BertForMaskedLM", "word_embeddings.weight")
def a_tied_head_whose_gradient_does_not_reach_the_embeddings(pair, monkeypatch):
    decoder = pair.ours.cls["predictions"].decoder
    decoder.weight = nn.Parameter(decoder.weight.detach().clone())


@fault("bert", "BertForMaskedLM", "cls.predictions")
def no_norm_in_the_transform(pair, monkeypatch):
    transform = pair.ours.cls["predictions"].transform
    transform.forward = lambda x: transform.activation(transform.dense(x))


@fault("bert", "BertModel", "word_embeddings.weight")
def a_gradient_for_the_pad_token(pair, monkeypatch):
    pair.ours.embeddings.word_embeddings.padding_idx = None


@fault("bert", "BertForMaskedLM", "loss")
def labels_of_minus_100_that_count(pair, monkeypatch):
    relabel(bert, monkeypatch, lambda labels: labels.clamp(min=0))


@fault("bert", "BertLMHeadModel", "the gradient of cls.predictions.decoder is")
def labels_not_shifted(pair, monkeypatch):
    monkeypatch.setattr(bert, "next_tokens", lambda labels: labels)


@fault("bert", "BertForQuestionAnswering", "start_logits")
def start_and_end_swapped(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))


@fault("bert", "BertForQuestionAnswering", "loss")
def a_loss_summed_over_start_and_end(pair, monkeypatch):
    monkeypatch.setattr(bert, "span_loss", lambda *args: None if args[2] is None else 2 * losses.span_loss(*args))


@fault("bert", "BertForMultipleChoice", "the output of classifier is")
def choices_in_another_order(pair, monkeypatch):
    pair.ours.classifier.register_forward_hook(lambda module, args, output: output.roll(1, 0))


@fault("bert", "BertForTokenClassification")
def no_dropout_before_the_classifier(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("bert", "BertForPreTraining", "the gradient of cls.seq_relationship is")
def a_loss_of_one_head_only(pair, monkeypatch):
    monkeypatch.setattr(bert, "cross_entropy", lambda x, y: losses.cross_entropy(x, y) * (x.shape[-1] != 2))
