"""The cache of texts that are written one token at a time, in memory that stays where it is.

A CUDA graph is a recording: replayed, each kernel reads and writes the same addresses, with the same numbers. So what
changes from one token to the next may be neither a new tensor nor a number in Python. Here buffers have their full
length from the beginning, and where the next token goes is itself a tensor:

    keys   the  cat  sat   .    .    .        K places, all of which are handed out
    mask    0    0    0    0  -inf -inf       added to the scores: the token that is read now sees itself
    count                  3                  tokens so far; the next one's place is count % K

Where tokens see a window of W, there are at most W places, and a token takes that of the one which has left the window:
attention asks what a key is, never where it lies.
"""

from typing import Any

import torch
from torch import Tensor

from minihf.nn.cache import Cache, LayerCache

ALIGNED = 16  # CUDA's kernels copy a mask whose rows are no multiple of this, once a layer


class StaticCache(Cache):
    """Made for one token of each text at a time. `fill` it with what was read before; then, for each token, `open` it,
    call the model with `mask` as its ready `attention_mask` and with `position_ids`, and add 1 to `count`. To open it
    and to read are one and the same, however often, until `count` changes: a graph may be warmed up.

    Args:
        tokens: how many places, at the most. None: as many as the first texts need.

    Attributes:
        count: tokens in it, (1,); those that a window has dropped before `fill` are not counted.
        mask: (B, 1, 1, K), float.
        position_ids: of the token that is read now, (B, 1).
        step: whatever was made over these buffers and falls with them (see `minihf.fast.graphs`).
    """

    def __init__(self, tokens: int | None = None):
        super().__init__()
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"a static cache of tokens={tokens!r}: expected how many it is to hold, 1 or more")
        self.tokens = tokens
        self.buffers: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, (B, H, K, D)
        self.window: int | None = None
        self.dropped = 0
        self.step: Any = None

    @property
    def length(self) -> int:
        """All places but one, whatever is in them: with the token that is read now, a model reckons with K keys."""
        return self.buffers[0][0].size(2) - 1 if self.buffers else 0

    @torch.no_grad()
    def fill(self, prompt: Cache, mask: Tensor | None, position: Tensor, room: int, limit: int | None = None) -> None:
        """Take over what was read so far; buffers that suit it are used again.

        Args:
            mask: 1 = real, 0 = padding, of what was read, (B, P); None: nothing is padded.
            position: of the next token, (B or 1, 1).
            room: how many tokens will be read.
            limit: how many positions the model has.

        Raises:
            ValueError: there are fewer than that many places; or the model counts pad tokens by itself (RoBERTa).
        """
        if isinstance(prompt.counted, Tensor):
            raise ValueError("a static cache cannot count tokens by their ids, as this model does: use the growing one")
        first = prompt.layers[0]
        batch, window, device = first.keys.size(0), first.window, first.keys.device
        kept = first.length if window is None else min(first.length, window - 1)
        needed = kept + room if window is None else min(kept + room, window)
        places = self.tokens or needed + -needed % ALIGNED
        places = places if limit is None else min(places, limit)
        if places < needed:
            raise ValueError(
                f"a static cache of {places} tokens is too small for {kept} that were read and {room} to come: make "
                f"one of {needed} or more"
            )
        places = places if window is None else min(places, window)
        shapes = [(batch, layer.keys.size(1), places, layer.keys.size(3)) for layer in prompt.layers]
        held = [(k.shape, k.dtype, k.device) for k, _ in self.buffers]
        if held != [(shape, first.keys.dtype, device) for shape in shapes]:
            # Zeros: whatever is hidden counts 0 times, and 0 times NaN is NaN.
            self.buffers = [tuple(first.keys.new_zeros(shape) for _ in "kv") for shape in shapes]
            self.mask = first.keys.new_empty(batch, 1, 1, places)
            self.count, self.place = (torch.empty(1, dtype=torch.long, device=device) for _ in range(2))
            self.offset, self.position_ids = (position.new_empty(batch, 1) for _ in range(2))
            self.step = None
        self.window, self.dropped = window, first.length - kept
        for layer, (keys, values) in zip(prompt.layers, self.buffers, strict=True):
            keys[:, :, :kept] = layer.keys.narrow(2, layer.used - kept, kept)
            values[:, :, :kept] = layer.values.narrow(2, layer.used - kept, kept)
        hidden = torch.finfo(self.mask.dtype).min
        self.mask.fill_(hidden)
        self.mask[..., :kept] = 0
        if mask is not None:
            padded = mask[:, first.length - kept : first.length] == 0
            self.mask[..., :kept].masked_fill_(padded[:, None, None, :], hidden)
        self.count.fill_(kept)
        self.offset.copy_(position - kept)

    def open(self) -> None:
        """Show the next token where it stands, and where its key goes, which it is to see."""
        self.place.copy_(self.count % self.mask.size(3))
        self.position_ids.copy_(self.offset + self.count)
        self.mask.index_fill_(3, self.place, 0)

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the token's key and value (B, H, 1, D); return all places (B, H, K, D): the mask hides what is not."""
        if not self.buffers or k.size(2) != 1:
            raise ValueError(f"a static cache is filled first, then read with one token at a time, not {k.size(2)}")
        keys, values = self.buffers[layer]
        return keys.index_copy_(2, self.place, k), values.index_copy_(2, self.place, v)

    def crop(self, length: int) -> None:
        raise ValueError("a static cache does not go back: check guesses with the growing one")

    @torch.no_grad()
    def reorder(self, rows: Tensor) -> None:
        """Let row i hold what row `rows[i]` held: (B,), as many as there are."""
        for x in (*(x for pair in self.buffers for x in pair), self.mask, self.offset):
            x.copy_(x.index_select(0, rows))

    @torch.no_grad()
    def unrolled(self) -> Cache:
        """An ordinary cache of the same tokens."""
        cache, count, places = Cache(), int(self.count), self.mask.size(3)
        order = torch.arange(max(count - places, 0), count, device=self.mask.device) % places
        for keys, values in self.buffers:
            layer = LayerCache()
            layer.keys, layer.values = keys.index_select(2, order), values.index_select(2, order)
            layer.length, layer.used, layer.window = self.dropped + count, len(order), self.window
            cache.layers.append(layer)
        return cache
