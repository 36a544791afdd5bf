"""A reader that records how it reads a token, and then plays that back: what small models gain by is Python's time."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from minihf.fast.tapes import Tape
from minihf.generation.reader import Reader
from minihf.nn.beams import BeamCache
from minihf.nn.steady_cache import SteadyBeams, SteadyCache

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
        if not self.started or not self.cache.layers:
            return super().__call__(ids, last)
        if self.room == 0:
            self.make_room(ids[:, -1:])
        self.room, self.to_come = self.room - 1, self.to_come - 1
        self.new.copy_(ids[:, -1:])
        self.steady.open(self.parents)
        self.parents = None
        return self.tape().clone()  # the next step writes over it

    def make_room(self, new: Tensor) -> None:
        """For the ids (B, 1) that come now, and some more."""
        past = self.cache.length
        self.room = min(self.to_come, max(AHEAD, past // 4))
        self.output = None  # of no token that is read from here on
        self.new = new.clone()
        self.steady = self.steady_cache(past)
        name = "input_ids" if self.context is None else "decoder_input_ids"
        given = {name: self.new, "past_key_values": self.steady, "use_cache": True, **self.of_each_step()}
        self.tape = Tape(partial(read_one, partial(self.light, **given)))

    def steady_cache(self, past: int) -> SteadyCache:
        """After `past` tokens, with room for the next ones."""
        position = self.next_position()
        if not isinstance(self.cache, BeamCache):
            return SteadyCache(self.cache, self.extended(past), position, self.room)
        keys = getattr(self.model.config, "num_key_value_heads", None)  # fewer than queries, in Llama and its kin
        shared = 1 if keys is None else self.model.config.num_attention_heads // keys
        return SteadyBeams(self.cache, position, self.room, shared)

    def of_each_step(self) -> dict[str, Any]:
        """What the model is told at each step, beside ids and cache."""
        if self.context is not None:
            return {**self.context, "decoder_attention_mask": self.steady}
        given = {"attention_mask": self.steady, **self.of_each_token()}
        return {**given, "position_ids": self.steady.position_ids} if self.counts else given


def read_one(model: Callable[[], Any]) -> Tensor:
    """What follows the token that it is given, float32 (B, V)."""
    return model().logits[:, -1].float()
