"""A reader that records how it reads a token, and then plays that back: what small models gain by is Python's time."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from minihf.fast.tapes import Tape
from minihf.generation.reader import Reader
from minihf.nn.positions import positions_from_mask
from minihf.nn.steady_cache import SteadyCache

AHEAD = 64  # tokens for which there is room: a text may end early, and its memory is never more than a little too large


class TapedReader(Reader):
    """The prompt is read as ever, new tokens by a `Tape` over a `SteadyCache`. When that is full, both are made anew.

    Args:
        args, kwargs: those of `Reader`, and its `steps`.
    """

    def __init__(self, *args: Any, steps: int, **kwargs: Any):
        super().__init__(*args, steps=steps, **kwargs)
        self.to_come, self.room = max(steps - 1, 1), 0  # tokens to be read, and places for them
        self.steady: SteadyCache | None = None

    def __call__(self, ids: Tensor, last: int = 1) -> Tensor:
        if not self.started:
            return super().__call__(ids, last)
        if self.room == 0:
            self.make_room(ids[:, -1:])
        self.room, self.to_come = self.room - 1, self.to_come - 1
        self.new.copy_(ids[:, -1:])
        self.steady.open()
        return self.tape().clone()  # the next step writes over it

    def make_room(self, new: Tensor) -> None:
        """For the ids (B, 1) that come now, and some more."""
        past = self.cache.length
        mask = self.extended(past)
        if mask is None:
            position = torch.full((1, 1), past, device=new.device)
        else:
            position = positions_from_mask(self.extended(past + 1))[:, -1:]
        self.room = min(self.to_come, max(AHEAD, past // 4))
        steady = self.steady = SteadyCache(self.cache, mask, self.first_position + position, self.room)
        self.output = None  # of no token that is read from here on
        self.new = new.clone()
        more: dict[str, Any] = {"logits_to_keep": 1} if self.keeps else {}
        if self.token_type_ids is not None:
            more["token_type_ids"] = self.token_type_ids[:, -1:]
        given = {"attention_mask": steady, "past_key_values": steady, "position_ids": steady.position_ids}
        self.tape = Tape(partial(read_one, partial(self.light, use_cache=True, **given, **more), self.new))


def read_one(model: Any, ids: Tensor) -> Tensor:
    """(B, 1) -> what follows, float32 (B, V)"""
    return model(input_ids=ids).logits[:, -1].float()
