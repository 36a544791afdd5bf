"""The models whose generation is traced."""

import pytest

import minihf
from minihf.inspection.batches import randomise

V = 37


@pytest.fixture(scope="module")
def gpt():
    config = minihf.GPT2Config(vocab_size=V, n_embd=12, n_head=3, n_layer=2, n_positions=60, eos_token_id=None)
    model = minihf.GPT2LMHeadModel(config).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def t5():
    config = minihf.T5Config(vocab_size=V, d_model=12, d_kv=4, d_ff=17, num_heads=3, num_layers=2,
                             decoder_start_token_id=0, eos_token_id=None)  # fmt: skip
    model = minihf.T5ForConditionalGeneration(config).eval()
    randomise(model)
    return model
