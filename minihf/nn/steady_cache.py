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
from minihf.nn.cache import Cache, LayerCache


class SteadyCache(Cache):
    """`open` it, then call the model with it as `attention_mask` and as `past_key_values`, for one token of each text.

    To read the token twice is to read it once; the next one comes after the next `open`.

    Args:
        prompt: what was read so far. It is copied.
        mask: 1 = real, 0 = padding, of what was read, (B, P); None: nothing is padded.
        position: of the next token, (B or 1, 1).
        room: how many tokens will be read.

    Attributes:
        position_ids: of the token that is read now, (B or 1, 1).
    """

    @torch.no_grad()
    def __init__(self, prompt: Cache, mask: Tensor | None, position: Tensor, room: int):
        super().__init__()
        first = prompt.layers[0]
        self.window = first.window
        kept = first.length if self.window is None else min(first.length, self.window - 1)
        self.count, self.dropped = kept, first.length - kept
        self.place = torch.full((1,), kept - 1, device=position.device)
        self.position_ids = position - 1
        self.buffers: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, (B, H, kept + room, D)
        for layer in prompt.layers:
            pair = []
            for x in (layer.keys, layer.values):
                buffer = x.new_empty(*x.shape[:2], kept + room, x.size(3))
                buffer[:, :, :kept] = x.narrow(2, layer.used - kept, kept)
                pair.append(buffer)
            self.buffers.append((pair[0], pair[1]))
        self.seen = [(k[:, :, :0], v[:, :, :0]) for k, v in self.buffers]
        self.views = [
            (view, whole.untyped_storage(), whole.stride(), whole.shape)
            for wholes, views in zip(self.buffers, self.seen, strict=True)
            for whole, view in zip(wholes, views, strict=True)
        ]
        self.hidden: tuple[Tensor, Tensor] | None = None  # added to the scores, (B, 1, 1, kept + room), and its view
        if mask is not None:
            hidden = first.keys.new_zeros(len(mask), 1, 1, kept + room)
            padded = mask[:, first.length - kept : first.length] == 0
            hidden[..., :kept].masked_fill_(padded[:, None, None, :], torch.finfo(hidden.dtype).min)
            self.hidden = hidden, hidden[..., :0]

    @property
    def length(self) -> int:
        """How many came before the token that is read now."""
        return self.dropped + self.count - 1

    @torch.no_grad()
    def open(self) -> None:
        """Make place for the next token, which sees itself and those before it."""
        self.count += 1
        self.place.add_(1)
        self.position_ids.add_(1)
        tokens = self.count if self.window is None else min(self.count, self.window)
        first = self.count - tokens
        for view, storage, stride, (batch, heads, _, channels) in self.views:
            view.set_(storage, first * stride[2], (batch, heads, tokens, channels), stride)
        if self.hidden is not None:
            whole, view = self.hidden
            view.set_(whole.untyped_storage(), first, (len(whole), 1, 1, tokens), whole.stride())

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the token's key and value (B, H, 1, D); return all that it sees, (B, H, K, D)."""
        keys, values = self.buffers[layer]
        keys.index_copy_(2, self.place, k)
        values.index_copy_(2, self.place, v)
        return self.seen[layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:
        """In the place of a mask: the only one to look at what `update` gives, of which nothing else may be made."""
        return attend(q, k, v, None if self.hidden is None else self.hidden[1], **how)

    def crop(self, length: int) -> None:
        raise ValueError("this cache does not go back: check guesses with the growing one")

    def reorder(self, rows: Tensor) -> None:
        raise ValueError("the rows of this cache keep their places: search beams with the growing one")

    def unrolled(self) -> Cache:
        """An ordinary cache of the same tokens, in the same memory."""
        cache = Cache()
        for keys, values in self.buffers:
            layer = LayerCache()
            layer.keys, layer.values, layer.window = keys, values, self.window
            layer.length, layer.used = self.dropped + self.count, self.count
            cache.layers.append(layer)
        return cache
