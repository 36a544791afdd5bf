"""RMSNorm beside its equation and the reference's, in every precision."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from minihf.nn import norms
from minihf.nn.norms import RMSNorm, rms_norm_by_hand

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)


def make(dtype, eps=1e-2, channels=37):
    ours, theirs = RMSNorm(channels, eps), LlamaRMSNorm(channels, eps)
    torch.nn.init.normal_(ours.weight, mean=1.0)
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def test_it_is_the_equation():
    norm, _ = make(torch.float64)
    x = torch.randn(3, 5, 37, dtype=torch.float64)
    expected = torch.stack([v / ((v**2).sum() / 37 + 1e-2) ** 0.5 * norm.weight for v in x.flatten(0, 1)]).view(x.shape)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-14)


@DTYPES
def test_one_call_and_an_operation_a_line_are_the_same(dtype):
    norm, _ = make(dtype)
    gradients = []
    for forward in (norm, lambda x: rms_norm_by_hand(x, norm.weight, norm.eps)):
        torch.manual_seed(1)
        x = torch.randn(3, 5, 37).to(dtype).requires_grad_()
        y = forward(x)
        assert y.dtype == dtype
        norm.zero_grad()
        (y * torch.randn(y.shape)).sum().backward()
        gradients.append((y, x.grad, norm.weight.grad.clone()))
    close = {"rtol": 0, "atol": {torch.float64: 1e-13, torch.float32: 1e-5}.get(dtype, 0)}
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("size", [1e-4, 1.0, 3e4])
@DTYPES
def test_it_is_the_references(dtype, size):
    """Squares of 3e4 are infinite in float16: the mean is taken in float32. In half precision bit for bit."""
    ours, theirs = make(dtype, eps=1e-6)
    x = (torch.randn(4, 37).clamp(-2, 2) * size).to(dtype)
    assert ours(x).isfinite().all()
    exact = dtype.itemsize == 2
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0 if exact else 1e-5)


def test_float64_stays_float64_where_the_reference_goes_to_float32():
    ours, theirs = make(torch.float64)
    x = torch.randn(4, 37, dtype=torch.float64)
    assert 1e-9 < (ours(x) - theirs(x)).abs().max() < 1e-5


def test_activations_of_another_precision_than_the_weight():
    """As under autocast, or with a norm kept in float32."""
    ours, theirs = make(torch.float32)
    x = torch.randn(4, 37).bfloat16()
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.bfloat16()(x.float()), theirs.bfloat16()(x.float()))


def test_a_row_of_zeros_is_finite():
    norm, _ = make(torch.float32, eps=1e-6)
    x = torch.zeros(2, 37, requires_grad=True)
    norm(x).sum().backward()
    assert torch.equal(norm(x), torch.zeros(2, 37))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", [1e-4, 1.0, 3e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_token_a_text_is_normed_in_fewer_calls_with_the_same_result(dtype, size, monkeypatch):
    ours, theirs = make(dtype, eps=1e-6)
    x = torch.randn(4, 1, 37, dtype=dtype) * size
    taken, lean = [], norms.rms_norm_of_one
    monkeypatch.setattr(norms, "rms_norm_of_one", lambda *args: taken.append(1) or lean(*args))
    given = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), rms_norm_by_hand(x, ours.weight, ours.eps), rtol=1e-6, atol=1e-6)
        ours(x.expand(4, 2, 37))
    assert torch.equal(x, given)
    ours(x).sum().backward()
    assert taken == [1]
