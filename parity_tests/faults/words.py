"""The loss in chunks, which heads over the vocabulary use in training, done wrong."""

import torch

from minihf.nn import chunked_loss, words
from minihf.nn.chunked_loss import ChunkedCrossEntropy
from parity_tests.faults.planting import fault


def change_loss(monkeypatch, change):
    """change(x, weight, bias, labels, items) -> what the loss is computed of instead."""
    whole = words.chunked_cross_entropy
    monkeypatch.setattr(words, "chunked_cross_entropy", lambda *args: whole(*change(*args)))


def change_gradients(monkeypatch, change):
    """change(dx, dw, db) -> what the backward gives instead."""
    backward = ChunkedCrossEntropy.backward

    def changed(ctx, grad):
        dx, dw, db, *rest = backward(ctx, grad)
        return *change(dx, dw, db), *rest

    monkeypatch.setattr(ChunkedCrossEntropy, "backward", staticmethod(changed))


@fault("gpt2", "GPT2LMHeadModel", "train")
def a_head_whose_gradient_stops_at_the_weight(pair, monkeypatch):
    change_gradients(monkeypatch, lambda dx, dw, db: (dx, torch.zeros_like(dw), db))


@fault("t5", "T5ForConditionalGeneration", "train")
def a_head_whose_gradient_stops_at_the_state(pair, monkeypatch):
    change_gradients(monkeypatch, lambda dx, dw, db: (torch.zeros_like(dx), dw, db))


@fault("bert", "BertForMaskedLM", "train")
def a_head_whose_gradient_stops_at_the_bias(pair, monkeypatch):
    change_gradients(monkeypatch, lambda dx, dw, db: (dx, dw, torch.zeros_like(db)))


@fault("llama", "LlamaForCausalLM", "train")
def a_loss_without_the_last_labelled_token(pair, monkeypatch):
    change_loss(monkeypatch, lambda x, w, b, y, n: (x[:-1], w, b, y[:-1], n))


@fault("bart", "BartForConditionalGeneration", "train")
def a_chunked_loss_without_the_heads_bias(pair, monkeypatch):
    change_loss(monkeypatch, lambda x, w, b, y, n: (x, w, None, y, n))


@fault("electra", "ElectraForMaskedLM", "train")
def chunks_that_overwrite_each_other_before_they_are_read(pair, monkeypatch):
    into = chunked_loss.logits_into
    monkeypatch.setattr(chunked_loss, "logits_into", lambda room, x, *rest: into(room, x[:1].expand_as(x), *rest))
