"""The cache of texts that are written by a tape (`minihf.fast.tapes`): what a step reads and writes stays the same.

Called again, an operator gets the tensors that it got when it was noted, the very objects. Memory stays where it is if
there is enough of it from the beginning. That attention sees one token more each time is in no number and no new
tensor: what it looks at is a view of the memory, and before each step the view itself is made longer.

    keys    the  cat  sat  on    .    .    .     room for tokens to come
    seen   └──────────────────┘                  those before the step, and the one that it reads
    place                  3                     where this one's key goes
"""

from typing import Any

import torch
from torch import Tensor

from minihf.nn.attention import attend
from minihf.nn.cache import Cache


class SteadyCache(Cache):
    """`open` it, then call the model with it as `attention_mask` and as `past_key_values`, for one token of each text.

    To read the token twice is to read it once; the next one comes after the next `open`.

    Args:
        prompt: what was read so far. It stays in use: its layers move to memory with room, and whatever is read here,
            it holds, too.
        mask: 1 = real, 0 = padding, of what was read, (B, P); None: nothing is padded.
        position: of the next token, (B or 1, 1).
        room: how many tokens will be read.

    Attributes:
        position_ids: of the token that is read now, (B or 1, 1).
    """

    @torch.no_grad()
    def __init__(self, prompt: Cache, mask: Tensor | None, position: Tensor, room: int):
        super().__init__()
        self.layers = prompt.layers
        first = self.layers[0]
        self.window, read = first.window, first.length
        kept = first.used if self.window is None or prompt.croppable else min(first.used, self.window - 1)
        self.place = torch.full((1,), kept - 1, device=position.device)
        self.position_ids = position - 1
        self.seen: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, (B, H, K, D)
        self.views: list[tuple] = []  # each of these, and the memory in which it lies
        for layer in self.layers:
            layer.keys, layer.values = (with_room(x, layer.used, kept, room) for x in (layer.keys, layer.values))
            layer.used = kept
            self.seen.append((layer.keys[:, :, :0], layer.values[:, :, :0]))
            for view, whole in zip(self.seen[-1], (layer.keys, layer.values), strict=True):
                self.views.append((view, whole.untyped_storage(), whole.stride(), whole.shape))
        self.hidden: tuple[Tensor, Tensor] | None = None  # added to the scores, (B, 1, 1, kept + room), and its view
        if mask is not None:
            hidden = first.keys.new_zeros(len(mask), 1, 1, kept + room)
            padded = mask[:, read - kept : read] == 0
            hidden[..., :kept].masked_fill_(padded[:, None, None, :], torch.finfo(hidden.dtype).min)
            self.hidden = hidden, hidden[..., :0]

    @property
    def length(self) -> int:
        """How many came before the token that is read now."""
        return self.layers[0].length - 1

    @torch.no_grad()
    def open(self) -> None:
        """Make place for the next token, which sees itself and those before it."""
        for layer in self.layers:
            layer.length, layer.used = layer.length + 1, layer.used + 1
        count = self.layers[0].used
        self.place.add_(1)
        self.position_ids.add_(1)
        tokens = count if self.window is None else min(count, self.window)
        first = count - tokens
        for view, storage, stride, (batch, heads, _, channels) in self.views:
            view.set_(storage, first * stride[2], (batch, heads, tokens, channels), stride)
        if self.hidden is not None:
            whole, view = self.hidden
            view.set_(whole.untyped_storage(), first, (len(whole), 1, 1, tokens), whole.stride())

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the token's key and value (B, H, 1, D); return all that it sees, (B, H, K, D)."""
        self.layers[layer].keys.index_copy_(2, self.place, k)
        self.layers[layer].values.index_copy_(2, self.place, v)
        return self.seen[layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:
        """In the place of a mask: the only one to look at what `update` gives, of which nothing else may be made."""
        return attend(q, k, v, None if self.hidden is None else self.hidden[1], **how)

    def crop(self, length: int) -> None:
        raise ValueError("this cache does not go back: check guesses with the growing one")

    def reorder(self, rows: Tensor) -> None:
        raise ValueError("the rows of this cache keep their places: search beams with the growing one")


def with_room(buffer: Tensor, used: int, kept: int, room: int) -> Tensor:
    """The last `kept` of the first `used` tokens, and places for more: (B, H, capacity, D) -> (B, H, kept + room, D)"""
    larger = buffer.new_empty(*buffer.shape[:2], kept + room, buffer.size(3))
    larger[:, :, :kept] = buffer.narrow(2, used - kept, kept)
    return larger
