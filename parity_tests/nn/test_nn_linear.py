"""The product from the other side is the same product, and is taken only where it may be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minihf.nn import linear
from minihf.nn.linear import FEW, Linear, from_the_left


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 7, 5), (2, 1, 4, 5), (0, 5), (2, 0, 5)])
def test_from_the_left_equals_from_the_right(shape, bias):
    layer = nn.Linear(5, 3, bias=bias).double()
    x = torch.randn(shape, dtype=torch.float64)
    ours = from_the_left(x, layer.weight, layer.bias)
    assert ours.shape == (*shape[:-1], 3)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, layer(x), rtol=0, atol=1e-12)


@pytest.fixture
def left(monkeypatch) -> list[int]:
    """The numbers of tokens that went the other way."""
    seen = []

    def spy(x, weight, bias):
        seen.append(x.numel() // x.shape[-1])
        return from_the_left(x, weight, bias)

    monkeypatch.setattr(linear, "from_the_left", spy)
    return seen


def test_a_sentence_goes_the_other_way_and_nothing_else_does(left):
    layer = Linear(6, 4)
    with torch.inference_mode():
        for tokens in (1, FEW[0] - 1, *FEW, FEW[-1] + 1, 500):
            x = torch.randn(1, tokens, 6)
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert left == list(FEW)
    x = torch.randn(2, FEW[3], 6)
    layer(x).sum().backward()  # training takes the plain way, so that it is the reference's bit for bit
    with torch.no_grad():
        layer.double()(x.double())
        layer.bfloat16()(x.bfloat16())
    assert len(left) == len(FEW)


def test_it_is_a_linear_layer_to_everybody_else():
    layer = Linear(3, 2)
    assert isinstance(layer, nn.Linear)
    assert repr(layer) == repr(nn.Linear(3, 2))
    assert list(layer.state_dict()) == ["weight", "bias"]
