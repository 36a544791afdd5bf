"""What a run adds up as it goes: losses that are not logged yet, and tokens that were read."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minihf.training.distributed import averaged


@dataclass
class Losses:
    """Sums of losses, each of a step: a sum is read from the GPU only when it is logged.

    Of several processes each has its own part in `unlogged`, a loss being the mean of all parts.
    """

    unlogged: Tensor
    logged_at: int  # the step
    since: int  # the step from which on all are in `total`, or not logged yet
    total: float = 0.0

    def take(self, step: int) -> float:
        """The mean since the last log; of several processes all ask for it."""
        loss, steps = averaged(self.unlogged).item(), step - self.logged_at
        self.unlogged.zero_()
        self.total, self.logged_at = self.total + loss, step
        return loss / steps


def tokens_in(ids: Any, batch: Any, kind: str, tokenizer: Any) -> int:
    """How many tokens a batch has: "all", or "non_padding", by the mask or else by the tokenizer's pad token."""
    if kind == "no" or not isinstance(ids, Tensor):
        return 0
    pad = getattr(tokenizer, "pad_token_id", None)
    if kind == "non_padding" and "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int((ids != pad).sum()) if kind == "non_padding" and pad is not None else ids.numel()
