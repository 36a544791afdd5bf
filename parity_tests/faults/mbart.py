"""mBART's peculiarities, each done wrong."""

from minihf.models import inputs, mbart
from parity_tests.faults.planting import fault, layer


@fault("mbart", "MBartModel", "the output of encoder.layer_norm is")
def no_final_norm_of_the_encoder(pair, monkeypatch):
    pair.ours.encoder.layer_norm.forward = lambda x: x


@fault("mbart", "MBartModel", "the output of decoder.layer_norm is")
def no_final_norm_of_the_decoder(pair, monkeypatch):
    pair.ours.decoder.layer_norm.forward = lambda x: x


@fault("mbart", "MBartModel", "encoder.layers.1.self_attn")
def norms_after_the_sublayers(pair, monkeypatch):
    block = layer(pair, side="encoder_")

    def post_norm(x, mask):
        x = block.self_attn_layer_norm(x + block.self_attn(x, mask)[0])
        return block.final_layer_norm(x + block.fc2(block.activation(block.fc1(x))))

    block.forward = post_norm


@fault("mbart", "MBartModel", "the output of decoder.layers.1.self_attn_layer_norm is")
def two_norms_of_the_decoder_swapped(pair, monkeypatch):
    block = layer(pair, side="decoder_")
    first, second = block.self_attn_layer_norm, block.encoder_attn_layer_norm
    block.self_attn_layer_norm, block.encoder_attn_layer_norm = second, first


@fault("mbart", "MBartForConditionalGeneration", "model.decoder")
def a_start_token_instead_of_the_language(pair, monkeypatch):
    monkeypatch.setattr(mbart, "wrap_right", lambda ids, pad: inputs.shift_right(ids, 2, pad))


@fault("mbart", "MBartForConditionalGeneration", "model.decoder")
def padding_taken_for_the_language(pair, monkeypatch):
    monkeypatch.setattr(mbart, "wrap_right", lambda ids, pad: ids.masked_fill(ids == -100, pad).roll(1, 1))


@fault("mbart", "MBartModel", "the output of encoder.layernorm_embedding is")
def no_norm_of_the_embeddings(pair, monkeypatch):
    pair.ours.encoder.layernorm_embedding.forward = lambda x: x
