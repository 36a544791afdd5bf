"""Texts written with packed weights, by either library, are those written with the model's own."""

from copy import deepcopy
from functools import cache

import pytest
import torch

from minihf.fast import prepacked
from minihf.generation import reader
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
    monkeypatch.setattr(prepacked, "SMALL", 0)
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
