"""GPT-2's peculiarities, each done wrong."""

import torch
from torch import nn

import minihf.models.gpt2 as gpt2
from parity_tests.faults.planting import fault, layer


@fault("gpt2", "GPT2LMHeadModel", "the output of transformer.wpe is")
def positions_that_count_padding(pair, monkeypatch):
    monkeypatch.setattr(gpt2, "positions_from_mask", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


@fault("gpt2", "GPT2Model", "the output of wpe is")
def positions_off_by_one(pair, monkeypatch):
    pair.ours.wpe.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@fault("gpt2", "GPT2Model")
def no_final_norm(pair, monkeypatch):
    pair.ours.ln_f.forward = lambda x: x


@fault("gpt2", "GPT2Model", "the output of h.1")
def norms_after_the_sublayers(pair, monkeypatch):
    block = layer(pair)

    def post_norm(x, mask, cache=None, context=None, context_mask=None):
        x = block.ln_1(x + block.attn(x, mask, cache)[0])
        return block.ln_2(x + block.mlp(x))

    block.forward = post_norm


@fault("gpt2", "GPT2Model", "the output of h.0.ln_1 is")
def token_types_left_out_of_the_sum(pair, monkeypatch):
    forward = pair.ours.forward
    pair.ours.forward = lambda *args, token_type_ids=None, **kw: forward(*args, **kw)


@fault("gpt2", "GPT2LMHeadModel", "the output of lm_head is")
def a_head_that_is_not_the_embeddings(pair, monkeypatch):
    pair.ours.lm_head.weight = nn.Parameter(pair.ours.lm_head.weight.detach().roll(1, 0))


@fault("gpt2", "GPT2ForSequenceClassification", "logits")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(gpt2, "last_real", lambda x, ids, pad: x[:, -1])


@fault("gpt2", "GPT2DoubleHeadsModel", "the output of multiple_choice_head.summary is")
def the_last_token_read_whatever_mc_token_ids_say(pair, monkeypatch):
    head = pair.ours.multiple_choice_head
    forward = head.forward
    head.forward = lambda x, token=None: forward(x)


@fault("gpt2", "GPT2LMHeadModel", "loss")
def a_loss_divided_by_all_places(pair, monkeypatch):
    predict = gpt2.predict_words
    monkeypatch.setattr(gpt2, "predict_words", lambda head, x, y, n=None: predict(head, x, y, y.numel()))
