"""All ways give the same product, and each is taken only where it may be."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from minihf.nn import linear
from minihf.nn.conv1d import Conv1D
from minihf.nn.linear import FEW, LARGE, MUCH, SMALL, Linear, by_onednn, fastest, from_the_left, in_parts

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")


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


def test_a_sentence_goes_the_other_way_and_nothing_else_does(left, processor):
    processor("Intel Xeon")
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


SHAPES = [(1, 5), (3, 7, 5), (2, 1, 4, 5), (0, 5), (2, 0, 5), (5,)]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", [False, True])  # as GPT-2 keeps its weights
def test_onednn_gives_the_same_product(shape, turned, bias):
    weight = torch.randn(5, 3).T if turned else torch.randn(3, 5)
    bias = torch.randn(3) if bias else None
    wide = torch.randn(*shape[:-1], 10)
    for x in (torch.randn(shape), wide[..., ::2], torch.randn(1, 5).expand(shape) if len(shape) > 1 else wide[..., 5:]):
        with torch.no_grad():
            ours = by_onednn(x, weight, bias)
        assert ours.is_contiguous()
        # Sums of five products: a few times float32's eps.
        torch.testing.assert_close(ours, F.linear(x, weight, bias), rtol=1e-6, atol=1e-6)


@pytest.fixture
def other(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of what was multiplied by oneDNN."""
    seen = []

    def spy(x, weight, bias):
        seen.append((*x.shape, *weight.shape))
        return by_onednn(x, weight, bias)

    monkeypatch.setattr(linear, "by_onednn", spy)
    return seen


@needs_onednn
@pytest.mark.parametrize("layer", [Linear(6, 4), Linear(6, 4, bias=False), Conv1D(4, 6)], ids=["", "no bias", "Conv1D"])
def test_onednn_is_asked_in_inference_on_amd_s_processors(layer, other, processor):
    x = torch.randn(2, 3, 6)
    expected = layer(x).detach()
    assert other == []
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            processor("AMD EPYC")
            torch.testing.assert_close(layer(x), expected)
            assert other.pop() == (2, 3, 6, 4, 6)
            processor("Intel(R) Xeon(R)")
            torch.testing.assert_close(layer(x), expected)
    assert other == []


@needs_onednn
def test_onednn_is_left_alone_where_it_knows_less(other, processor):
    processor("AMD Ryzen")
    layer, x = Linear(6, 4), torch.randn(2, 3, 6)
    expected = layer(x)  # gradients
    expected.sum().backward()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
            torch.testing.assert_close(tangent, layer.weight.sum(1).expand(2, 3, 4))
        _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(tangent, layer.weight.sum(1).expand(2, 3, 4))
        with torch.backends.mkldnn.flags(enabled=False):
            layer(x)
        for dtype in (torch.float64, torch.bfloat16):
            Linear(6, 4, dtype=dtype)(x.to(dtype))
        torch.compile(layer, backend="eager")(x)
        traced = torch.jit.trace(layer, x, check_trace=False)
        assert traced(torch.randn(9, 6)).shape == (9, 4)
        assert Linear(6, 4, device="meta")(x.to("meta")).shape == (2, 3, 4)
        assert other == []
        for wrong in (torch.randn(2, 5), torch.randn(2, 6).double(), torch.randn(2, 6).to("meta"), torch.tensor(1.0)):
            with pytest.raises(RuntimeError, match=r"mat1 and mat2|same dtype|meta|device|at least 1D"):
                layer(wrong)
        wrong = Linear(6, 4)
        wrong.weight = nn.Parameter(wrong.weight.double())
        with pytest.raises(RuntimeError, match="same dtype"):
            wrong(x)
        assert other == []
        torch.testing.assert_close(layer(x), expected.detach())
        assert len(other) == 1


@needs_onednn
def test_tensors_of_other_kinds_go_the_usual_way(processor):
    """Such as those that are spread over devices, which make of each operator what they need."""
    processor("AMD Ryzen")

    class Other(torch.Tensor):
        pass

    for tokens, way in ((2, by_onednn), (1, in_parts)):
        x, weight = torch.randn(tokens, 6), torch.randn(4, 6)
        with torch.no_grad():
            assert fastest(x, weight) is way
            assert fastest(x, nn.Parameter(weight)) is way
            assert fastest(x.as_subclass(Other), weight) is F.linear
            assert fastest(x, weight.as_subclass(Other)) is F.linear


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5)])
@pytest.mark.parametrize("rows", [2, 6, 16, 80])
def test_one_token_in_parts_gives_the_same_product(rows, shape, bias, processor):
    processor("AMD Ryzen")
    weight, bias, wide = torch.randn(rows, 5), torch.randn(rows) if bias else None, torch.randn(*shape[:-1], 10)
    with torch.no_grad():
        for x in (torch.randn(shape), wide[..., ::2], wide[..., 5:]):
            assert fastest(x, weight) is in_parts
            ours = in_parts(x, weight, bias)
            assert ours.shape == (*shape[:-1], rows)
            assert ours.is_contiguous()
            torch.testing.assert_close(ours, F.linear(x, weight, bias), rtol=1e-6, atol=1e-6)  # as above


@needs_onednn
def test_what_has_no_parts_goes_by_onednn(processor, monkeypatch):
    processor("AMD Ryzen")
    x = torch.randn(1, 6)
    with torch.no_grad():
        assert fastest(x, torch.randn(4, 6)) is in_parts
        assert fastest(x, torch.randn(5, 6)) is by_onednn  # an odd number of rows
        assert fastest(x, torch.randn(6, 4).T) is by_onednn  # as GPT-2 keeps its weights
        monkeypatch.setattr(linear, "LARGE", LARGE)
        monkeypatch.setattr(linear, "SMALL", SMALL)
        assert fastest(torch.empty(1, 1, SMALL // 64), torch.empty(64, SMALL // 64)) is in_parts
        assert fastest(torch.empty(1, 1, SMALL // 64 - 1), torch.empty(64, SMALL // 64 - 1)) is F.linear
        processor("Intel Xeon")
        assert fastest(torch.empty(1, 1, SMALL // 64), torch.empty(64, SMALL // 64)) is F.linear


@needs_onednn
def test_small_products_do_not_repay_the_call(processor, monkeypatch):
    processor("AMD Ryzen")
    monkeypatch.setattr(linear, "LARGE", LARGE)
    small, large = torch.empty(256, LARGE // 256 - 1), torch.empty(256, LARGE // 256)
    enough = -(-MUCH // small.numel())
    with torch.no_grad():
        assert fastest(torch.empty(2, large.size(1)), large) is by_onednn
        assert fastest(torch.empty(2, small.size(1)), small) is F.linear
        assert fastest(torch.empty(enough - 1, small.size(1)), small) is F.linear
        assert fastest(torch.empty(enough, small.size(1)), small) is by_onednn
        assert fastest(torch.empty(2, enough // 2 + 1, small.size(1)), small) is by_onednn


def biases():
    """What `F.linear` takes besides a bias as it should be."""
    table = torch.randn(4, 3)
    return [table[:, 1], torch.zeros(1).expand(4), torch.tensor(1.5), torch.randn(1), torch.randn(1, 4)]


@needs_onednn
@pytest.mark.parametrize("tokens", [1, 3])
def test_a_bias_with_gaps_is_the_bias(tokens, processor):
    """oneDNN would read on from its beginning."""
    processor("AMD Ryzen")
    x, weight = torch.randn(tokens, 6), torch.randn(4, 6)
    with torch.no_grad():
        for bias in biases():
            assert fastest(x, weight, bias) is F.linear
            torch.testing.assert_close(linear.linear(x, weight, bias), x @ weight.T + bias)
        columns = torch.func.vmap(lambda b: linear.linear(x, weight, b), in_dims=-1)(torch.randn(4, 3))
        assert columns.shape == (3, tokens, 4)
        for wrong in (torch.randn(3), torch.randn(4).double(), torch.empty(4, device="meta")):
            assert fastest(x, weight, wrong) is F.linear
            with pytest.raises(RuntimeError, match=r"expand|same dtype|meta|device|size"):
                linear.linear(x, weight, wrong)


@needs_onednn
@pytest.mark.parametrize("tokens", [1, 3, FEW[3]])
@pytest.mark.parametrize("maker", ["AMD Ryzen", "Intel Xeon"])
def test_sparse_weights_are_multiplied_as_ever(tokens, maker, processor):
    processor(maker)
    x, weight = torch.randn(tokens, 6), torch.randn(4, 6)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of sparse tensors being in beta
        torch.testing.assert_close(linear.linear(x, weight.to_sparse_csr()), F.linear(x, weight))


def test_without_names_of_processors_nothing_changes(processor, monkeypatch):
    processor("AMD Ryzen")
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older PyTorch
    linear.amd.cache_clear()
    assert not linear.onednn_is_faster()
