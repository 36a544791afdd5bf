"""The loss in chunks against the loss of all logits: values and every gradient."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minihf.nn import chunked_loss
from minihf.nn.chunked_loss import chunked_cross_entropy
from minihf.nn.losses import cross_entropy, next_tokens
from minihf.nn.words import predict_words

N, C, V = 13, 5, 11
SIZES = [1, 8 * V, 3 * 8 * V, 10**9]  # bytes: tokens one by one (twice), by threes, all at once
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def inputs(*, bias=True, dtype=torch.float64, n=N):
    generator = torch.Generator().manual_seed(n)
    x, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((n, C), (V, C), (V,)))
    given = [t.to(dtype).requires_grad_() for t in (3 * x, w, b)]
    return given if bias else [*given[:2], None], torch.randint(V, (n,), generator=generator)


def gradients(loss, given):
    return torch.autograd.grad(loss, [t for t in given if t is not None and t.requires_grad])


def plain(given, labels, items=None):
    return cross_entropy(F.linear(*given), labels, items)


@pytest.mark.parametrize("items", [None, 29, torch.tensor(7)], ids=["mean", "int", "tensor"])
@pytest.mark.parametrize("chunk", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_all_logits(bias, chunk, items):
    given, labels = inputs(bias=bias)
    ours, theirs = chunked_cross_entropy(*given, labels, items, chunk=chunk), plain(given, labels, items)
    torch.testing.assert_close(ours, theirs, **EXACT)
    for mine, other in zip(gradients(1.7 * ours, given), gradients(1.7 * theirs, given), strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("frozen", list(product([False, True], repeat=3)))
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_all_of_it(frozen):
    given, labels = inputs()
    for t, still in zip(given, frozen, strict=True):
        t.requires_grad_(not still)
    ours, theirs = chunked_cross_entropy(*given, labels, chunk=3 * 8 * V), plain(given, labels)
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert ours.requires_grad == theirs.requires_grad
    if ours.requires_grad:
        for mine, other in zip(gradients(ours, given), gradients(theirs, given), strict=True):
            torch.testing.assert_close(mine, other, **EXACT)


def test_without_gradients_it_makes_none(monkeypatch):
    given, labels = inputs()
    with torch.no_grad():
        expected = plain(given, labels)
        monkeypatch.setattr(torch.Tensor, "exp_", None)  # the first step of the backward
        loss = chunked_cross_entropy(*given, labels)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert not loss.requires_grad


@pytest.mark.parametrize("factor", [1, 3])
def test_backward_twice_adds_up_as_for_any_loss(factor):
    given, labels = inputs()
    loss = factor * chunked_cross_entropy(*given, labels, chunk=1)
    loss.backward(retain_graph=True)
    loss.backward()
    for t, expected in zip(given, gradients(plain(given, labels), given), strict=True):
        torch.testing.assert_close(t.grad, 2 * factor * expected, **EXACT)


def test_a_second_derivative_is_refused():
    given, labels = inputs()
    loss = chunked_cross_entropy(*given, labels)
    with pytest.raises(NotImplementedError, match=r"no second derivative.*outputs\.logits"):
        torch.autograd.grad(loss, given, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_errs_as_little_as_the_plain_path(dtype):
    """Softmax in float32, as the plain path's; the gradients of chunks are summed in float32."""
    exact, labels = inputs(n=200)
    given = [t.detach().to(dtype).requires_grad_() for t in exact]
    exact = [t.detach().double().requires_grad_() for t in given]
    ours, theirs, truth = (
        chunked_cross_entropy(*given, labels, chunk=31 * 4 * V),
        plain(given, labels),
        plain(exact, labels),
    )
    assert ours.dtype == torch.float32
    assert abs(ours - truth) <= 3 * abs(theirs - truth) + 1e-6
    for name, mine, other, right in zip(
        "xwb", *(gradients(*pair) for pair in ((ours, given), (theirs, given), (truth, exact))), strict=True
    ):
        assert mine.dtype == dtype
        error, allowed = (abs(g.double() - right).max() for g in (mine, other))
        assert error <= 3 * allowed, name


def test_small_gradients_of_half_precision_survive_until_the_loss_scale():
    """As a loss scaler has it: 1e-9 is nothing in float16, and 65536 times that is something."""
    x, w = torch.full((1, 1), 1e-3, dtype=torch.float16), torch.zeros(2, 1, dtype=torch.float16, requires_grad=True)
    loss = chunked_cross_entropy(x, w, None, torch.tensor([0]), 10**6)
    (got,) = torch.autograd.grad(loss * 2.0**24, w)
    expected = 0.5 * x.double() / 10**6 * 2**24
    torch.testing.assert_close(got.double(), torch.cat([-expected, expected]), rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast_takes_it_down_as_it_does_a_linear_layer(dtype):
    given, labels = inputs(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = chunked_cross_entropy(*given, labels, chunk=3 * 8 * V), plain(given, labels)
    assert ours.dtype == theirs.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    rtol = 2e-2 if dtype == torch.float32 else 1e-12
    for mine, other in zip(gradients(ours, given), gradients(theirs, given), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol)
    taken_down = abs(ours.double() - plain([t.double() for t in given], labels)) > 1e-5
    assert taken_down == (dtype == torch.float32)


@pytest.mark.parametrize("items", [None, 4])
def test_no_token_at_all(items):
    """A mean over nothing is nan, a sum over nothing 0; there is no gradient."""
    given, labels = inputs(n=0)
    ours, theirs = chunked_cross_entropy(*given, labels, items), plain(given, labels, items)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert not any(g.any() for g in gradients(ours, given))


def test_a_label_that_is_no_word_is_an_error():
    given, labels = inputs()
    for wrong in (V, -1):
        labels[3] = wrong
        with pytest.raises(IndexError, match=rf"Target {wrong} is out of bounds\. Labels are 0 to 10, or -100"):
            chunked_cross_entropy(*given, labels)


def test_far_logits_neither_overflow_nor_lose_the_loss():
    """e^900 is no number, and the label's probability is none either; their logarithms are."""
    x, w = torch.tensor([[900.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = chunked_cross_entropy(x, w, None, torch.tensor([1]))
    assert loss.item() == 1800
    assert torch.autograd.grad(loss, x)[0].item() == 2


def test_never_are_there_more_logits_than_a_chunk_has():
    """The largest tensor that any operation gives, seen from below."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(t, torch.Tensor):
                    self.largest = max(self.largest, t.numel())
            return result

    given, labels = inputs(n=1000)
    for loss, fits in ((partial(chunked_cross_entropy, chunk=64 * 8 * V), True), (plain, False)):
        with Largest() as seen:
            (loss(*given, labels) if fits else loss(given, labels)).backward()
        assert (seen.largest <= max(64 * V, 1000 * C)) == fits, seen.largest


# Faults planted in it: what the comparison above must see.


def wrong(monkeypatch, name):
    into = chunked_loss.logits_into
    if name == "a chunk twice":
        first = []
        monkeypatch.setattr(
            chunked_loss,
            "logits_into",
            lambda room, x, *rest: into(room, (first.append(x) or first[0])[: len(x)], *rest),
        )
    elif name == "no bias in the logits":
        monkeypatch.setattr(chunked_loss, "logits_into", lambda room, x, w, b: into(room, x, w, None))
    elif name == "the scale of the loss is lost":
        backward = chunked_loss.ChunkedCrossEntropy.backward
        monkeypatch.setattr(
            chunked_loss.ChunkedCrossEntropy,
            "backward",
            staticmethod(lambda ctx, grad: backward(ctx, torch.ones_like(grad))),
        )


@pytest.mark.parametrize("name", ["a chunk twice", "no bias in the logits", "the scale of the loss is lost"])
def test_the_comparison_sees(name, monkeypatch):
    wrong(monkeypatch, name)
    with pytest.raises(AssertionError):
        test_value_and_gradients_are_those_of_all_logits(True, 3 * 8 * V, None)


# The head around it


class Head(nn.Module):
    __module__ = "minihf.models.some"  # a head of ours, whose parts can be used one by one

    def __init__(self):
        super().__init__()
        self.dense, self.decoder = nn.Linear(C, C), nn.Linear(C, V)

    def transform(self, x):
        return torch.tanh(self.dense(x))

    def forward(self, x):
        return self.decoder(self.transform(x))


def head_and_batch():
    torch.manual_seed(3)
    labels = torch.randint(V, (2, 7)).masked_fill(torch.rand(2, 7) < 0.6, -100)
    return Head().double(), torch.randn(2, 7, C, dtype=torch.float64, requires_grad=True), labels


def each_way(head, x, labels, **options):
    """(loss, logits, gradients) in training, where they are computed on request, and in evaluation."""
    for mode in (True, False):
        loss, logits = predict_words(head.train(mode), x, labels, **options)
        assert callable(logits) == mode
        logits = logits() if mode else logits
        inputs = [x, *head.parameters()]
        yield loss, logits, *torch.autograd.grad(loss + logits.square().sum(), inputs)


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": 5}, {"bias": torch.randn(1, V, dtype=torch.float64)}])
def test_training_gives_what_evaluation_gives(options):
    head, x, labels = head_and_batch()
    for labelled in (labels, next_tokens(labels)):
        for mine, other in zip(*each_way(head, x, labelled, **options), strict=True):
            torch.testing.assert_close(mine, other, **EXACT)


def test_in_training_the_head_sees_labelled_tokens_only(monkeypatch):
    head, x, labels = head_and_batch()
    seen, transform = [], head.transform
    monkeypatch.setattr(Head, "transform", lambda self, x: (seen.append(x.shape), transform(x))[1])
    predict_words(head, x, labels)
    assert seen == [((labels != -100).sum(), C)]


@pytest.mark.parametrize("part", ["", "dense", "decoder"])
def test_whoever_listens_to_the_head_hears_all_of_it(part):
    head, x, labels = head_and_batch()
    expected, _ = predict_words(head.eval(), x, labels)
    heard = []
    head.get_submodule(part).register_forward_hook(lambda module, args, output: heard.append(output.shape[:-1]))
    loss, logits = predict_words(head.train(), x, labels)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert logits.shape == (2, 7, V)
    assert heard == [(2, 7)]


class Adapter(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1 * x[..., :1]


@pytest.mark.parametrize("adapt", ["another class", "parametrized", "another forward"])
def test_an_adapter_in_the_head_works(adapt):
    head, x, labels = head_and_batch()
    if adapt == "another class":
        head.decoder = Adapter(C, V).double()
    elif adapt == "parametrized":
        nn.utils.parametrizations.weight_norm(head.decoder)
    else:
        forward = head.decoder.forward
        head.decoder.forward = lambda x: 2 * forward(x)
    loss, logits = predict_words(head, x, labels)
    assert torch.equal(logits, head(x))
    torch.testing.assert_close(loss, cross_entropy(head(x), labels), **EXACT)


def test_logits_on_request_are_those_of_the_call():
    """Gradients and autocast are as they were; with other weights they would be of no call at all."""
    head, x, labels = head_and_batch()
    with torch.no_grad():
        _, logits = predict_words(head, x, labels)
    assert not logits().requires_grad
    single, y = head.float(), x.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        _, logits = predict_words(single, y, labels)
    assert logits().dtype == torch.bfloat16
    _, logits = predict_words(single, y, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert logits().dtype == torch.float32
    _, logits = predict_words(single, y, labels)
    torch.optim.SGD(single.parameters(), lr=0.1).step()  # nothing has a gradient, nothing changes
    logits()
    with torch.no_grad():
        single.dense.bias.add_(1)
    with pytest.raises(RuntimeError, match=r"read outputs\.logits before optimizer\.step"):
        logits()


def test_inference_mode_is_no_obstacle():
    with torch.inference_mode():
        head, x, labels = head_and_batch()
        loss, logits = predict_words(head, x, labels)
    torch.testing.assert_close(loss, cross_entropy(logits(), labels), **EXACT)


def test_labels_of_a_turned_batch_are_told():
    head, x, labels = head_and_batch()
    with pytest.raises(ValueError, match=r"labels have shape \(7, 2\), expected one for each of the logits \(2, 7\)"):
        predict_words(head, x, labels.t())
