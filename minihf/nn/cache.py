"""Keys and values of past tokens: an object passed into a model and out of it again, never hidden in a module.

A causal model that has read T tokens needs nothing of them but their keys and values, one pair a layer. Appending to a
tensor would copy all T at every new token; here a layer's buffer doubles when it is full, so that writing T tokens one
by one copies each of them about once in all. A layer whose tokens see a window of W tokens keeps the last W - 1, in a
buffer of at most twice the window, through which they move.
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
        croppable: keep what a window would drop, so that `crop` can go back to where it was needed.
    """

    def __init__(self):
        self.croppable = False
        self.layers: list[LayerCache] = []
        self.cross: dict[int, tuple[Tensor, Tensor]] = {}
        self.counted: Tensor | int = 0

    @property
    def length(self) -> int:
        """How many tokens it has been given, dropped ones included."""
        return self.layers[0].length if self.layers else 0

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """Where the next tokens stand, padding counted: (T,)."""
        return torch.arange(self.length, self.length + tokens, device=device)

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values (B, H, Q, D) of a layer; return those of all tokens (B, H, K, D).

        With a window, of the last window - 1 + Q: what the first of the new tokens sees, and all after it. Earlier ones
        are dropped.
        """
        while len(self.layers) <= layer:
            self.layers.append(LayerCache())
        return self.layers[layer].append(k, v, window, whole=self.croppable)

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`: guesses that were wrong. What models counted is theirs to correct.

        ValueError: a window has dropped tokens that would be needed again.
        """
        for layer in self.layers:
            layer.crop(length)

    def reorder(self, rows: Tensor) -> None:
        """Let row i hold what row `rows[i]` held: (B',) indices, for beams that are kept, copied or dropped."""
        for layer in self.layers:
            layer.reorder(rows)
        self.cross = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in self.cross.items()}
        if isinstance(self.counted, Tensor):
            self.counted = self.counted.index_select(0, rows)


class LayerCache:
    """The keys and values of one layer, in buffers (B, H, capacity, D).

    Of `length` tokens in all, those that are kept are the last of the first `used` places.
    """

    def __init__(self):
        self.length = self.used = 0
        self.window: int | None = None
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(
        self, k: Tensor, v: Tensor, window: int | None = None, *, whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        if self.keys is not None and k.size(0) != self.keys.size(0):
            raise ValueError(f"the cache holds {self.keys.size(0)} texts, and {k.size(0)} came: use one cache a batch")
        self.window = window
        new = k.size(2)
        past = self.length if window is None else min(self.length, window - 1)
        first, self.length = self.used - past, self.length + new
        # Autograd keeps what it needs for the way back by reference: writing in place would spoil it. What was made in
        # inference mode may be written to there only.
        frozen = torch.is_grad_enabled() or (self.keys is not None and is_frozen(self.keys))
        if self.keys is None or frozen or (window is not None and new >= window and not whole):
            if past:
                k = torch.cat([self.keys.narrow(2, first, past), k], dim=2)
                v = torch.cat([self.values.narrow(2, first, past), v], dim=2)
            kept = past + new if window is None or whole else min(past + new, window - 1)
            # A prompt's own keys are kept as they are; the next token finds them full.
            self.keys, self.values, self.used = last(k, kept), last(v, kept), kept
            return k, v
        if self.used + new > self.keys.size(2):
            kept = self.used if whole else past
            start = self.used - kept
            self.keys, self.values = grown(self.keys, start, kept, new), grown(self.values, start, kept, new)
            first, self.used = kept - past, kept
        self.keys.narrow(2, self.used, new).copy_(k)
        self.values.narrow(2, self.used, new).copy_(v)
        self.used += new
        return self.keys.narrow(2, first, past + new), self.values.narrow(2, first, past + new)

    def crop(self, length: int) -> None:
        drop = self.length - length
        needed = length if self.window is None else min(length, self.window - 1)
        if drop > 0:
            if self.used - drop < needed:
                raise ValueError(
                    f"the cache cannot go back from {self.length} tokens to {length}: a window of {self.window} has "
                    "dropped what would be needed again. Set cache.croppable = True before it is filled"
                )
            self.length, self.used = length, self.used - drop

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)


def is_frozen(x: Tensor) -> bool:
    return x.is_inference() and not torch.is_inference_mode_enabled()


def last(x: Tensor, tokens: int) -> Tensor:
    """The last tokens of (B, H, K, D), in memory of their own where that is not all, so that the rest can go."""
    return x if tokens == x.size(2) else x.narrow(2, x.size(2) - tokens, tokens).clone()


def grown(buffer: Tensor, first: int, past: int, new: int) -> Tensor:
    """A buffer of twice the size that is needed, with what is still needed of the old one at its beginning."""
    batch, heads, _, channels = buffer.shape
    larger = buffer.new_empty(batch, heads, 2 * (past + new), channels)
    larger.narrow(2, 0, past).copy_(buffer.narrow(2, first, past))
    return larger
