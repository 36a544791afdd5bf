"""GPT's peculiarities, each done wrong."""

import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.openai_gpt as openai_gpt
from minihf.nn import attention
from parity_tests.faults.planting import fault, layer


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.1.ln_1 is")
def norms_before_the_sublayers(pair, monkeypatch):
    block = layer(pair)

    def pre_norm(x, mask, cache=None):
        x = x + block.attn(block.ln_1(x), mask, cache)[0]
        return x + block.mlp(block.ln_2(x))

    block.forward = pre_norm


@fault("openai-gpt", "OpenAIGPTLMHeadModel", "the output of lm_head is")
def a_final_norm_as_gpt2_has_it(pair, monkeypatch):
    transformer = pair.ours.transformer
    forward = transformer.forward

    def normed(*args, **kw):
        out = forward(*args, **kw)
        out.last_hidden_state = F.layer_norm(out.last_hidden_state, out.last_hidden_state.shape[-1:])
        return out

    transformer.forward = normed


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.1.ln_1 is")
def the_norm_of_attention_before_the_sum(pair, monkeypatch):
    block = layer(pair)

    def norm_inside(x, mask, cache=None):
        x = x + block.ln_1(block.attn(x, mask, cache)[0])
        return block.ln_2(x + block.mlp(x))

    block.forward = norm_inside


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.1.ln_1 is")
def the_two_norms_of_a_block_swapped(pair, monkeypatch):
    block = layer(pair)
    block.ln_1, block.ln_2 = block.ln_2, block.ln_1


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.0.mlp.c_proj is")
def gelu_taken_for_the_exact_one(pair, monkeypatch):
    for block in pair.ours.h:
        block.mlp.activation = F.gelu


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.1.ln_2 is")
def the_default_eps_whatever_the_config_says(pair, monkeypatch):
    layer(pair).ln_2.eps = 1e-5


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.0.attn.c_attn is")
def token_types_left_out_of_the_embeddings(pair, monkeypatch):
    forward = pair.ours.forward
    pair.ours.forward = lambda *args, token_type_ids=None, **kw: forward(*args, **kw)


@fault("openai-gpt", "OpenAIGPTModel", "the output of positions_embed is")
def positions_counted_from_one(pair, monkeypatch):
    pair.ours.positions_embed.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@fault("openai-gpt", "OpenAIGPTLMHeadModel", "the output of transformer.positions_embed is")
def positions_that_count_padding_too(pair, monkeypatch):
    monkeypatch.setattr(openai_gpt, "positions_from_mask", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.0.attn.c_proj is")
def a_token_that_sees_the_next(pair, monkeypatch):
    monkeypatch.setattr(openai_gpt, "attend", lambda *args, causal, **kw: attention.attend(*args, causal=False, **kw))


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.0.attn.c_proj is")
def scores_without_a_scale(pair, monkeypatch):
    monkeypatch.setattr(openai_gpt, "attend", lambda *args, **kw: attention.attend(*args, **kw, scale=1.0))


@fault("openai-gpt", "OpenAIGPTModel", "the output of h.0.attn")
def no_dropout_after_attention(pair, monkeypatch):
    for block in pair.ours.h:
        block.attn.resid_dropout.p = 0.0


@fault("openai-gpt", "OpenAIGPTLMHeadModel", "the output of lm_head is")
def a_head_of_its_own(pair, monkeypatch):
    pair.ours.lm_head.weight = nn.Parameter(pair.ours.lm_head.weight.detach() * 1.001)


@fault("openai-gpt", "OpenAIGPTLMHeadModel", "the gradient of lm_head is")
def labels_of_the_same_place(pair, monkeypatch):
    monkeypatch.setattr(openai_gpt, "next_tokens", lambda labels: labels)


@fault("openai-gpt", "OpenAIGPTDoubleHeadsModel", "the output of multiple_choice_head.summary is")
def the_last_token_whatever_mc_token_ids_say(pair, monkeypatch):
    head = pair.ours.multiple_choice_head
    forward = head.forward
    head.forward = lambda x, token=None: forward(x)


@fault("openai-gpt", "OpenAIGPTForSequenceClassification", "the gradient of score is")
def the_last_place_instead_of_the_last_real_token(pair, monkeypatch):
    monkeypatch.setattr(openai_gpt, "last_real", lambda x, ids, pad: x[:, -1])
