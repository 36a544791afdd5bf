"""RoBERTa's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.roberta as roberta
from minihf.nn import positions
from parity_tests.faults.planting import fault

TABLE = "embeddings.position_embeddings is"
POSITIONS = f"the output of {TABLE}"


@fault("roberta", "RobertaModel", POSITIONS)
def positions_counted_from_zero(pair, monkeypatch):
    monkeypatch.setattr(
        roberta,
        "positions_from_ids",
        lambda ids, pad, past: (positions.positions_from_ids(ids, pad, past) - pad - 1).clamp(min=0),
    )


@fault("roberta", "RobertaModel", POSITIONS)
def positions_counted_from_the_id_of_the_pad_token(pair, monkeypatch):
    monkeypatch.setattr(
        roberta, "positions_from_ids", lambda ids, pad, past: positions.positions_from_ids(ids, pad, past) - 1
    )


@fault("roberta", "RobertaModel", POSITIONS)
def positions_that_count_pad_tokens(pair, monkeypatch):
    monkeypatch.setattr(
        roberta, "positions_from_ids", lambda ids, pad, past: torch.arange(ids.shape[1]).expand(ids.shape) + pad + 1
    )


@fault("roberta", "RobertaModel", POSITIONS)
def a_pad_token_that_stands_where_the_token_before_it_does(pair, monkeypatch):
    monkeypatch.setattr(roberta, "positions_from_ids", lambda ids, pad, past: pad + (ids != pad).long().cumsum(-1))


@fault("roberta", "RobertaModel", "position_embeddings.weight")
def a_gradient_for_the_position_of_padding(pair, monkeypatch):
    pair.ours.embeddings.position_embeddings.padding_idx = None


@fault("camembert", "CamembertForTokenClassification", f"the output of roberta.{TABLE}")
def positions_of_camembert_off_by_one(pair, monkeypatch):
    table = pair.ours.roberta.embeddings.position_embeddings
    table.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@fault("xlm-roberta", "XLMRobertaForMaskedLM", "the output of lm_head.decoder is")
def the_bias_of_the_head_left_out(pair, monkeypatch):
    pair.ours.lm_head.decoder.bias = nn.Parameter(torch.zeros_like(pair.ours.lm_head.bias))


@fault("roberta", "RobertaForMaskedLM", "lm_head.bias")
def a_bias_of_the_head_that_is_a_copy(pair, monkeypatch):
    pair.ours.lm_head.decoder.bias = nn.Parameter(pair.ours.lm_head.bias.detach().clone())


@fault("roberta", "RobertaForMaskedLM", "the output of lm_head.layer_norm is")
def relu_in_the_head(pair, monkeypatch):
    head = pair.ours.lm_head
    head.forward = lambda x: head.decoder(head.layer_norm(F.relu(head.dense(x))))


@fault("roberta", "RobertaForCausalLM", "the output of lm_head.decoder is")
def no_norm_in_the_head(pair, monkeypatch):
    head = pair.ours.lm_head
    head.forward = lambda x: head.decoder(F.gelu(head.dense(x)))


@fault("roberta", "RobertaForSequenceClassification", "the output of classifier.out_proj is")
def no_tanh_in_the_classifier(pair, monkeypatch):
    head = pair.ours.classifier
    head.forward = lambda x: head.out_proj(head.dropout(head.dense(head.dropout(x[:, 0]))))


@fault("roberta", "RobertaForSequenceClassification", "the output of classifier.dense is")
def dropout_once_in_the_classifier(pair, monkeypatch):
    head = pair.ours.classifier
    head.forward = lambda x: head.out_proj(head.dropout(torch.tanh(head.dense(x[:, 0]))))


@fault("roberta", "RobertaForSequenceClassification", "the output of classifier.dense is")
def the_last_token_classified(pair, monkeypatch):
    head = pair.ours.classifier
    forward = head.forward
    head.forward = lambda x: forward(x.flip(1))


@fault("roberta", "RobertaForMultipleChoice", "the output of roberta.pooler is")
def no_pooler_before_the_choice(pair, monkeypatch):
    pair.ours.roberta.pooler.forward = lambda x: x[:, 0]
