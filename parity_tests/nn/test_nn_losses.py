"""The losses against the reference's own functions and torch's formulas, values and gradients."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers.loss import loss_utils

from minihf.nn.losses import causal_lm_loss, classification_loss, cross_entropy, keytoken_weighted_loss, span_loss

B, T, V = 3, 7, 11


def logits(*shape, dtype=torch.float64):
    return (torch.randn(shape) * 3).to(dtype).requires_grad_()


def labels(*shape, high=V, ignored=0.3):
    return torch.randint(high, shape).masked_fill(torch.rand(shape) < ignored, -100)


def same(ours, theirs, *inputs, tolerance=1e-10):
    """Values and gradients. The reference computes in float32 where it upcasts, so it decides the tolerance."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, check_dtype=False)
    for got, want in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("items", [None, 5, torch.tensor(13)], ids=["mean", "int", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_language_models(dtype, items):
    x, y = logits(B, T, V, dtype=dtype), labels(B, T)
    same(causal_lm_loss(x, y, items), loss_utils.ForCausalLMLoss(x, y, V, items), x, tolerance=1e-6)
    same(cross_entropy(x, y, items), loss_utils.ForMaskedLMLoss(x, y, V, items), x, tolerance=1e-6)


def test_float64_is_not_taken_down():
    x, y = logits(B, T, V), labels(B, T)
    flat = x.log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0]
    same(cross_entropy(x, y), -flat[y != -100].mean(), x, tolerance=1e-13)
    ahead, shifted = flat.new_zeros(()), y[:, 1:]
    for b in range(B):
        for t in range(T - 1):
            if shifted[b, t] != -100:
                ahead = ahead - x[b, t].log_softmax(-1)[shifted[b, t]]
    same(causal_lm_loss(x, y), ahead / (shifted != -100).sum(), x, tolerance=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_float32(dtype):
    """A vocabulary of equal logits: the loss is log V to float32's digits, whatever the model's."""
    loss = cross_entropy(torch.zeros(2, 3, 5000, dtype=dtype), torch.zeros(2, 3, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert abs(loss.item() - torch.tensor(5000.0).log().item()) < 1e-6


def test_micro_batches_add_up_with_num_items():
    """The reason for `num_items_in_batch`: unequal halves summed equal the whole, where means of them do not."""
    x, y = logits(4, T, V), labels(4, T)
    y[0, 1:] = -100
    count = (y[:, 1:] != -100).sum()
    halves = causal_lm_loss(x[:1], y[:1].clamp(min=-100), count) + causal_lm_loss(x[1:], y[1:], count)
    torch.testing.assert_close(halves, causal_lm_loss(x, y), rtol=1e-12, atol=0)


def test_nothing_but_ignored_labels():
    """A mean over nothing is nan, as in the reference; a sum over nothing is 0."""
    x, y = logits(B, T, V), torch.full((B, T), -100)
    assert cross_entropy(x, y).isnan()
    assert causal_lm_loss(x, y).isnan()
    assert loss_utils.ForCausalLMLoss(x, y, V).isnan()
    assert cross_entropy(x, y, 7) == 0
    assert causal_lm_loss(x[:, :1], y[:, :1]).isnan()  # a text of one token predicts nothing


def test_choices_of_texts_are_flattened():
    x, y = logits(B, 2, T, V, dtype=torch.float32), labels(B, 2, T)
    theirs = F.cross_entropy(x[..., :-1, :].reshape(-1, V), y[..., 1:].reshape(-1))
    same(causal_lm_loss(x, y), theirs, x, tolerance=1e-6)


def reference_classification(x, y, problem_type, num_labels):
    config = SimpleNamespace(num_labels=num_labels, problem_type=problem_type)
    return loss_utils.ForSequenceClassificationLoss(y, x, config)


@pytest.mark.parametrize(
    "num_labels, target, problem_type",
    [
        (4, torch.randint(4, (B,)), None),
        (4, torch.randint(4, (B, 1)), None),
        (4, torch.randint(4, (B,)), "single_label_classification"),
        (4, torch.tensor([1, -100, 3]), None),
        (4, torch.rand(B, 4, dtype=torch.float64).round(), None),
        (4, torch.rand(B, 4, dtype=torch.float64), "multi_label_classification"),
        (1, torch.randn(B, dtype=torch.float64), None),
        (1, torch.randn(B, 1, dtype=torch.float64), None),
        (1, torch.randn(B, dtype=torch.float64), "regression"),
        (4, torch.randn(B, 4, dtype=torch.float64), "regression"),
        (2, torch.randint(2, (B,), dtype=torch.long), "single_label_classification"),
    ],
)
def test_sequence_classification(num_labels, target, problem_type):
    x = logits(B, num_labels)
    same(classification_loss(x, target, problem_type), reference_classification(x, target, problem_type, num_labels), x)


def test_integer_labels_of_a_regression_are_numbers():
    x = logits(B, 1)
    y = torch.tensor([3, 0, 5])
    same(classification_loss(x, y), (x[:, 0] - y).square().mean(), x)


def test_a_view_of_logits_is_no_obstacle():
    """As `hidden[:, -1]` gives: not contiguous."""
    x = logits(B, T, 1)
    same(classification_loss(x[:, -1], torch.zeros(B)), x[:, -1].square().mean(), x)
    x = logits(B, T, 4)
    same(classification_loss(x[:, -1], torch.zeros(B, 4), "regression"), x[:, -1].square().mean(), x)


def test_labels_of_another_shape_are_refused():
    for problem in ("regression", "multi_label_classification"):
        with pytest.raises(ValueError, match=rf"{problem} needs a label for each logit: .*\(3, 4\).*\(3,\)"):
            classification_loss(torch.randn(3, 4), torch.randn(3), problem)
    with pytest.raises(ValueError, match="label"):  # as many, but each beside the wrong logit
        classification_loss(torch.randn(3, 4), torch.randn(4, 3), "regression")


def test_an_unknown_problem_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'ranking'") as error:
        classification_loss(torch.randn(3, 4), torch.randint(4, (3,)), "ranking")
    for known in ("regression", "single_label_classification", "multi_label_classification"):
        assert repr(known) in str(error.value)


@pytest.mark.parametrize(
    "first, last",
    [
        ([0, 3, 6], [2, 3, 6]),
        ([0, 7, 99], [2, 9, 6]),  # beyond the text: cut off by truncation
        ([-4, 0, 1], [0, -1, 1]),
        ([[0], [3], [6]], [[2], [3], [6]]),
        ([7, 8, 9], [7, 8, 9]),
    ],
)
def test_spans(first, last):
    start, end = logits(B, T), logits(B, T)
    first, last = torch.tensor(first), torch.tensor(last)
    ours = span_loss(start, end, first, last)
    theirs = loss_utils.ForQuestionAnsweringLoss(start, end, first.clone(), last.clone())
    if theirs.isnan():
        assert ours.isnan()  # no answer inside: a mean over nothing
    else:
        same(ours, theirs, start, end)


def test_spans_of_half_precision():
    start, end = logits(B, T, dtype=torch.float16), logits(B, T, dtype=torch.float16)
    first, last = torch.tensor([0, 3, 9]), torch.tensor([1, 3, 9])
    assert span_loss(start, end, first, last).dtype == torch.float32
    expected = span_loss(start.double(), end.double(), first, last)
    torch.testing.assert_close(span_loss(start, end, first, last).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_callers_labels_are_not_changed():
    y, first = labels(B, T), torch.tensor([99, -3, 2])
    before = y.clone(), first.clone()
    causal_lm_loss(logits(B, T, V), y)
    span_loss(logits(B, T), logits(B, T), first, first)
    assert torch.equal(y, before[0])
    assert torch.equal(first, before[1])


def test_no_labels_no_loss():
    x = torch.randn(B, T, V)
    assert cross_entropy(x, None) is None
    assert causal_lm_loss(x, None, 5) is None
    assert classification_loss(x[:, 0], None, "regression") is None
    assert span_loss(x[..., 0], x[..., 1], None, torch.zeros(B)) is None
    assert span_loss(x[..., 0], x[..., 1], torch.zeros(B), None) is None


def test_a_label_that_no_class_has_is_an_error():
    for loss in (cross_entropy, causal_lm_loss):
        with pytest.raises((IndexError, RuntimeError)):
            loss(torch.randn(B, T, V), torch.full((B, T), V))


def test_a_label_beyond_the_classes_is_told_with_what_labels_are():
    with pytest.raises(IndexError, match=r"7.*Labels are 0 to 3, or -100: is num_labels right\?"):
        cross_entropy(torch.randn(2, 4), torch.tensor([0, 7]))


def test_labels_of_a_turned_batch_are_told():
    """As many as there are logits, each beside the wrong one."""
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), expected one for each of the logits \(2, 3\)"):
        cross_entropy(torch.randn(2, 3, 5), torch.zeros(3, 2, dtype=torch.long))
    assert cross_entropy(torch.randn(2, 5), torch.zeros(2, 1, dtype=torch.long)) > 0  # a column is fine


@pytest.mark.parametrize("tokens, alpha", [([4], 1.0), ([2, 9], 0.7), ([2, 2], 1.0), ([], 0.3)])
def test_a_text_weighs_more_the_more_key_tokens_it_has(tokens, alpha):
    """The course's formula, text by text and token by token."""
    x, ids = logits(B, T, V), torch.randint(V, (B, T))
    ids[0, :4] = torch.tensor([4, 2, 9, 4])
    total = 0
    for b in range(B):
        losses = [-x[b, t].log_softmax(-1)[ids[b, t + 1]] for t in range(T - 1)]
        weight = 1 + sum((ids[b] == token).sum() for token in tokens)  # a token named twice counts twice
        total = total + alpha * (weight * sum(losses) / len(losses))  # an int times alpha would be float32
    same(keytoken_weighted_loss(ids, x, tokens, alpha), total / B, x, tolerance=1e-12)


def test_key_tokens_weigh_half_precision_too():
    x, ids = logits(B, T, V, dtype=torch.bfloat16), torch.randint(V, (B, T))
    loss = keytoken_weighted_loss(ids, x, keytoken_ids=[1])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), keytoken_weighted_loss(ids, x.double(), [1]), rtol=1e-5, atol=1e-5)
