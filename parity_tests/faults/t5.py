"""T5's peculiarities, each done wrong."""

import torch

import minihf.models.t5 as t5
from minihf.nn import attention, positions
from parity_tests.faults.planting import fault, layer

FIRST = "the output of encoder.block.0.layer.0.SelfAttention.o is"


@fault("t5", "T5Model", FIRST)
def a_scale_of_1_by_sqrt_d(pair, monkeypatch):
    monkeypatch.setattr(t5, "attend", lambda *args, **kw: attention.attend(*args, **{**kw, "scale": None}))


@fault("t5", "T5Model", FIRST)
def no_bias(pair, monkeypatch):
    monkeypatch.setattr(t5, "attend", lambda *args, **kw: attention.attend(*args, **{**kw, "bias": None}))


@fault("t5", "T5Model", "the output of encoder.block.1.layer.0.SelfAttention.o is")
def a_bias_in_the_first_block_alone(pair, monkeypatch):
    block = layer(pair, 1, "encoder_")
    forward = block.forward
    block.forward = lambda x, mask, bias, *rest: forward(x, mask, None, *rest)


@fault("t5", "T5Model", "the output of decoder.block.1.layer.0.SelfAttention.o is")
def a_bias_in_the_decoders_first_block_alone(pair, monkeypatch):
    block = layer(pair, 1, "decoder_")
    forward = block.forward
    block.forward = lambda x, mask, bias, *rest: forward(x, mask, None, *rest)


@fault("t5", "T5Model", "the output of decoder.block.0.layer.1.EncDecAttention.o is")
def a_bias_on_attention_to_the_encoder(pair, monkeypatch):
    attention_to_it = layer(pair, 0, "decoder_").layer[1]["EncDecAttention"]
    forward = attention_to_it.forward

    def biased(x, mask, bias, cache, context, impl=None):
        bias = pair.ours.encoder.position_bias(x.shape[1], context.shape[1], x.device)
        return forward(x, mask, bias, cache, context, impl)

    attention_to_it.forward = biased


@fault("t5", "T5Model", "the output of encoder.block.0.layer.0.SelfAttention.relative_attention_bias is")
def distances_of_the_query_from_the_key(pair, monkeypatch):
    monkeypatch.setattr(t5, "distance_buckets", lambda d, *args, **kw: positions.distance_buckets(-d, *args, **kw))


@fault("t5", "T5Model", "the output of encoder.block.0.layer.0.SelfAttention.relative_attention_bias is")
def an_encoder_that_tells_no_distances_to_the_right(pair, monkeypatch):
    wrong = positions.distance_buckets
    monkeypatch.setattr(t5, "distance_buckets", lambda *args, both_ways: wrong(*args, both_ways=False))


@fault("t5", "T5Model", "the output of decoder.block.0.layer.0.SelfAttention.relative_attention_bias is")
def a_decoder_with_half_the_buckets_for_the_future(pair, monkeypatch):
    wrong = positions.distance_buckets
    monkeypatch.setattr(t5, "distance_buckets", lambda *args, both_ways: wrong(*args, both_ways=True))


@fault("t5", "T5Model", "SelfAttention.relative_attention_bias is")
def another_furthest_distance(pair, monkeypatch):
    wrong = positions.distance_buckets
    monkeypatch.setattr(t5, "distance_buckets", lambda d, buckets, furthest, **kw: wrong(d, buckets, 13, **kw))


@fault("t5", "T5Model", "SelfAttention.relative_attention_bias is")
def even_ranges_instead_of_ever_longer_ones(pair, monkeypatch):
    def even(d, buckets, furthest, *, both_ways):
        exact = positions.distance_buckets(d, buckets, furthest, both_ways=both_ways)
        n = buckets // 2 if both_ways else buckets
        return torch.where(exact % n < n // 2, exact, exact // n * n + d.abs().clamp(max=n - 1))

    monkeypatch.setattr(t5, "distance_buckets", even)


@fault("t5", "T5Model", "the output of decoder.block.0.layer.0.SelfAttention.o is")
def the_encoders_table_of_distances_in_the_decoder(pair, monkeypatch):
    encoder, decoder = pair.ours.encoder, pair.ours.decoder

    def wrong(queries, keys, device):
        places = torch.arange(keys)
        buckets = positions.distance_buckets(places - places[:, None], 8, 9, both_ways=False)
        return encoder.block[0].layer[0]["SelfAttention"].relative_attention_bias.weight[buckets].permute(2, 0, 1)[None]

    decoder.position_bias = wrong


@fault("t5", "T5Model", "the output of encoder.block.1.layer.0.layer_norm is")
def a_norm_that_takes_the_mean_away(pair, monkeypatch):
    norm = layer(pair, 1, "encoder_").layer[0]["layer_norm"]
    forward = norm.forward
    norm.forward = lambda x: forward(x - x.mean(-1, keepdim=True))


@fault("t5", "T5Model", "the output of encoder.block.1.layer.1.layer_norm is")
def another_eps(pair, monkeypatch):
    layer(pair, 1, "encoder_").layer[1]["layer_norm"].eps = 1e-6


@fault("t5", "T5Model", "the output of encoder.block.1.layer.0.layer_norm is")
def two_norms_swapped(pair, monkeypatch):
    block = layer(pair, 1, "encoder_").layer
    block[0]["layer_norm"], block[1]["layer_norm"] = block[1]["layer_norm"], block[0]["layer_norm"]


@fault("t5", "T5Model", "the output of encoder.final_layer_norm is")
def no_final_norm_of_the_encoder(pair, monkeypatch):
    pair.ours.encoder.final_layer_norm.forward = lambda x: x


@fault("t5", "T5EncoderModel")
def no_dropout_after_the_final_norm(pair, monkeypatch):
    stack = pair.ours.encoder
    stack.final_layer_norm.register_forward_hook(lambda *args: stack.dropout.eval() and None)
    stack.register_forward_pre_hook(lambda *args: stack.dropout.train(stack.training) and None)


@fault("t5", "T5Model")
def no_dropout_on_the_weights(pair, monkeypatch):
    monkeypatch.setattr(t5, "attend", lambda *args, **kw: attention.attend(*args, **{**kw, "dropout": 0.0}))


@fault("t5", "T5Model", "the output of encoder.block.1.layer.1.DenseReluDense.dropout is")
def no_dropout_between_the_linear_layers(pair, monkeypatch):
    layer(pair, 1, "encoder_").layer[1]["DenseReluDense"].dropout.p = 0.0


@fault("t5", "T5ForConditionalGeneration", "the output of lm_head is")
def an_unscaled_head(pair, monkeypatch):
    pair.ours.config.scale_decoder_outputs = False


@fault("mt5", "MT5ForConditionalGeneration", "the output of lm_head is")
def a_scaled_head(pair, monkeypatch):
    pair.ours.config.scale_decoder_outputs = True


@fault("t5", "T5ForConditionalGeneration", "the output of lm_head is")
def a_head_of_its_own(pair, monkeypatch):
    pair.ours.lm_head.weight = torch.nn.Parameter(pair.ours.lm_head.weight.detach().flip(0))


@fault("mt5", "MT5Model", "the output of encoder.block.1.layer.1.DenseReluDense.wo is")
def the_gate_and_what_it_gates_swapped(pair, monkeypatch):
    mlp = layer(pair, 1, "encoder_").layer[1]["DenseReluDense"]
    mlp.forward = lambda x: mlp.wo(mlp.dropout(mlp.wi_0(x) * mlp.activation(mlp.wi_1(x))))


@fault("mt5", "MT5Model", "the output of encoder.block.1.layer.1.DenseReluDense.wo is")
def the_exact_gelu_instead_of_tanh(pair, monkeypatch):
    layer(pair, 1, "encoder_").layer[1]["DenseReluDense"].activation = torch.nn.functional.gelu


@fault("t5", "T5ForConditionalGeneration")
def labels_that_are_not_shifted(pair, monkeypatch):
    monkeypatch.setattr(t5, "shift_right", lambda ids, start, pad: ids.masked_fill(ids == -100, pad))


@fault("t5", "T5ForConditionalGeneration")
def labels_behind_another_start(pair, monkeypatch):
    pair.ours.config.decoder_start_token_id = 3


@fault("t5", "T5Model", "the output of decoder.block.0.layer.1.EncDecAttention.o is")
def padding_of_the_encoder_that_the_decoder_sees(pair, monkeypatch):
    forward = pair.ours.decoder.forward
    pair.ours.decoder.forward = lambda *args: forward(*args[:4], None, *args[5:])


@fault("t5", "T5ForSequenceClassification", "the output of classification_head.dense is")
def the_first_end_instead_of_the_last(pair, monkeypatch):
    monkeypatch.setattr(
        t5, "at_last_end", lambda x, ids, end: x[torch.arange(len(x)), (ids == end).long().argmax(-1)]
    )


@fault("t5", "T5ForSequenceClassification")
def one_dropout_of_the_classification_head(pair, monkeypatch):
    head = pair.ours.classification_head
    head.forward = lambda x: head.out_proj(torch.tanh(head.dense(head.dropout(x))))


@fault("t5", "T5ForTokenClassification")
def no_dropout_before_the_classes(pair, monkeypatch):
    pair.ours.dropout.p = 0.0


@fault("t5", "T5ForQuestionAnswering", "the output of qa_outputs is")
def start_and_end_swapped(pair, monkeypatch):
    pair.ours.qa_outputs.register_forward_hook(lambda module, args, output: output.flip(-1))
