"""The cache of several beams a text: nothing is copied when a beam is dropped, kept or branches.

Beams of one text begin with the same prompt, and share more: each goes on from one beam of the step before. An ordinary
cache would hold the prompt once a beam, and copy all keys whenever the beams change places. Here a text has one row of
keys for all its beams, to which each step adds one a beam, and what changes is only who may see what:

    keys     the cat | sat  ran | down  off | …      the prompt, then a key for each of n beams, step by step
    beam 0    ·   ·  |  ·       |  ·        |        "the cat sat down"
    beam 1    ·   ·  |  ·       |        ·  |        "the cat sat off": both go on from beam 0

So the beams are the n queries of one text, which read its keys and the encoder's output once for all of them. It is the
tree attention of speculative decoding (arXiv 2305.09781), put to use for beam search.

`BeamCache` stands in two places: it is the cache, and it is the mask, which knows how to attend.
"""

import copy

import torch
from torch import Tensor

from minihf.nn.attention import attend
from minihf.nn.cache import Cache, LayerCache


class BeamCache(Cache):
    """`beams` continuations of each text of a cache, as rows B * beams, a text's beams side by side.

    Args:
        prompt: what the model has read so far, one row a text.
        beams: how many continuations of each.
        mask: 1 = real, 0 = padding, of the prompt, (B, P); None: nothing is padded.
    """

    def __init__(self, prompt: Cache, beams: int, mask: Tensor | None = None):
        super().__init__()
        self.beams, self.prompt = beams, prompt.length
        self.window = prompt.layers[0].window
        self.cross = prompt.cross
        self.counted = prompt.counted
        if isinstance(self.counted, Tensor):
            self.counted = self.counted.repeat_interleave(beams, dim=0)
        for layer in prompt.layers:
            layer = copy.copy(layer)
            layer.length = layer.used  # a window has dropped what came before, and what it drops now is masked
            layer.window = None
            self.layers.append(layer)
        keys = prompt.layers[0].keys  # (B, H, P, D)
        texts, self.kept = keys.size(0), prompt.layers[0].used
        # Added to the scores, once for each beam: 0, or the lowest number for what a beam is not to see.
        self.hidden = torch.finfo(keys.dtype).min
        seen = keys.new_zeros(texts, self.kept)
        if mask is not None:
            seen = seen.masked_fill(mask[:, mask.size(1) - self.kept :] == 0, self.hidden)
        self.seen = seen.repeat_interleave(beams, dim=0)  # (B * beams, K)
        own = keys.new_full((beams, beams), self.hidden).fill_diagonal_(0)
        self.own = own.repeat(texts, 1)  # (B * beams, beams): of the keys of one step, a beam's own
        # Where each key stands in its text; the beams of one step stand in one place.
        self.places = torch.arange(self.prompt - self.kept, self.prompt, device=keys.device)
        self.mask: Tensor | None = None  # of one step: what is seen of it, (B, 1, beams, K)
        self.bias = self.spread = None

    @property
    def length(self) -> int:
        return self.prompt + (self.layers[0].length - self.kept) // self.beams

    def reorder(self, rows: Tensor | None) -> None:
        """Before each step: beam i goes on from where beam `rows[i]` was, (B * beams,). None: each from its own."""
        if rows is not None:
            self.seen = self.seen.index_select(0, rows)
            if isinstance(self.counted, Tensor):
                self.counted = self.counted.index_select(0, rows)
        self.seen = torch.cat([self.seen, self.own], dim=1)
        self.places = torch.cat([self.places, self.places.new_full((self.beams,), self.length)])
        mask = self.seen
        if self.window is not None:
            mask = mask.masked_fill(self.places <= self.length - self.window, self.hidden)
        self.mask = mask.view(-1, 1, self.beams, mask.size(1))

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Append each beam's key and value (B * beams, H, 1, D); return those of all beams of a text (B, H, K, D)."""
        return self.layers[layer].append(side_by_side(k, self.beams), side_by_side(v, self.beams))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float, impl: str, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B * beams, H, 1, D) to a text's keys (B, H, K, D); weights (B * beams, H, 1, T), to a beam's own past.

        `reorder` has been called for this step.
        """
        if bias is not None:  # T5's, by place in the text: (1, H, 1, T) -> (1, H, 1, K). All layers have the same.
            if bias is not self.bias:
                self.bias, self.spread = bias, bias[..., self.places]
            bias = self.spread
        x, weights = attend(
            side_by_side(q, self.beams), k, v, self.mask, dropout=dropout, bias=bias, scale=scale, impl=impl
        )
        if weights is not None:
            weights = one_by_one(weights)  # (B, H, n, K) -> (B n, H, 1, K)
            weights = weights.gather(-1, self.own_past()[:, None, None].expand(*weights.shape[:3], -1))
        return one_by_one(x), weights

    def own_past(self) -> Tensor:
        """Which keys are a beam's own, in the order of its text: (B * beams, T). Padding counts."""
        seen = self.seen == 0
        seen[:, : self.kept] = True
        return seen.nonzero()[:, 1].view(len(seen), -1)

    def unrolled(self) -> Cache:
        """The ordinary cache of the same beams, with each beam's keys and values in a row of its own."""
        cache = Cache()
        for layer in self.layers:
            keys, values = layer.keys[:, :, : layer.used], layer.values[:, :, : layer.used]
            rows = self.own_past()[:, None, :, None]
            single = LayerCache()
            for name, x in (("keys", keys), ("values", values)):
                x = x.repeat_interleave(self.beams, dim=0)
                setattr(single, name, x.gather(2, rows.expand(-1, x.size(1), -1, x.size(3))))
            single.length, single.used, single.window = self.length, rows.size(2), self.window
            cache.layers.append(single)
        cache.cross = {
            i: (k.repeat_interleave(self.beams, dim=0), v.repeat_interleave(self.beams, dim=0))
            for i, (k, v) in self.cross.items()
        }
        cache.counted = self.counted
        return cache


class SharedContext:
    """A mask for what all beams of a text read alike, the encoder's output.

    Args:
        mask: as `encoder_mask` makes it, (B, 1, 1, S), or None.
        beams: how many rows in a row are beams of one text.
    """

    def __init__(self, mask: Tensor | None, beams: int):
        self.mask, self.beams = mask, beams

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float, impl: str, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B * beams, H, 1, D) to (B, H, S, D)"""
        q = side_by_side(q, self.beams)
        x, weights = attend(q, k, v, self.mask, dropout=dropout, bias=bias, scale=scale, impl=impl)
        return one_by_one(x), weights if weights is None else one_by_one(weights)


def side_by_side(x: Tensor, beams: int) -> Tensor:
    """Each beam's one query or key becomes one of its text's: (B n, H, 1, D) -> (B, H, n, D)"""
    return x.view(-1, beams, x.size(1), x.size(3)).transpose(1, 2)


def one_by_one(x: Tensor) -> Tensor:
    """And back: (B, H, n, D) -> (B n, H, 1, D)"""
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)
