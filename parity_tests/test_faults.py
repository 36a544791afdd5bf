"""Can the harness see? Each fault of `faults/` is planted in a model that passes; the comparison must then fail."""

import pytest
import torch

from minihf.inspection.pairs import ParityError, assert_parity, make_pair
from parity_tests.faults import (  # noqa: F401  each plants its own
    albert,
    bart,
    bert,
    ctrl,
    distilbert,
    electra,
    gpt2,
    llama,
    marian,
    mbart,
    mistral,
    mixtral,
    openai_gpt,
    pegasus,
    roberta,
    shared,
    t5,
    words,
)
from parity_tests.faults.planting import FAULTS


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
