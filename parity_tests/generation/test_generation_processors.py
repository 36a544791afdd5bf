"""The processors, each against the reference's own, float32, ties and edges included; in the reference's order."""

import pytest
import torch
from transformers.generation import logits_process

from minihf.generation.config import GenerationConfig
from minihf.generation.processors import sampling_processors, temperature, top_k, top_p
from minihf.generation.stopping import at_token

IDS = torch.zeros(4, 3, dtype=torch.long)


def scores(kind: str = "normal") -> torch.Tensor:
    x = torch.randn(4, 33) * 3
    if kind == "ties":
        x = x.round()
    if kind == "flat":
        x = torch.zeros(4, 33)
    if kind == "peaked":
        x[:, 7] = 200
    if kind == "forbidden":
        x[:, ::2] = -torch.inf
    return x


def same(ours, theirs, x) -> None:
    before = x.clone()
    got = ours(IDS, x)
    assert torch.equal(x, before)  # a pure function
    assert torch.equal(got, theirs(IDS, x.clone()))


@pytest.mark.parametrize("kind", ["normal", "ties", "flat", "peaked", "forbidden"])
def test_each_is_the_references(kind):
    for t in (0.01, 0.5, 1.7, 100.0):
        same(temperature(t), logits_process.TemperatureLogitsWarper(t), scores(kind))
    for k in (1, 2, 10, 32, 33, 34, 1000):
        same(top_k(k), logits_process.TopKLogitsWarper(k), scores(kind))
    for p in (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-7):
        same(top_p(p), logits_process.TopPLogitsWarper(p), scores(kind))


def test_what_they_keep():
    x = scores()
    assert (top_k(5)(IDS, x) > -torch.inf).sum(-1).tolist() == [5] * 4
    assert (top_p(1e-9)(IDS, x) > -torch.inf).sum(-1).tolist() == [1] * 4
    kept = top_p(0.7)(IDS, x) > -torch.inf
    for row, keep in zip(x.softmax(-1), kept, strict=True):
        assert row[keep].sum() >= 0.7  # enough
        assert row[keep].sum() - row[keep].min() < 0.7  # and not one too many
        assert row[keep].min() >= row[~keep].max()
    tied = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert (top_k(2)(IDS[:1], tied) > -torch.inf).sum() == 3  # those that tie with the second stay


@pytest.mark.parametrize("settings", [(0.5, 5, 0.8), (2.0, 0, 0.5), (1.0, 7, 1.0), (1.0, None, 1.0), (3.0, 20, 0.3)])
def test_together_and_in_order(settings):
    t, k, p = settings
    x = scores()
    got, expected = x, x.clone()
    for process in sampling_processors(GenerationConfig(do_sample=True, temperature=t, top_k=k, top_p=p)):
        got = process(IDS, got)
    if t != 1:
        expected = logits_process.TemperatureLogitsWarper(t)(IDS, expected)
    if k:
        expected = logits_process.TopKLogitsWarper(k)(IDS, expected)
    if p < 1:
        expected = logits_process.TopPLogitsWarper(p)(IDS, expected)
    assert torch.equal(got, expected)


def test_the_order_matters_here():
    """So that the test above can see it: nucleus before k keeps other tokens."""
    x = torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.1]]).log()
    ids = IDS[:1]
    assert (top_p(0.6)(ids, top_k(4)(ids, x)) > -torch.inf).sum() == 2
    assert (top_k(4)(ids, top_p(0.6)(ids, x)) > -torch.inf).sum() == 3
    both = sampling_processors(GenerationConfig(do_sample=True, top_k=4, top_p=0.6))
    assert (both[1](ids, both[0](ids, x)) > -torch.inf).sum() == 2


def test_a_text_ends_with_its_last_token():
    ids = torch.tensor([[5, 7, 1], [7, 1, 5], [1, 1, 7], [7, 7, 2]])
    assert at_token([7], ids.device)(ids).tolist() == [False, False, True, False]
    assert at_token([7, 5], ids.device)(ids).tolist() == [False, True, True, False]
    assert at_token([9], ids.device)(ids).tolist() == [False] * 4
    assert at_token([7], ids.device)(ids[:, :1]).tolist() == [False, True, False, True]
