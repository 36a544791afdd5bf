"""Where a token stands in its text."""

from torch import Tensor


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """Count real tokens only, so that padding on the left shifts nothing: 0 0 1 1 1 -> 0 0 0 1 2, (B, T) -> (B, T).

    Padded places get the position of the last real token before them (0 where there is none); nobody looks at them.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
