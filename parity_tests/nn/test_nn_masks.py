"""Masks: who may attend to whom, said once more by plain loops."""

import itertools

import pytest
import torch

from minihf.nn.masks import apart, decoder_mask, encoder_mask, lower_triangle, ready_mask

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
RIGHT = LEFT.flip(1)
HOLES = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
F64 = torch.float64


def encoder(mask, batch, keys, *, dtype):
    return encoder_mask(mask, (batch, 1, keys, keys), dtype=dtype)


def decoder_of_two(mask, batch, keys, *, dtype):
    return decoder_mask(mask, (batch, 1, 2, keys), dtype=dtype)


def decoder_of_five(mask, batch, keys, *, dtype):
    return decoder_mask(mask, (batch, 1, 5, keys), dtype=dtype)


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 4), (3, 3), (2, 5)])
def test_no_token_sees_a_later_one(queries, keys):
    triangle = lower_triangle(queries, keys)
    assert triangle.shape == (1, 1, queries, keys)
    assert triangle.dtype == torch.bool
    past = keys - queries
    for i, j in itertools.product(range(queries), range(keys)):
        assert triangle[0, 0, i, j] == (j <= past + i)


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.bool, torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("padded", [LEFT, RIGHT, HOLES], ids=["left", "right", "holes"])
def test_encoder_every_token_sees_every_real_one(padded, dtype):
    mask = encoder_mask(padded.to(dtype), (3, 1, 5, 5), dtype=F64)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, padded.bool()[:, None, None])


@pytest.mark.parametrize("queries", [5, 3, 2, 1])
@pytest.mark.parametrize("padded", [LEFT, RIGHT, HOLES], ids=["left", "right", "holes"])
def test_decoder_sees_the_real_ones_up_to_itself(padded, queries):
    """With fewer queries than keys, the first keys are the past's."""
    mask = decoder_mask(padded, (3, 1, queries, 5), dtype=F64).expand(3, 1, queries, 5)
    for b, i, j in itertools.product(range(3), range(queries), range(5)):
        assert mask[b, 0, i, j] == (padded[b, j] == 1 and j <= 5 - queries + i)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("queries", [5, 3, 2, 1])
@pytest.mark.parametrize("padded", [None, LEFT, RIGHT, HOLES], ids=["full", "left", "right", "holes"])
def test_decoder_sees_the_real_ones_of_the_last_of_the_window(padded, queries, window):
    """Over the keys that a cache keeps: those that the first query sees, and all after them."""
    mask = decoder_mask(padded, (3, 1, queries, 5), dtype=F64, window=window)
    first = max(0, 5 - queries - window + 1)
    if mask is None:
        mask = lower_triangle(queries, 5 - first)
        assert padded is None or padded[:, first:].all()
        assert queries == 1 or 5 - first <= window
    mask = mask.expand(3, 1, queries, 5 - first)
    for b, i, j in itertools.product(range(3), range(queries), range(first, 5)):
        place = 5 - queries + i
        real = padded is None or padded[b, j] == 1
        assert mask[b, 0, i, j - first] == (real and place - window < j <= place)


def test_a_window_takes_its_part_of_a_ready_mask():
    ready = torch.rand(3, 1, 2, 9) > 0.5
    assert torch.equal(decoder_mask(ready, (3, 1, 2, 9), dtype=F64, window=4), ready[..., -5:])
    for wrong in (torch.ones(3, 5), torch.ones(3, 8), torch.ones(3, 1, 2, 5)):
        with pytest.raises(ValueError, match=r"expected \(3, .*9\)"):
            decoder_mask(wrong, (3, 1, 2, 9), dtype=F64, window=4)


def test_nothing_padded_needs_no_mask():
    for ones in (None, torch.ones(3, 5), torch.ones(3, 5, dtype=torch.bool), torch.ones(3, 5, dtype=torch.long)):
        assert encoder_mask(ones, (3, 1, 5, 5), dtype=F64) is None
        assert decoder_mask(ones, (3, 1, 5, 5), dtype=F64) is None
        assert decoder_mask(ones, (3, 1, 2, 5), dtype=F64) is None


@pytest.mark.parametrize("maker", [encoder, decoder_of_two])
@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (5,), (3, 5, 5), (3, 6), (0, 5)])
def test_another_shape_is_refused_with_both_shapes_and_the_cache(maker, shape):
    with pytest.raises(ValueError, match="those in the cache included") as error:
        maker(torch.ones(shape), 3, 5, dtype=F64)
    assert str(tuple(shape)) in str(error.value)
    assert "(3, 5)" in str(error.value)


@pytest.mark.parametrize("maker", [encoder, decoder_of_five])
def test_a_ready_mask_is_taken_as_it_is(maker):
    """Bool, 0/1 or float: the causal rule is not added to what the caller has decided."""
    allowed = torch.rand(3, 1, 5, 5) > 0.5
    for ready in (allowed, allowed.long(), allowed.to(torch.int8)):
        got = maker(ready, 3, 5, dtype=F64)
        assert got.dtype == torch.bool
        assert torch.equal(got, allowed)
    added = torch.randn(3, 1, 5, 5)
    assert torch.equal(maker(added, 3, 5, dtype=F64), added.double())


@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_minus_infinity_becomes_the_lowest_number(given, dtype):
    """From whatever precision the caller made the mask in to whatever the model has."""
    ready = ready_mask(
        torch.tensor([[0.0, -torch.inf], [-torch.inf, -3.0]], dtype=given)[None, None], (1, 1, 2, 2), dtype=dtype
    )
    assert ready.dtype == dtype
    assert ready.isfinite().all()
    assert ready.flatten().tolist()[::3] == [0, -3]
    assert (ready.flatten()[1:3] < -60_000).all()
    lowest = torch.full((1, 1, 1, 1), torch.finfo(given).min, dtype=given)
    assert ready_mask(lowest, (1, 1, 1, 1), dtype=dtype).isfinite().all()


def test_the_callers_mask_is_not_changed():
    for mask in (LEFT, torch.full((1, 1, 2, 2), -torch.inf)):
        before = mask.clone()
        if mask.dim() == 2:
            decoder_mask(mask, (3, 1, 5, 5), dtype=F64)
        else:
            ready_mask(mask, mask.shape, dtype=torch.float32)
        assert torch.equal(mask, before)


@pytest.mark.parametrize("window", [None, 2, 9])
def test_texts_in_one_row_are_kept_apart(window):
    """Those that follow from positions which begin anew, as the collator makes them: who is in whose text, by loops."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 5, 6], [3, 4, 5, 6, 7, 8, 9, 10], [0, 0, 0, 1, 1, 0, 1, 2]])
    mask = decoder_mask(None, (3, 2, 8, 8), dtype=F64, window=window, positions=positions)
    assert mask.shape == (3, 1, 8, 8)
    for row, places in enumerate(positions.tolist()):
        for i, j in itertools.product(range(8), repeat=2):
            together = all(places[k] + 1 == places[k + 1] for k in range(j, i))
            assert mask[row, 0, i, j] == (j <= i and together and (window is None or i - j < window))
    one = decoder_mask(None, (3, 2, 8, 8), dtype=F64, window=window, positions=positions[:1])
    assert torch.equal(one, mask[:1])


def test_one_text_a_row_needs_no_mask():
    whole = torch.arange(7, 12)[None]
    assert apart(whole) is None
    assert apart(whole[:, :1]) is None
    assert decoder_mask(None, (2, 2, 5, 5), dtype=F64, positions=whole) is None
    band = decoder_mask(None, (2, 2, 5, 5), dtype=F64, positions=whole, window=3)
    assert torch.equal(band, lower_triangle(5, 5, window=3))


def test_a_mask_decides_before_positions_do():
    anew = torch.tensor([[0, 1, 0, 1, 2]])
    assert torch.equal(
        decoder_mask(LEFT, (3, 2, 5, 5), dtype=F64, positions=anew), decoder_mask(LEFT, (3, 2, 5, 5), dtype=F64)
    )
    assert decoder_mask(torch.ones(3, 5), (3, 2, 5, 5), dtype=F64, positions=anew) is None
