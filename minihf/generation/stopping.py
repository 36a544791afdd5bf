"""When a text is at its end: a rule takes the ids so far (B, T) and says of each row whether it is done, bool (B,)."""

from collections.abc import Callable

import torch
from torch import Tensor

StopRule = Callable[[Tensor], Tensor]


def at_token(tokens: list[int], device: torch.device) -> StopRule:
    """The last token is one of these."""
    ends = torch.tensor(tokens, device=device)
    return lambda ids: (ids[:, -1:] == ends).any(-1)
