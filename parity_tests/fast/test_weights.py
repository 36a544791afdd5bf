"""Writing with rounded weights: near the model's own numbers, and nothing of the model is changed."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minihf import GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel, decode_in
from minihf.fast.weights import DecodingWeights, overflows
from minihf.inspection.batches import randomise
from minihf.nn.bare import bare
from minihf.nn.conv1d import Conv1D
from minihf.nn.linear import Linear

pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="PyTorch has FBGEMM on x86 alone"
)
ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 211, "n_positions": 64, "n_embd": 72, "n_layer": 3, "n_head": 3}
KEPT = {"return_dict_in_generate": True, "output_logits": True}
ERRORS = {"int8": 0.04, "float16": 0.001}  # of the logits, as part of their spread


def make():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES, eos_token_id=None, bos_token_id=None)).eval()
    randomise(model)
    return model


def write(model, rows=2, **more):
    ids = torch.randint(1, 200, (rows, 7), generator=torch.Generator().manual_seed(1))
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, **more)


def error(logits, expected):
    return ((logits - expected).square().mean() / (expected - expected.mean()).square().mean()).sqrt().item()


def rounded_by_hand(weight):
    """int8, as its definition says: (out, in)"""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


@pytest.mark.parametrize("make_layer", [lambda: nn.Linear(37, 19), lambda: Linear(37, 19), lambda: Conv1D(19, 37)])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_layer_is_its_rounded_weights(make_layer, rows):
    torch.manual_seed(rows)
    layer, x = make_layer(), torch.randn(rows, 1, 37)
    nn.init.normal_(layer.bias)
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    with torch.no_grad():
        weight[3] *= 100  # a large output has a scale of its own
        half = DecodingWeights("float16")(layer)(x)
        torch.testing.assert_close(half, F.linear(x, weight.half().float(), layer.bias), rtol=1e-5, atol=1e-4)
        # The inputs are whole steps of their range, at the most half a step from what they were.
        step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / (127 if overflows() else 255)
        weight = rounded_by_hand(weight)
        off = (DecodingWeights("int8")(layer)(x) - F.linear(x, weight, layer.bias)).abs()
        assert (off <= 0.51 * step * weight.abs().sum(1) + 1e-4).all()
        assert off.max() > 0


def test_older_instructions_overflow_unless_inputs_are_short():
    code = """if True:
        import torch
        from minihf.fast.weights import DecodingWeights, overflows
        layer = torch.nn.Linear(64, 16, bias=False)
        torch.nn.init.ones_(layer.weight)
        assert overflows() and DecodingWeights("int8")(layer)(torch.ones(1, 64)).allclose(torch.tensor(64.0))
    """
    environment = os.environ | {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rows_of_zeros_and_no_bias():
    layer = nn.Linear(8, 3, bias=False)
    nn.init.zeros_(layer.weight)
    for weights in ERRORS:
        assert not DecodingWeights(weights)(layer)(torch.randn(2, 8)).any()


@pytest.mark.parametrize("weights", ERRORS)
@pytest.mark.parametrize("rows", [1, 4])
def test_logits_are_near_and_the_way_back_is_exact(weights, rows):
    model = make()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    own = write(model, rows, **KEPT)
    decode_in(model, weights)
    rounded = write(model, rows, **KEPT)
    assert torch.equal(rounded.logits[0], own.logits[0])  # the prompt's
    assert 0 < error(rounded.logits[1], own.logits[1]) < ERRORS[weights]
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    decode_in(model, None)
    assert all(torch.equal(a, b) for a, b in zip(write(model, rows, **KEPT).logits, own.logits, strict=True))


def test_the_stated_error_of_twelve_layers():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=999)).eval()
    ids = torch.randint(0, 999, (8, 4))
    with torch.no_grad():
        expected = model(ids).logits
        for weights, most in (("int8", 0.06), ("float16", 0.001)):
            assert most / 10 < error(bare(model, DecodingWeights(weights))(ids).logits, expected) < most


@pytest.mark.parametrize("weights, most", [("int8", 0.3), ("float16", 0.002)])
def test_a_few_large_channels_spoil_the_one_scale_of_int8(weights, most):
    """As trained models have them; float16 does not mind."""
    model = make()
    ids = torch.randint(1, 200, (1, 33), generator=torch.Generator().manual_seed(2))
    errors = []
    for gain in (1, 20):
        with torch.no_grad():
            for norm in (norm for block in model.transformer.h for norm in (block.ln_1, block.ln_2)):
                norm.weight[:3] *= gain
            errors.append(error(bare(model, DecodingWeights(weights))(ids).logits, model(ids).logits))
    assert errors[0] < ERRORS[weights]
    assert errors[0] < errors[1] < most


def test_changed_weights_are_noticed():
    model = make()
    decode_in(model, "int8")
    write(model)
    other = make()
    randomise(other)
    model.load_state_dict(other.state_dict())
    fresh = copy.deepcopy(other)
    decode_in(fresh, "int8")
    changed, expected = write(model, **KEPT), write(fresh, **KEPT)
    assert all(torch.equal(a, b) for a, b in zip(changed.logits, expected.logits, strict=True))
    layer = model.transformer.h[0].mlp.c_fc
    layers = model.decoding_weights.layers
    made = layers[layer], layers[model.lm_head]
    layer.bias = nn.Parameter(layer.bias + 1)
    again = write(model, **KEPT)
    assert layers[layer] is not made[0]  # made anew
    assert layers[model.lm_head] is made[1]
    assert not torch.equal(again.logits[1], changed.logits[1])


def test_every_way_of_writing_goes_through_it(monkeypatch):
    model = make()
    plain = {beams: write(model, num_beams=beams) for beams in (1, 3)}
    decode_in(model, "float16")
    calls = []
    real = torch.ops.quantized.linear_dynamic_fp16
    monkeypatch.setattr(torch.ops.quantized, "linear_dynamic_fp16", lambda *a: calls.append(1) or real(*a))
    for beams, expected in plain.items():
        calls.clear()
        assert torch.equal(write(model, num_beams=beams), expected)  # float16 is near enough here
        assert len(calls) == 5 * 13  # 5 tokens after the prompt's, 3 layers of 4, and the head


def test_an_encoder_decoder_and_its_encoder():
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 40}
    sizes |= {name.replace("encoder", "decoder"): size for name, size in sizes.items()}
    config = MarianConfig(
        vocab_size=97, d_model=24, pad_token_id=96, decoder_start_token_id=96, eos_token_id=0, **sizes
    )
    model = MarianMTModel(config).eval()
    randomise(model)
    ids = torch.arange(2, 12)[None]
    expected = model.generate(ids, max_new_tokens=5)
    decode_in(model, "float16")
    assert torch.equal(model.generate(ids, max_new_tokens=5), expected)
    layers = model.decoding_weights.layers
    made = {name for name, module in model.named_modules() if module in layers and layers[module].packed is not None}
    assert {"lm_head", "model.decoder.layers.1.fc2"} < made
    assert not any(".encoder." in name for name in made)


def test_copies_and_files_hold_no_packed_layers():
    model = make()
    decode_in(model, "int8")
    expected = write(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.decoding_weights.weights == "int8"
        assert not twin.decoding_weights.layers
        assert torch.equal(write(twin), expected)


def test_hooked_layers_and_recorded_runs_keep_their_weights():
    model = make()
    own = write(model, **KEPT, output_attentions=True)
    decode_in(model, "int8")
    assert torch.equal(write(model, **KEPT, output_attentions=True).logits[-1], own.logits[-1])
    layer = model.transformer.h[1].mlp.c_fc
    layer.register_forward_hook(lambda *a: None)
    write(model)
    assert layer not in model.decoding_weights.layers
    assert model.lm_head in model.decoding_weights.layers


def test_refusals(monkeypatch):
    model = make()
    with pytest.raises(ValueError, match="weights='int4' is not known: choose 'int8', 'float16'"):
        decode_in(model, "int4")
    with pytest.raises(ValueError, match=r"torch.bfloat16 on cpu.*model.float\(\).cpu\(\)"):
        decode_in(make().bfloat16(), "int8")
    decode_in(model, "float16")
    with pytest.raises(ValueError, match="made of float32 ones"):
        write(model.double())
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    with pytest.raises(RuntimeError, match=r"int8 weights need FBGEMM's kernels.*'qnnpack'"):
        decode_in(make(), "int8")
    assert not hasattr(make(), "decoding_weights")
