"""The race draws what `torch.multinomial` draws with the same seed, and as often as the probabilities say."""

import pytest
import torch

from minihf.generation import drawing
from minihf.generation.drawing import draw, draws_as_here


def probabilities(*shape, kept=None, dtype=torch.float32):
    scores = torch.randn(*shape, dtype=torch.float64) * 3
    if kept is not None:
        scores = scores.masked_fill(scores < scores.topk(kept).values[..., -1:], -torch.inf)
    return scores.softmax(-1).to(dtype)


def both(p, number, seed):
    """What each draws, and the next number of its generator."""
    for way in (draw, torch.multinomial):
        torch.manual_seed(seed)
        yield way(p, number), torch.rand(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", [1, 2, 8])
@pytest.mark.parametrize("shape", [(1, 8), (3, 17), (23,), (8, 2048), (2, 50257)], ids=str)
def test_one_seed_draws_the_same(shape, number, dtype):
    torch.manual_seed(0)
    assert draws_as_here()
    for seed, kept in enumerate((None, 8, 3, 1) * 5):  # fewer than are drawn, too
        p = probabilities(*shape, kept=kept, dtype=dtype) * (1 + seed % 3)
        (mine, next_mine), (theirs, next_theirs) = both(p, number, seed)
        assert torch.equal(mine, theirs)
        assert torch.equal(next_mine, next_theirs)


def test_as_often_as_the_probabilities_say():
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = draw(p.expand(20_000, 5))[:, 0]
    shares = drawn.bincount(minlength=5) / len(drawn)
    torch.testing.assert_close(shares, p, atol=0.015, rtol=0)  # four standard deviations
    assert shares[4] == 0
    pairs = draw(p.expand(1000, 5), 3)
    assert all(len(row.unique()) == 3 for row in pairs)


@pytest.mark.parametrize("wrong", [[0.5, torch.nan], [0.5, torch.inf], [0.5, -0.1], [0.0, 0.0]], ids=str)
def test_what_is_no_probability_is_refused(wrong):
    for rows in ([[0.5, 0.5], wrong], [wrong], wrong):
        with pytest.raises(RuntimeError, match=r"probability|multinomial"):
            draw(torch.tensor(rows))


def test_a_pytorch_that_draws_otherwise_is_followed(monkeypatch):
    """The check sees it, and what is drawn stays PyTorch's."""
    monkeypatch.setattr(drawing, "exponential", lambda like, generator: torch.rand(like.shape, generator=generator))
    draws_as_here.cache_clear()
    try:
        assert not draws_as_here()
        (mine, _), (theirs, _) = both(probabilities(3, 17), 2, seed=5)
        assert torch.equal(mine, theirs)
    finally:
        draws_as_here.cache_clear()
