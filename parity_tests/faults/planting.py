"""How a fault is planted: a function that is given a pair that passes, and spoils our side of it."""

from collections.abc import Callable
from types import ModuleType

import pytest
from torch import Tensor, nn

from minihf.inspection.pairs import Pair
from minihf.models.recording import modules_at

Fault = Callable[[Pair, pytest.MonkeyPatch], None]
FAULTS: dict[str, tuple[str, str, str, Fault]] = {}
"""name -> (model type, class, a part of the message, the fault)"""


def fault(model_type: str, class_name: str, place: str = "") -> Callable[[Fault], Fault]:
    """Where a fault has a place, the message must name it: the first module, in order of execution, that differs."""

    def register(plant: Fault) -> Fault:
        FAULTS[f"{class_name}: {plant.__name__.replace('_', ' ')}"] = model_type, class_name, place, plant
        return plant

    return register


def relabel(module: ModuleType, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """The heads over the vocabulary of an architecture's file get other labels."""
    predict = module.predict_words

    def predict_others(head, x, labels, *args, **kw):
        return predict(head, x, labels if labels is None else change(labels), *args, **kw)

    monkeypatch.setattr(module, "predict_words", predict_others)


def layer(pair: Pair, i: int = 1, side: str = "") -> nn.Module:
    """The i-th layer; of an encoder-decoder, of its `side`, "encoder_" or "decoder_"."""
    base = pair.ours.base_model
    return modules_at(base, base.recorded[side + "hidden_states"])[i]
