"""Keys and values of past tokens: an object passed into a model and out of it again, never hidden in a module.

A causal model that has read T tokens needs nothing of them but their keys and values, one pair a layer. Appending to a
tensor would copy all T at every new token; here a layer's buffer doubles when it is full, so that writing T tokens one
by one copies each of them about once in all.
"""

import torch
from torch import Tensor


class Cache:
    """What a model keeps of the tokens that it has read.

    Attributes:
        layers: one `LayerCache` a layer.
        cross: layer -> (keys, values) of the encoder's output, (B, H, K, D): computed once, then only read.
        counted: how many past tokens of each text have a position of their own, (B, 1), or 0 for none; kept by models
            that give pad tokens none (RoBERTa).
    """

    def __init__(self):
        self.layers: list[LayerCache] = []
        self.cross: dict[int, tuple[Tensor, Tensor]] = {}
        self.counted: Tensor | int = 0

    @property
    def length(self) -> int:
        """How many past tokens it holds."""
        return self.layers[0].length if self.layers else 0

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values (B, H, Q, D) of a layer; return those of all tokens (B, H, K, D)."""
        while len(self.layers) <= layer:
            self.layers.append(LayerCache())
        return self.layers[layer].append(k, v)

    def reorder(self, rows: Tensor) -> None:
        """Let row i hold what row `rows[i]` held: (B',) indices, for beams that are kept, copied or dropped."""
        for layer in self.layers:
            layer.reorder(rows)
        self.cross = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in self.cross.items()}
        if isinstance(self.counted, Tensor):
            self.counted = self.counted.index_select(0, rows)


class LayerCache:
    """The keys and values of one layer, in buffers (B, H, capacity, D); the first `length` tokens are in use."""

    def __init__(self):
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        new = k.size(2)
        if self.keys is None:
            self.keys, self.values, self.length = k, v, new  # the prompt's own; the next token finds them full
            return k, v
        if k.size(0) != self.keys.size(0):
            raise ValueError(f"the cache holds {self.keys.size(0)} texts, and {k.size(0)} came: use one cache a batch")
        start, self.length = self.length, self.length + new
        if torch.is_grad_enabled():
            # Autograd keeps what it needs for the way back by reference: writing in place would spoil it.
            self.keys = torch.cat([self.keys.narrow(2, 0, start), k], dim=2)
            self.values = torch.cat([self.values.narrow(2, 0, start), v], dim=2)
            return self.keys, self.values
        if self.length > self.keys.size(2):
            self.keys, self.values = grown(self.keys, start, self.length), grown(self.values, start, self.length)
        self.keys.narrow(2, start, new).copy_(k)
        self.values.narrow(2, start, new).copy_(v)
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)


def grown(buffer: Tensor, used: int, needed: int) -> Tensor:
    """A buffer of twice the size that is needed, with what was in use of the old one."""
    batch, heads, _, channels = buffer.shape
    larger = buffer.new_empty(batch, heads, 2 * needed, channels)
    larger.narrow(2, 0, used).copy_(buffer.narrow(2, 0, used))
    return larger
