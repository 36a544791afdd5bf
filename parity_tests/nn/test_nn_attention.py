"""Attention against the equation itself, float64, odd sizes: both implementations, outputs and gradients."""

import itertools

import pytest
import torch

from minihf.nn.attention import IMPLEMENTATIONS, attend, merge_heads, split_heads
from minihf.nn.masks import ready_mask

B, H, D = 2, 3, 5
SIZES = [(5, 5), (3, 7), (1, 7), (1, 1), (7, 7)]
MASKS = ["none", "padding", "left", "holes", "per head", "triangle", "float"]


def equation(q, k, v, allowed, added, scale):
    """softmax over the allowed keys alone, with -inf for the others: no row may be without one."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale + added
    powers = scores.masked_fill(~allowed, -torch.inf).exp()
    weights = powers / powers.sum(-1, keepdim=True)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v), weights


def inputs(Q, K, dtype=torch.float64, size=1.0):
    return [(torch.randn(B, H, n, D) * size).to(dtype).requires_grad_() for n in (Q, K, K)]


def make_mask(kind, Q, K):
    """The mask to pass, and which pairs it allows. Every query keeps at least one key."""
    if kind == "none":
        return None, torch.ones(B, H, Q, K, dtype=torch.bool)
    if kind == "triangle":
        mask = torch.tensor([[j <= K - Q + i for j in range(K)] for i in range(Q)])[None, None]
    elif kind == "padding":
        mask = (torch.arange(K) < torch.tensor([[K], [max(1, K - 2)]]))[:, None, None]
    elif kind == "left":
        mask = (torch.arange(K) >= torch.tensor([[0], [min(2, K - 1)]]))[:, None, None]
    elif kind == "holes":
        mask = torch.rand(B, 1, Q, K) > 0.4
        mask[..., 0] = True
    elif kind == "per head":
        mask = torch.rand(B, H, Q, K) > 0.4
        mask[..., -1] = True
    else:  # any numbers to add
        mask = torch.randn(B, 1, Q, K, dtype=torch.float64)
        return mask, torch.ones(B, H, Q, K, dtype=torch.bool)
    return mask, mask.expand(B, H, Q, K)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("Q, K", SIZES)
def test_is_the_equation(impl, kind, Q, K):
    for causal, bias, scale in itertools.product([False, True], [None, (1, H, Q, K), (B, 1, 1, K)], [None, 0.3]):
        mask, allowed = make_mask(kind, Q, K)
        q, k, v = inputs(Q, K)
        bias = None if bias is None else torch.randn(bias, dtype=torch.float64, requires_grad=True)
        added = (0 if bias is None else bias) + (mask if kind == "float" else 0)
        if causal and mask is None:
            allowed = make_mask("triangle", Q, K)[1]
        expected, weights = equation(q, k, v, allowed, added, D**-0.5 if scale is None else scale)
        out, got = attend(q, k, v, mask, causal=causal, bias=bias, scale=scale, impl=impl)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
        if impl == "eager":
            torch.testing.assert_close(got, weights, rtol=0, atol=1e-10)
        else:
            assert got is None
        towards = torch.randn_like(out)
        wanted = [x for x in (q, k, v, bias) if x is not None]
        for ours, theirs in zip(
            torch.autograd.grad(out, wanted, towards), torch.autograd.grad(expected, wanted, towards), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("biased", [False, True])
def test_a_row_that_may_attend_to_nothing_is_finite(impl, kind, dtype, biased):
    """Outputs and gradients; and the other rows are as if that row were not there."""
    Q = K = 6
    q, k, v = inputs(Q, K, dtype, size=4.0)
    allowed = torch.rand(B, 1, Q, K) > 0.3
    allowed[..., 0] = True
    allowed[0, :, 2] = False
    allowed[1] = False
    added = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -torch.inf)
    mask = allowed if kind == "bool" else ready_mask(added, added.shape, dtype=dtype)
    bias = (torch.randn(1, H, Q, K) * 30).to(dtype).requires_grad_() if biased else None
    out, _ = attend(q, k, v, mask, bias=bias, impl=impl)
    assert out.isfinite().all()
    for grad in torch.autograd.grad(out.square().sum(), [x for x in (q, k, v, bias) if x is not None]):
        assert grad.isfinite().all()
    rows = [0, 1, 3, 4, 5]
    alone = allowed[:1, :, rows]
    q0, k0, v0 = (x[:1].double() for x in (q[:, :, rows], k, v))
    expected, _ = equation(q0, k0, v0, alone, 0 if bias is None else bias[:, :, rows].double(), D**-0.5)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.3}[dtype]
    torch.testing.assert_close(out[:1, :, rows].double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_lowest_number_plus_a_negative_score_is_finite(impl, dtype, biased):
    """float16's lowest number is only 65504 below zero: a score of -36 more would be -inf, and a row of them NaN."""
    q = torch.full((B, H, 4, D), 4.0, dtype=dtype, requires_grad=True)
    k = torch.full((B, H, 4, D), -4.0, dtype=dtype, requires_grad=True)
    v = torch.randn(B, H, 4, D, dtype=dtype)
    bias = torch.full((1, H, 4, 4), -200.0, dtype=dtype, requires_grad=True) if biased else None
    for mask in (
        torch.zeros(B, 1, 4, 4, dtype=torch.bool),
        ready_mask(torch.full((B, 1, 4, 4), -torch.inf), (B, H, 4, 4), dtype=dtype),
    ):
        out, _ = attend(q, k, v, mask, bias=bias, impl=impl)
        assert out.isfinite().all()
        for grad in torch.autograd.grad(out.float().square().sum(), [q, k] if bias is None else [q, k, bias]):
            assert grad.isfinite().all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_dropout_falls_on_the_probabilities(impl, causal):
    """With the identity as values, the output is the weights: each is dropped whole, or grown by 1 / (1 - p)."""
    n, p = 40, 0.3
    q, k = torch.randn(2, 3, n, 8), torch.randn(2, 3, n, 8)
    eye = torch.eye(n).expand(2, 3, n, n)
    kept, _ = attend(q, k, eye, causal=causal, impl=impl)
    out, weights = attend(q, k, eye, causal=causal, dropout=p, impl=impl)
    seen = kept > 0
    dropped = (out == 0) & seen
    torch.testing.assert_close(out[~dropped], kept[~dropped] / (1 - p), rtol=1e-4, atol=1e-7)
    share = dropped.sum() / seen.sum()
    assert abs(share - p) < 5 * (p * (1 - p) / seen.sum()) ** 0.5
    if impl == "eager":
        torch.testing.assert_close(out, weights @ eye)
    runs = torch.stack([attend(q, k, eye, causal=causal, dropout=p, impl=impl)[0] for _ in range(60)]).mean(0)
    assert (runs - kept).abs().max() < 0.5
    assert (runs - kept).mean().abs() < 1e-4  # expected mean: nothing is added or lost


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_dropout_draws_no_random_number(impl):
    q, k, v = inputs(4, 4)
    before = torch.get_rng_state()
    attend(q, k, v, impl=impl)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_later_token_never_changes_an_earlier_one(impl):
    q, k, v = inputs(9, 9)
    out, _ = attend(q, k, v, causal=True, impl=impl)
    k2, v2 = k.detach().clone(), v.detach().clone()
    k2[:, :, 6:], v2[:, :, 6:] = 100, -100
    changed, _ = attend(q, k2, v2, causal=True, impl=impl)
    assert torch.equal(out[:, :, :6], changed[:, :, :6])
    assert not torch.allclose(out[:, :, 6:], changed[:, :, 6:])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_came_in_is_not_changed(impl):
    q, k, v = inputs(4, 6)
    for mask in (torch.rand(B, 1, 4, 6) > 0.5, torch.randn(B, 1, 4, 6, dtype=torch.float64)):
        bias = torch.randn(1, H, 4, 6, dtype=torch.float64)
        before = [x.detach().clone() for x in (q, k, v, mask, bias)]
        attend(q, k, v, mask, bias=bias, causal=True, impl=impl)
        assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v, mask, bias), strict=True))


def test_an_unknown_implementation_is_named_with_the_choices():
    q, k, v = inputs(2, 2)
    with pytest.raises(ValueError, match=r"'flash_attention_2'.*sdpa, eager"):
        attend(q, k, v, impl="flash_attention_2")


def test_heads_are_consecutive_channels():
    x = torch.randn(B, 7, H * D)
    split = split_heads(x, H)
    assert split.shape == (B, H, 7, D)
    assert split[1, 2, 3, 4] == x[1, 3, 2 * D + 4]
    assert torch.equal(merge_heads(split), x)
