"""An encoder on real tokens alone: `attn_implementation="packed"`.

Texts of a batch differ in length, and a padded batch spends on padding what it spends on words. Packed, the texts stand
one behind the other in a single row without padding:

    (B, T, C)    the cat sat down             (1, tokens, C)
                 a   dog  ·   ·        ->     the cat sat down a dog rain
                 rain ·   ·   ·               └──── text 0 ───┘└ 1 ─┘└ 2 ┘

Embeddings, linear layers, norms and activations look at one token at a time: they cannot tell. Attention can, so there,
and only there, the texts are taken apart again. `Packing` stands in the place of the mask and knows where each text is.

The padded path is the oracle: real tokens get the same numbers. Padded places, which nobody should look at, come back
as zeros. Where nothing is padded, or the caller brings a ready 4-D mask, the model runs as with "sdpa".

The idea is that of "Effective Transformer" (ByteDance, 2020) and of the unpadding in FlashAttention's BERT.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.nn.attention import eager_attention
from minihf.nn.bare import bare

WIDTH = 16  # of a vector register, in float32
LARGE = 256  # tokens, with padding: where the bare model repays its making, half a millisecond for 6 layers


class Packing:
    """Where the real tokens of a padded batch are.

    Args:
        real: bool (B, T), True = a real token.
    """

    def __init__(self, real: Tensor):
        self.real = real
        self.places = real.flatten().nonzero().squeeze(1)  # (tokens,), of each token in B * T
        self.lengths = real.sum(1).tolist()
        self.windows = list(windows(self.lengths))

    def pack(self, x: Tensor) -> Tensor:
        """(B or 1, T, ...) -> (1, tokens, ...)"""
        x = x.expand(*self.real.shape, *x.shape[2:])
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, tokens, ...) -> (B, T, ...), zeros where there is no token."""
        padded = x.new_zeros(self.real.numel(), *x.shape[2:])
        return padded.index_copy(0, self.places, x[0]).unflatten(0, self.real.shape)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float, impl: str
    ) -> tuple[Tensor, Tensor | None]:
        """Each text to itself: (1, H, tokens, D) -> (1, H, tokens, D), and the weights (B, H, T, T) if "eager"."""
        if impl == "eager":
            return self.attend_padded(q, k, v, dropout=dropout, scale=scale)
        if q.is_cuda:
            return self.attend_nested(q, k, v, dropout=dropout, scale=scale), None
        contexts = [v[:, :, :0].transpose(1, 2)]  # of no text at all
        for start, length, first, width, hidden in self.windows:
            text = q.narrow(2, start, length), k.narrow(2, first, width), v.narrow(2, first, width)
            mask = hidden if hidden is None else hidden.to(q.dtype)
            context = F.scaled_dot_product_attention(*text, mask, dropout_p=dropout, scale=scale)
            contexts.append(context.transpose(1, 2))
        # Heads and channels of a token lie side by side, as `merge_heads` wants them: one copy, not two.
        return torch.cat(contexts, dim=1).transpose(1, 2), None

    def attend_nested(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float) -> Tensor:
        """All texts in one kernel: SDPA's path for texts of many lengths, "nested" tensors of jagged layout."""
        # Text i stands at offsets[i] to offsets[i + 1].
        offsets = torch.tensor([0, *self.lengths], device=q.device).cumsum(0)
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(x[0].transpose(0, 1).contiguous(), offsets)
            for x in (q, k, v)
        )  # (B, any, H, D)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
        return context.transpose(1, 2).values().transpose(0, 1)[None]  # (tokens, H, D) -> (1, H, tokens, D)

    def attend_padded(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float
    ) -> tuple[Tensor, Tensor]:
        """For those who want to see the weights."""
        q, k, v = (self.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        queries, keys = self.real[:, None, :, None], self.real[:, None, None, :]
        context, weights = eager_attention(q, k, v, keys, dropout=dropout, bias=None, scale=scale)
        return self.pack(context.transpose(1, 2)).transpose(1, 2), weights * queries


def windows(lengths: list[int]) -> Iterator[tuple[int, int, int, int, Tensor | None]]:
    """Of each text, where its queries start, how many they are; the same of the keys, and a mask of them; None: all.

    The CPU's kernel works on 16 keys at a time and is slow with the rest: 47 keys take twice as long as 48. So a text
    looks at a few of its neighbours' keys as well, up to a multiple of 16, and a mask hides them.
    """
    total, start = sum(lengths), 0
    for length in filter(None, lengths):
        width = min(-(-length // WIDTH) * WIDTH, total)
        first = min(start, total - width)  # the last texts have their neighbours on the left
        mask = None
        if width > length:
            mask = torch.full((1, 1, 1, width), torch.finfo(torch.float32).min)  # added to the scores
            mask[..., start - first : start - first + length] = 0
        yield start, length, first, width, mask
        start += length


def pack(mask: Tensor | None, *inputs: Tensor) -> tuple:
    """At an encoder's entrance: the mask and what is given for each token, (B or 1, T, ...), packed.

    They come back as they are where nothing is padded, or where the mask is more than padding.
    """
    if mask is None or mask.dtype != torch.bool or mask.shape[1:3] != (1, 1):
        return mask, *inputs
    packing = Packing(mask[:, 0, 0].expand(len(inputs[0]), -1))
    return packing, *(packing.pack(x) for x in inputs)


def unpack(x: Tensor, mask: "Tensor | Packing | None") -> Tensor:
    """At its exit, where `mask` is what `pack` gave: (1, tokens, C) -> (B, T, C)."""
    return mask.unpack(x) if isinstance(mask, Packing) else x


@contextmanager
def packed_call(model: nn.Module, args: tuple, kwargs: dict) -> Iterator[Callable]:
    """What to call with these arguments, inside, in place of the model.

    In inference a large batch goes through the `bare` model. One sentence is done before that is made.
    """
    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    with packed_heads(model, arguments.get("attention_mask")):
        ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
        tokens = ids if embeds is None else embeds[..., 0]
        large = isinstance(tokens, Tensor) and tokens.numel() >= LARGE
        learning = model.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        yield bare(model) if large and not learning else model


@contextmanager
def packed_heads(model: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """While a model is called with that mask, the `token_heads` of its head see real tokens only, too."""
    if not model.token_heads or not isinstance(mask, Tensor) or mask.dim() != 2 or mask.all():
        yield
        return
    packing = Packing(mask.bool())
    caller = threading.get_ident()  # another thread's calls of the same model have a batch of their own

    def enter(module, args):
        return packing.pack(args[0]) if threading.get_ident() == caller else None

    def leave(module, args, output):
        return packing.unpack(output) if threading.get_ident() == caller else None

    heads = [model.get_submodule(path) for path in model.token_heads]
    handles = [head.register_forward_pre_hook(enter) for head in heads]
    handles += [head.register_forward_hook(leave) for head in heads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
