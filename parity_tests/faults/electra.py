"""ELECTRA's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.electra as electra
from minihf.nn import losses
from parity_tests.faults.planting import fault


@fault("electra", "ElectraModel", "the output of embeddings_project is")
def a_projection_without_its_bias(pair, monkeypatch):
    pair.ours.embeddings_project.bias.data.zero_()


@fault("electra", "ElectraForTokenClassification", "the output of electra.embeddings_project is")
def a_projection_followed_by_an_activation(pair, monkeypatch):
    project = pair.ours.electra.embeddings_project
    project.register_forward_hook(lambda module, args, output: F.gelu(output))


@fault("electra", "ElectraModel", "the output of embeddings.dropout is")
def dropout_after_the_projection_instead_of_before(pair, monkeypatch):
    pair.ours.embeddings.dropout.forward = lambda x: x
    pair.ours.embeddings_project.register_forward_hook(lambda module, args, x: F.dropout(x, 0.1, module.training))


@fault("electra", "ElectraForPreTraining", "loss")
def a_loss_that_counts_padding(pair, monkeypatch):
    monkeypatch.setattr(electra, "replaced_token_loss", lambda x, y, mask: losses.replaced_token_loss(x, y))


@fault("electra", "ElectraForPreTraining", "loss")
def originals_and_replaced_swapped(pair, monkeypatch):
    def swapped(x, y, mask):
        return None if y is None else losses.replaced_token_loss(x, 1 - y, mask)

    monkeypatch.setattr(electra, "replaced_token_loss", swapped)


@fault("electra", "ElectraForPreTraining", "the output of discriminator_predictions.dense_prediction is")
def no_activation_in_the_discriminator(pair, monkeypatch):
    pair.ours.discriminator_predictions.activation = lambda x: x


@fault("electra", "ElectraForMaskedLM", "the output of generator_predictions is")
def no_norm_in_the_generator(pair, monkeypatch):
    head = pair.ours.generator_predictions
    head.forward = lambda x: F.gelu(head.dense(x))


@fault("electra", "ElectraForMaskedLM", "the output of generator_predictions.LayerNorm is")
def tanh_gelu_in_the_generator(pair, monkeypatch):
    head = pair.ours.generator_predictions
    head.forward = lambda x: head.LayerNorm(F.gelu(head.dense(x), approximate="tanh"))


@fault("electra", "ElectraForMaskedLM", "the output of generator_lm_head is")
def no_bias_over_the_vocabulary(pair, monkeypatch):
    pair.ours.generator_lm_head.bias.data.zero_()


@fault("electra", "ElectraForCausalLM", "word_embeddings.weight")
def a_tied_head_that_is_a_copy(pair, monkeypatch):
    head = pair.ours.generator_lm_head
    head.weight = nn.Parameter(head.weight.detach().clone())


@fault("electra", "ElectraForSequenceClassification", "the output of classifier.out_proj is")
def tanh_in_the_classifier_as_berts_pooler_has(pair, monkeypatch):
    head = pair.ours.classifier
    head.forward = lambda x: head.out_proj(head.dropout(torch.tanh(head.dense(head.dropout(x[:, 0])))))


@fault("electra", "ElectraForMultipleChoice", "the output of sequence_summary")
def no_activation_in_the_summary(pair, monkeypatch):
    pair.ours.sequence_summary.summary_activation = lambda x: x


@fault("electra", "ElectraForMultipleChoice", "the output of sequence_summary.summary is")
def the_last_token_summed_up(pair, monkeypatch):
    pair.ours.sequence_summary.kind = "last"


@fault("electra", "ElectraForMultipleChoice")
def no_dropout_after_the_summary(pair, monkeypatch):
    pair.ours.sequence_summary.last_dropout.p = 0.0
