"""The cache of texts that are written by a tape (`minihf.fast.tapes`): what a step reads and writes stays the same.

Called again, an operator gets the tensors that it got when it was noted, the very objects. Memory stays where it is if
there is enough of it from the beginning. That attention sees one token more each time is in no number and no new
tensor: what it looks at is a view of the memory, and before each step the view itself is made longer.

    keys    the  cat  sat  on    .    .    .     room for tokens to come
    seen   └──────────────────┘                  those before the step, and the one that it reads
    place                  3                     where this one's key goes

Beams that share the keys of a text (`minihf.nn.beams`) add several at each step. Who sees which is a mask, in memory
that stays, too, and is written anew before the step.
"""

from typing import Any

import torch
from torch import Tensor

from minihf.nn.attention import attend
from minihf.nn.beams import BeamCache, one_by_one, side_by_side
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
        at_once: how many keys a step adds to a text.

    Attributes:
        position_ids: of the token that is read now, (B or 1, 1).
    """

    @torch.no_grad()
    def __init__(self, prompt: Cache, mask: Tensor | None, position: Tensor, room: int, at_once: int = 1):
        super().__init__()
        self.at_once = at_once
        self.layers, self.cross = prompt.layers, prompt.cross
        first = self.layers[0]
        self.window, read = first.window, first.length
        kept = first.used if self.window is None or prompt.croppable else min(first.used, self.window - 1)
        self.capacity = kept + room * at_once
        self.place = torch.arange(kept - at_once, kept, device=position.device)
        self.position_ids = position - 1
        self.seen: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, (B, H, K, D)
        self.views: list[tuple] = []  # each of these, the memory in which it lies, and where that begins
        self.pairs: list[Tensor] = []  # keys and values of each layer in one, (2, B, H, capacity, D)
        for layer in self.layers:
            self.pairs.append(with_room((layer.keys, layer.values), layer.used, kept, self.capacity))
            layer.keys, layer.values = self.pairs[-1]
            layer.used = kept
            self.seen.append((layer.keys[:, :, :0], layer.values[:, :, :0]))
            for view, whole in zip(self.seen[-1], self.pairs[-1], strict=True):
                self.views.append((view, whole.untyped_storage(), whole.storage_offset()))
        # Added to the scores, (B, 1, queries of a text, capacity), and its view.
        self.hidden: tuple[Tensor, Tensor] | None = None
        if mask is not None:
            hidden = first.keys.new_zeros(len(mask), 1, 1, self.capacity)
            padded = mask[:, read - kept : read] == 0
            hidden[..., :kept].masked_fill_(padded[:, None, None, :], torch.finfo(hidden.dtype).min)
            self.hidden = hidden, hidden[..., :0]

    @property
    def length(self) -> int:
        """How many came before the token that is read now."""
        return self.layers[0].length - 1

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """Of the one token, (1,): a view, which follows `open`."""
        return self.position_ids[0]

    @torch.no_grad()
    def open(self, rows: Tensor | None = None) -> None:
        """Make place for the next token, which sees itself and those before it. `rows` is None here, and for beams."""
        for layer in self.layers:
            layer.length, layer.used = layer.length + self.at_once, layer.used + self.at_once
        count = self.layers[0].used
        self.place.add_(self.at_once)
        self.position_ids.add_(1)
        tokens = count if self.window is None else min(count, self.window)
        first = count - tokens
        whole = self.layers[0].keys  # of one shape in all layers
        batch, heads, _, channels = whole.shape
        shape, stride = (batch, heads, tokens, channels), whole.stride()
        for view, storage, begin in self.views:
            view.set_(storage, begin + first * stride[2], shape, stride)
        if self.hidden is not None:
            whole, view = self.hidden
            view.set_(whole.untyped_storage(), first, (*whole.shape[:3], tokens), whole.stride())

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the token's key and value (B, H, 1, D); return all that it sees, (B, H, K, D)."""
        both = in_one(k, v)
        if both is not None:
            self.pairs[layer].index_copy_(3, self.place, both)
        else:
            self.layers[layer].keys.index_copy_(2, self.place, k)
            self.layers[layer].values.index_copy_(2, self.place, v)
        return self.seen[layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:
        """In the place of a mask: the only one to look at what `update` gives, of which nothing else may be made."""
        return attend(q, k, v, None if self.hidden is None else self.hidden[1], **how)

    def crop(self, length: int) -> None:
        raise ValueError("this cache does not go back: check guesses with the growing one, `Cache`")

    def reorder(self, rows: Tensor) -> None:
        raise ValueError("the rows of this cache keep their places: search with `SteadyBeams`, and tell `open` of them")


class SteadyBeams(SteadyCache):
    """The same for the beams of each text, whose step adds a key a beam to the one row that they share.

    Args:
        beams: what was read so far. It stays in use, as `prompt` above.
        position: of the next token, (B * beams or 1, 1).
        room: how many tokens a beam will read.
        shared: how many queries have one key (grouped-query attention).
    """

    @torch.no_grad()
    def __init__(self, beams: BeamCache, position: Tensor, room: int, shared: int = 1):
        self.beams = beams
        super().__init__(beams, None, position, room, at_once=beams.beams)
        texts = self.layers[0].keys.size(0)
        self.masks = beams.seen.new_empty(texts, shared, self.at_once, self.capacity)  # the same for all that share
        whole = self.masks.flatten(1, 2)[:, None]
        self.hidden = whole, whole[..., :0]

    @property
    def length(self) -> int:
        return self.beams.length - 1

    @torch.no_grad()
    def open(self, rows: Tensor | None = None) -> None:
        """Beam i goes on from where beam `rows[i]` was, (B * beams,). None: each from its own."""
        self.beams.reorder(rows)
        mask = self.beams.mask  # (B, 1, beams, K)
        self.masks[..., : mask.size(3)] = mask
        super().open()

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """(B * beams, H, 1, D) -> (B, H, K, D)"""
        return super().update(layer, side_by_side(k, self.at_once), side_by_side(v, self.at_once))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:
        """(B * beams, H, 1, D) to a text's keys (B, H, K, D)"""
        q = side_by_side(q, self.at_once)
        # Heads that share a key are rows of one, as in `attend`, which would make a mask for them in each layer.
        rows = q.reshape(q.size(0), k.size(1), -1, q.size(3))
        x, _ = attend(rows, k, v, self.hidden[1], **how)
        return one_by_one(x.reshape(q.shape)), None


def with_room(buffers: tuple[Tensor, Tensor], used: int, kept: int, capacity: int) -> Tensor:
    """The last `kept` of the first `used` tokens, and places for more: (B, H, ..., D) -> (2, B, H, capacity, D)"""
    batch, heads, _, channels = buffers[0].shape
    larger = buffers[0].new_empty(2, batch, heads, capacity, channels)
    for whole, buffer in zip(larger, buffers, strict=True):
        whole[:, :, :kept] = buffer.narrow(2, used - kept, kept)
    return larger


def in_one(k: Tensor, v: Tensor) -> Tensor | None:
    """Both as one tensor of theirs, (2, B, H, T, D), if they are parts of one product, as GPT-2's are: to write it is
    one call for two. None if they are not."""
    apart = v.storage_offset() - k.storage_offset()
    together = k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr() and apart > 0
    if not together or k.shape != v.shape or k.stride() != v.stride():
        return None
    return k.as_strided((2, *k.shape), (apart, *k.stride()))
