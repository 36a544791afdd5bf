"""Positions: padding on the left shifts nothing; for real tokens they are what the reference's generation counts."""

import torch

from minihf.nn.positions import distance_buckets, positions_from_mask


def test_real_tokens_are_counted_from_zero():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    got = positions_from_mask(mask)
    assert got.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 1, 1, 1], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]]
    assert got.dtype == torch.long


def test_any_kind_of_mask_counts_alike():
    mask = torch.rand(7, 300) > 0.4  # more than 255 tokens: no narrow type may overflow
    expected = positions_from_mask(mask)
    for dtype in (torch.long, torch.int32, torch.uint8, torch.float32, torch.bfloat16):
        assert torch.equal(positions_from_mask(mask.to(dtype)), expected)


def test_real_tokens_stand_where_the_reference_puts_them():
    mask = (torch.rand(6, 11) > 0.5).long()
    theirs = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)  # transformers' prepare_inputs_for_generation
    ours = positions_from_mask(mask)
    assert torch.equal(ours[mask == 1], theirs[mask == 1])
    assert (ours >= 0).all()


def test_the_docstrings_distances_are_in_the_docstrings_buckets():
    distances = torch.tensor([-20, -16, -12, -9, -6, -5, -4, -3, -2, -1, 0, 1, 2])
    buckets = distance_buckets(distances, 8, 16, both_ways=False)
    assert buckets.tolist() == [7, 7, 7, 6, 5, 4, 4, 3, 2, 1, 0, 0, 0]
    rows = [row.split() for row in distance_buckets.__doc__.splitlines() if row.endswith((" 0 1 2", " 0 0 0"))]
    assert [[int(x) for x in row[-13:]] for row in rows] == [distances.tolist(), buckets.tolist()]


def test_both_ways_the_right_has_a_half_of_its_own():
    distances = torch.arange(-40, 41)
    left = distance_buckets(distances, 16, 20, both_ways=False)
    both = distance_buckets(distances, 32, 20, both_ways=True)
    assert torch.equal(both[:41], left[:41])
    assert torch.equal(both[41:], left[:40].flip(0) + 16)
