"""Can the harness see? Each fault below is planted in a model that passes; the comparison must then fail.

Where a fault has a place, the message must name it: the first module, in order of execution, that differs.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import minihf.models.bert as bert
import minihf.models.gpt2 as gpt2
from minihf.inspection.pairs import Pair, ParityError, assert_parity, make_pair
from minihf.nn import attention, losses, masks

Fault = Callable[[Pair, pytest.MonkeyPatch], None]
FAULTS: dict[str, tuple[str, str, str, Fault]] = {}
"""name -> (model type, class, a part of the message, the fault)"""


def fault(model_type: str, class_name: str, place: str = "") -> Callable[[Fault], Fault]:
    def register(plant: Fault) -> Fault:
        FAULTS[f"{class_name}: {plant.__name__.replace('_', ' ')}"] = model_type, class_name, place, plant
        return plant

    return register


def layer(pair: Pair, i: int = 1) -> nn.Module:
    base = pair.ours.base_model
    return base.encoder["layer"][i] if hasattr(base, "encoder") else base.h[i]


# --- what all architectures share


@fault("bert", "BertForMaskedLM", "the output of bert.encoder.layer.0.attention.self is")
def a_missing_scale(pair, monkeypatch):
    monkeypatch.setattr(bert, "attend", lambda *args, **kw: attention.attend(*args, **{**kw, "scale": 1.0}))


@fault("gpt2", "GPT2Model", "the output of h.0.attn.c_proj is")
def the_square_of_the_scale(pair, monkeypatch):
    for block in pair.ours.h:
        block.attn.scale **= 2


@fault("bert", "BertModel", "the output of encoder.layer.0.attention.self is")
def an_inverted_mask(pair, monkeypatch):
    def inverted(*args, **kw):
        mask = masks.encoder_mask(*args, **kw)
        return None if mask is None else ~mask

    monkeypatch.setattr(bert, "encoder_mask", inverted)


@fault("bert", "BertModel", "the output of encoder.layer.0.attention.self is")
def a_mask_that_is_forgotten(pair, monkeypatch):
    monkeypatch.setattr(bert, "encoder_mask", lambda *args, **kw: None)


@fault("gpt2", "GPT2LMHeadModel", "the output of transformer.h.0.attn.c_proj is")
def a_causal_mask_off_by_one(pair, monkeypatch):
    def late(q, k, v, mask, *, causal, **kw):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(1)[None, None] if mask is None else mask
        return attention.attend(q, k, v, mask, **kw)

    monkeypatch.setattr(gpt2, "attend", late)


@fault("gpt2", "GPT2LMHeadModel", "the output of transformer.h.0.attn.c_proj is")
def no_causal_mask(pair, monkeypatch):
    monkeypatch.setattr(gpt2, "attend", lambda *args, causal, **kw: attention.attend(*args, causal=False, **kw))


@fault("gpt2", "GPT2Model")
def dropout_on_the_context_instead_of_the_weights(pair, monkeypatch):
    def wrong(*args, dropout, **kw):
        context, weights = attention.attend(*args, dropout=0.0, **kw)
        return F.dropout(context, dropout), weights

    monkeypatch.setattr(gpt2, "attend", wrong)


@fault("bert", "BertModel")
def no_dropout_on_the_weights(pair, monkeypatch):
    monkeypatch.setattr(bert, "attend", lambda *args, dropout, **kw: attention.attend(*args, dropout=0.0, **kw))


@fault("bert", "BertModel", "layer.1.attention.self.query is")
def query_and_key_swapped_in_the_product(pair, monkeypatch):
    module = layer(pair).attention["self"]
    module.query, module.key = module.key, module.query


@fault("gpt2", "GPT2Model", "the output of h.1.attn.c_proj is")
def heads_split_in_the_wrong_order(pair, monkeypatch):
    def interleaved(x, parts, heads):
        return x.view(*x.shape[:-1], parts, -1, heads).permute(2, 0, 4, 1, 3).unbind()

    forward = type(layer(pair).attn).forward

    def wrong(self, *args, **kw):
        with monkeypatch.context() as patch:
            patch.setattr(gpt2, "split_parts", interleaved)
            return forward(self, *args, **kw)

    layer(pair).attn.forward = wrong.__get__(layer(pair).attn)


@fault("bert", "BertForMaskedLM", "layer.1.output.dense is")
def tanh_gelu_instead_of_the_exact_one(pair, monkeypatch):
    layer(pair).activation = lambda x: F.gelu(x, approximate="tanh")


@fault("gpt2", "GPT2Model", "h.1.mlp.c_proj is")
def the_exact_gelu_instead_of_tanh(pair, monkeypatch):
    layer(pair).mlp.activation = F.gelu


@fault("bert", "BertModel", "layer.1.attention.output.LayerNorm is")
def another_eps(pair, monkeypatch):
    layer(pair).attention["output"].LayerNorm.eps = 1e-5


@fault("gpt2", "GPT2Model", "h.1.ln_1 is")
def an_eps_of_another_size_in_one_norm(pair, monkeypatch):
    layer(pair).ln_1.eps = 2e-3


@fault("bert", "BertModel", "layer.1.attention.output.LayerNorm is")
def two_norms_swapped(pair, monkeypatch):
    first, second = layer(pair).attention["output"], layer(pair).output
    first.LayerNorm, second.LayerNorm = second.LayerNorm, first.LayerNorm


@fault("gpt2", "GPT2Model", "h.1.ln_1 is")
def two_norms_of_a_block_swapped(pair, monkeypatch):
    block = layer(pair)
    block.ln_1, block.ln_2 = block.ln_2, block.ln_1


@fault("gpt2", "GPT2Model", "h.1.attn.c_proj is")
def a_missing_bias(pair, monkeypatch):
    layer(pair).attn.c_proj.bias.data.zero_()


@fault("bert", "BertModel", "the output of encoder.layer.1.output.LayerNorm is")
def a_residual_left_out(pair, monkeypatch):
    module = layer(pair).output
    module.forward = lambda x, residual: module.LayerNorm(module.dropout(module.dense(x)))


@fault("gpt2", "GPT2LMHeadModel")
def a_gradient_that_stops_on_its_way(pair, monkeypatch):
    block = layer(pair)
    forward = block.mlp.forward
    block.mlp.forward = lambda x: forward(x).detach()


@fault("gpt2", "GPT2LMHeadModel", "gradient")
def a_gradient_twice_as_large(pair, monkeypatch):
    layer(pair).attn.register_full_backward_pre_hook(lambda module, gradients: (2 * gradients[0], *gradients[1:]))


# --- BERT


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
    monkeypatch.setattr(losses, "IGNORED", -1)
    monkeypatch.setattr(bert, "cross_entropy", lambda x, y, n=None: losses.cross_entropy(x, y.clamp(min=0), n))


@fault("bert", "BertLMHeadModel", "the gradient of cls.predictions.decoder is")
def labels_not_shifted(pair, monkeypatch):
    monkeypatch.setattr(bert, "causal_lm_loss", losses.cross_entropy)


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


# --- GPT-2


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
    monkeypatch.setattr(gpt2, "causal_lm_loss", lambda x, y, n=None: losses.causal_lm_loss(x, y, y.numel()))


@pytest.mark.parametrize("name", FAULTS)
def test_the_harness_sees_a_planted_fault(name, monkeypatch):
    model_type, class_name, place, plant = FAULTS[name]
    pair = make_pair(model_type, class_name)
    plant(pair, monkeypatch)
    with pytest.raises(ParityError) as caught:
        assert_parity(pair, torch.float64)
    assert place in str(caught.value)


@pytest.mark.parametrize("name", ["BertModel: another eps", "GPT2Model: the exact gelu instead of tanh"])
def test_it_sees_the_small_ones_in_float32_too(name, monkeypatch):
    model_type, class_name, _, plant = FAULTS[name]
    pair = make_pair(model_type, class_name)
    plant(pair, monkeypatch)
    with pytest.raises(ParityError):
        assert_parity(pair, torch.float32)


def test_a_nan_on_either_side_is_a_difference():
    pair = make_pair("gpt2", "GPT2Model")
    pair.ours.h[2].mlp.c_fc.bias.data[3] = torch.nan
    with pytest.raises(ParityError, match=r"h\.2\.mlp"):
        assert_parity(pair, torch.float32)


def test_an_output_that_only_one_side_gives_is_a_difference():
    pair = make_pair("bert", "BertModel")
    forward = pair.ours.forward

    def without_pooler(*args, **kw):
        output = forward(*args, **kw)
        output.pooler_output = None
        return output

    pair.ours.forward = without_pooler
    with pytest.raises(ParityError, match="pooler_output"):
        assert_parity(pair, torch.float64)
