"""The non-linearities against the reference's of the same names, with their gradients."""

import pickle

import pytest
import torch
from transformers.activations import ACT2FN

from minihf.nn.activations import ACTIVATIONS, OVERWRITING, gelu_tanh, gelu_tanh_by_hand, in_place


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equals_the_references(name):
    x = torch.cat([torch.randn(501) * 4, torch.tensor([0.5, -0.5, 60.0, -60.0])]).double().requires_grad_()
    ours, theirs = ACTIVATIONS[name](x), ACT2FN[name](x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    towards = torch.randn_like(x)
    (got,), (want,) = torch.autograd.grad(ours, x, towards), torch.autograd.grad(theirs, x, towards)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_model_that_has_it_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(ACTIVATIONS[name])) is ACTIVATIONS[name]


def test_the_three_kinds_of_gelu_differ():
    """So that a mix-up cannot pass at the tolerance above."""
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    kinds = [ACTIVATIONS[name](x) for name in ("gelu", "gelu_new", "quick_gelu")]
    assert min((a - b).abs().max() for i, a in enumerate(kinds) for b in kinds[:i]) > 1e-4


def test_fused_equals_by_hand():
    x = torch.randn(1001, dtype=torch.float64) * 5
    torch.testing.assert_close(gelu_tanh(x), gelu_tanh_by_hand(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu2"}))  # a square may overflow
def test_half_precision_stays_finite(name, dtype):
    x = torch.tensor([-600.0, -20.0, 0.0, 20.0, 600.0], dtype=dtype)
    y = ACTIVATIONS[name](x)
    assert y.dtype == dtype
    assert y.isfinite().all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_place_gives_the_same_and_overwrites_in_inference_only(name):
    x = torch.randn(501) * 4
    given, plain = x.clone(), ACTIVATIONS[name](x)
    learning = in_place(ACTIVATIONS[name])(given.requires_grad_())
    assert torch.equal(given, x)
    assert torch.equal(learning, plain)
    with torch.no_grad():
        inferred = in_place(ACTIVATIONS[name])(given)
    assert torch.equal(inferred, plain)
    if ACTIVATIONS[name] in OVERWRITING:
        assert inferred.data_ptr() == given.data_ptr()
