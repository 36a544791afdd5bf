"""Positions: padding on the left shifts nothing; for real tokens they are what the reference's generation counts."""

import torch

from minihf.nn.positions import positions_from_mask


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
