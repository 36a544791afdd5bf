"""Where a token stands in its text, and how far from another."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.nn.cache import Cache


def positions_after(cache: Cache | None, tokens: int, device: torch.device) -> Tensor:
    """Of tokens that follow what was read, padding counted: (T,)."""
    return torch.arange(tokens, device=device) if cache is None else cache.positions(tokens, device)


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """Count real tokens only, so that padding on the left shifts nothing: 0 0 1 1 1 -> 0 0 0 1 2, (B, T) -> (B, T).

    Padded places get the position of the last real token before them (0 where there is none); nobody looks at them.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def positions_from_ids(input_ids: Tensor, pad_token_id: int, past: Tensor | int = 0) -> Tensor:
    """RoBERTa's: count the ids that are not the pad token, from the one after it: 7 8 1 9 -> 2 3 1 4, with pad = 1.

    (B, T) -> (B, T). A pad token has its own id as its position. `past` (B, 1) were counted before.
    """
    real = (input_ids != pad_token_id).long()
    return pad_token_id + real * (past + real.cumsum(-1))


def distance_buckets(distances: Tensor, buckets: int, furthest: int, *, both_ways: bool) -> Tensor:
    """T5's: to which range each distance belongs. Near tokens have one each, farther ones share ever longer ranges.

    8 buckets, the furthest 16, one way:   -20 -16 -12 -9 -6 -5 -4 -3 -2 -1 0 1 2
                                        ->   7   7   7  6  5  4  4  3  2  1 0 0 0

    Args:
        distances: key minus query, integers of any shape.
        buckets: how many there are; both ways, half of them are for keys to the right.
        furthest: from this distance on, at the latest, all are in the last bucket.
        both_ways: keys to the right are told apart, too. If not, they are all in bucket 0, since nobody looks at them.
    """
    right = 0
    if both_ways:
        buckets //= 2
        right, distances = buckets * (distances > 0), distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    near = buckets // 2
    # In float32, in this order, whatever the model's dtype: where a range ends, another rounding is another bucket.
    logarithm = torch.log(distances.clamp(min=1).to(torch.float32) / near) / math.log(furthest / near)
    far = near + (logarithm * (buckets - near)).long()
    return right + torch.where(distances < near, distances, far.clamp(max=buckets - 1))


def sinusoids(positions: int, channels: int) -> Tensor:
    """Waves of growing length: sin(t / 10000^(2i / C)) in channel 2i, its cosine in channel 2i + 1. (T, C), float64.

    The first Transformer's positions (arXiv 1706.03762, section 3.5).
    """
    # On the CPU even while a model is made on the meta device, where PyTorch would import its compiler for an arange.
    position, channel = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (positions, channels))
    angles = position[:, None] / 10_000 ** (2 * (channel // 2) / channels)
    table = angles.sin()
    table[:, 1::2] = angles[:, 1::2].cos()
    return table


class StaticPositions(nn.Module):
    """Marian's and Pegasus': `sinusoids`, all sines before all cosines; neither trained nor saved, but computed."""

    def __init__(self, positions: int, channels: int):
        super().__init__()
        table = sinusoids(positions, channels)
        self.register_buffer("weight", torch.cat([table[:, 0::2], table[:, 1::2]], dim=1).float(), persistent=False)
        self.register_load_state_dict_pre_hook(pass_by)

    def forward(self, positions: Tensor) -> Tensor:
        """(T,) -> (T, C)"""
        return F.embedding(positions, self.weight)


def pass_by(module: nn.Module, state: dict[str, Tensor], prefix: str, *_) -> None:
    """Let `load_state_dict` take what holds the table all the same, as old files and the reference's models do."""
    state.pop(prefix + "weight", None)
