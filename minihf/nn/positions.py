"""Where a token stands in its text."""

from torch import Tensor


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
