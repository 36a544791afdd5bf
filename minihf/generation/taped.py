"""A reader that records how it reads a token, and then plays that back: what small models gain by is Python's time."""

from functools import partial
from typing import Any

from torch import Tensor

from minihf.fast.tapes import Tape
from minihf.generation.reader import Reader
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
        self.room = min(self.to_come, max(AHEAD, past // 4))
        position, mask = self.next_position(), self.extended(past)
        steady = self.steady = SteadyCache(self.cache, mask, position, self.room)
        self.output = None  # of no token that is read from here on
        self.new = new.clone()
        given = {"attention_mask": steady, "past_key_values": steady, "position_ids": steady.position_ids}
        model = partial(self.light, use_cache=True, **given, **self.of_each_token())
        self.tape = Tape(partial(read_one, model, self.new))


def read_one(model: Any, ids: Tensor) -> Tensor:
    """(B, 1) -> what follows, float32 (B, V)"""
    return model(input_ids=ids).logits[:, -1].float()
