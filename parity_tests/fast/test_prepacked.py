"""Texts written with packed weights, by either library, are those written with the model's own."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from minihf.fast import prepacked
from minihf.generation import reader
from minihf.nn import linear
from parity_tests.fast.test_graphs import MODELS, make, prompts
from parity_tests.fast.test_tapes import PAIRS, paired

KEPT = {"return_dict_in_generate": True, "output_logits": True}
KNOBS = {"max_new_tokens": 40, "pad_token_id": 0, "eos_token_id": None, **KEPT}


@cache
def models(name):
    return (deepcopy(paired(name, PAIRS[name])) if name in PAIRS else make(name)).float()


@pytest.fixture
def packed(monkeypatch):
    """The layers whose weights were packed."""
    made = []

    class Spy(prepacked.PackedLinear):
        def __call__(self, x):
            y = super().__call__(x)
            if self.packed is not None and not any(self is other for other in made):
                made.append(self)
            return y

    monkeypatch.setattr(prepacked, "PackedLinear", Spy)
    monkeypatch.setattr(prepacked, "CONV1D", 0)
    return made


@pytest.mark.parametrize("way", [{}, {"num_beams": 4}], ids=["greedy", "beams"])
@pytest.mark.parametrize("texts", [1, 2, 5])
@pytest.mark.parametrize("name", [*MODELS, *PAIRS])
def test_texts_and_logits_are_the_model_s(name, texts, way, processor, packed, monkeypatch):
    model = models(name)
    given = prompts(texts=texts)
    given["inputs"] = given["inputs"].clamp(max=38)
    processor("nobody's")
    with monkeypatch.context() as unpacked:
        unpacked.setattr(reader, "packs", lambda *_: False)
        expected = model.generate(**given, **KNOBS, **way)
    assert packed == []
    rows = texts * way.get("num_beams", 1)
    for maker, least in (("AMD EPYC", 2), ("Intel Xeon", 4)):
        processor(maker)
        found = model.generate(**given, **KNOBS, **way)
        assert torch.equal(found.sequences, expected.sequences)
        for ours, theirs in zip(found.logits, expected.logits, strict=True):
            # float32, through three layers that add up what each rounds
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert bool(packed) == (rows >= least)
        packed.clear()


def test_other_numbers_of_rows_and_odd_biases_go_the_usual_way(processor):
    """The prompt has more rows than a step, and a bias may be a column of something."""
    for maker in ("AMD EPYC", "Intel Xeon"):
        processor(maker)
        layer = nn.Linear(6, 4)
        ours = prepacked.packed_linear(layer, 5)
        with torch.no_grad():
            for rows in (5, 1, 4, 6, 35, 5):
                x = torch.randn(rows, 1, 6)
                torch.testing.assert_close(ours(x), layer(x))
        layer.bias = nn.Parameter(torch.randn(4, 2)[:, 0])
        assert prepacked.packed_linear(layer, 5) is None


def test_packing_has_to_pay(processor, monkeypatch):
    model = make("gpt2").float()
    for maker, least in (("AMD EPYC", 2), ("Intel Xeon", 4)):
        processor(maker)
        assert [rows for rows in range(100) if prepacked.packs(model, rows, 16)] == list(range(least, 65))
        assert not prepacked.packs(model, 8, 15)
        assert not prepacked.packs(make("gpt2"), 8, 16)  # float64
        with torch.autocast("cpu"):
            assert not prepacked.packs(model, 8, 16)
    processor("AMD EPYC")
    with torch.backends.mkldnn.flags(enabled=False):
        assert not linear.onednn_is_faster()
    monkeypatch.setattr(linear, "LARGE", linear.MUCH)
    assert prepacked.packed_linear(nn.Linear(64, 64), 64) is None
    assert prepacked.packed_linear(nn.Linear(64, linear.MUCH // 4096), 64) is not None
