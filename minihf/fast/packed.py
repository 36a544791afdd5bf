"""An encoder on real tokens alone: `attn_implementation="packed"`.

Texts of a batch differ in length, and a padded batch spends on padding what it spends on words. Packed, the texts stand
one behind the other in a single row without padding:

    (B, T, C)    the cat sat down             (1, tokens, C)
                 a   dog  ·   ·        ->     the cat sat down a dog rain
                 rain ·   ·   ·               └──── text 0 ───┘└ 1 ─┘└ 2 ┘

Embeddings, linear layers, norms and activations look at one token at a time: they cannot tell. Attention can, so there,
and only there, the texts are taken apart again. `Packing` stands in the place of the mask and knows where each text is.

The padded path is the oracle: real tokens get the same numbers, in inference and in training. Padded places come back
as zeros (but for logits over the vocabulary in training with labels, which are computed when they are read). So whoever
reads a padded place reads a zero. Question answering does: its loss is a softmax over all places,
those of padding included, and so it differs. A head that reads the first token refuses texts padded on the left; a
model without a head leaves it to whoever reads its `pooler_output`, which is of no use then.

Where nothing is padded, or the caller brings a 4-D mask that is more than padding, the model runs as with "sdpa".

The idea is that of "Effective Transformer" (ByteDance, 2020) and of the unpadding in FlashAttention's BERT.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

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

    def pack(self, x: Tensor) -> Tensor:
        """(B or 1, T, ...) -> (1, tokens, ...)"""
        x = x.expand(*self.real.shape, *x.shape[2:])
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, tokens, ...) -> (B, T, ...), zeros where there is no token."""
        padded = x.new_zeros(self.real.numel(), *x.shape[2:])
        return padded.index_copy(0, self.places, x[0]).unflatten(0, self.real.shape)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float, impl: str, bias: None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Each text to itself: (1, H, tokens, D) -> (1, H, tokens, D), and the weights (B, H, T, T) if "eager"."""
        if impl != "eager" and q.device.type == "cpu":
            return self.attend_one_by_one(q, k, v, dropout=dropout, scale=scale), None
        if impl != "eager" and q.device.type == "cuda":
            return self.attend_nested(q, k, v, dropout=dropout, scale=scale), None
        return self.attend_padded(q, k, v, dropout=dropout, scale=scale)

    def attend_one_by_one(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float) -> Tensor:
        contexts = [v[:, :, :0].transpose(1, 2)]  # of no text at all
        for start, length, first, width, mask in self.windows:
            text = q.narrow(2, start, length), k.narrow(2, first, width), v.narrow(2, first, width)
            mask = mask if mask is None else mask.to(q.dtype)
            context = F.scaled_dot_product_attention(*text, mask, dropout_p=dropout, scale=scale)
            contexts.append(context.transpose(1, 2))
        # Heads and channels of a token lie side by side, as `merge_heads` wants them: one copy, not two.
        return torch.cat(contexts, dim=1).transpose(1, 2)

    @cached_property
    def windows(self) -> list[tuple[int, int, int, int, Tensor | None]]:
        """Of each text, where its queries start and how many they are; the same of its keys; a mask of these, or None.

        The CPU's kernel works on 16 keys at a time and is slow with the rest: 47 keys take twice as long as 48. So a
        text looks at a few of its neighbours' keys as well, up to a multiple of 16, and a mask hides them.
        """
        total, start, windows = sum(self.lengths), 0, []
        for length in filter(None, self.lengths):
            width = min(-(-length // WIDTH) * WIDTH, total)
            first = min(start, total - width)  # the last texts have their neighbours on the left
            mask = None
            if width > length:
                mask = torch.full((1, 1, 1, width), torch.finfo(torch.float32).min)  # added to the scores
                mask[..., start - first : start - first + length] = 0
            windows.append((start, length, first, width, mask))
            start += length
        return windows

    def attend_nested(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float) -> Tensor:
        """All texts in one kernel: SDPA's path for texts of many lengths, "nested" tensors of jagged layout."""
        # Text i stands at offsets[i] to offsets[i + 1].
        offsets = torch.tensor([0, *self.lengths], device=q.device).cumsum(0)
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(x[0].transpose(0, 1).contiguous(), offsets) for x in (q, k, v)
        )  # (B, any, H, D)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
        return context.transpose(1, 2).values().transpose(0, 1)[None]  # (tokens, H, D) -> (1, H, tokens, D)

    def attend_padded(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scale: float
    ) -> tuple[Tensor, Tensor]:
        """For those who want to see the weights, and for devices that have no kernel for it."""
        q, k, v = (self.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        queries, keys = self.real[:, None, :, None], self.real[:, None, None, :]
        context, weights = eager_attention(q, k, v, keys, dropout=dropout, bias=None, scale=scale)
        return self.pack(context.transpose(1, 2)).transpose(1, 2), weights * queries


def pack(mask: Tensor | None, *inputs: Tensor) -> tuple:
    """At an encoder's entrance: the mask and what is given for each token, (B or 1, T, ...), packed.

    They come back as they are where nothing is padded, or where the mask is more than padding.
    """
    real = padding_of(mask)
    if real is None:
        return mask, *inputs
    packing = Packing(real.expand(len(inputs[0]), -1))
    return packing, *(packing.pack(x) for x in inputs)


def unpack(x: Tensor, mask: "Tensor | Packing | None") -> Tensor:
    """At its exit, where `mask` is what `pack` gave: (1, tokens, C) -> (B, T, C)."""
    return mask.unpack(x) if isinstance(mask, Packing) else x


def padding_of(mask: Tensor | None) -> Tensor | None:
    """The real tokens, bool (B or 1, T), of a mask that says no more: (B, T), or 0/1 (B or 1, 1, 1, T). Else None."""
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1:3] == (1, 1) and not mask.is_floating_point():
        mask = mask[:, 0, 0]
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 and not mask.all() else None


@contextmanager
def packed_call(model: nn.Module, args: tuple, kwargs: dict) -> Iterator[Callable]:
    """What to call with these arguments, inside, in place of the model.

    In inference a large batch goes through the `bare` model. One sentence is done before that is made.

    Raises:
        ValueError: the model has one answer for a text, read from its first place, and that is padding.
    """
    try:
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:  # which the call will tell better
        yield model
        return
    mask = arguments.get("attention_mask")
    if reads_first(model) and isinstance(mask, Tensor):
        # Those of several choices one behind the other.
        rows = padding_of(mask) if mask.dim() == 4 else mask.flatten(0, -2).bool()
        if rows is not None and (~rows[:, 0] & rows.any(1)).any():
            raise ValueError(
                f"{type(model).__name__} reads the first token of a text, and packed there is none where a text is "
                'padded on the left: pad on the right (tokenizer.padding_side = "right"), or choose "sdpa"'
            )
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    tokens = ids if embeds is None else embeds[..., 0]
    large = isinstance(tokens, Tensor) and tokens.numel() >= LARGE
    learning = model.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    # In training, a head over the vocabulary looks at the labelled places only (`predict_words`).
    picks = model.training and model.output_embeddings is not None and arguments.get("labels") is not None
    with packed_heads(model, None if picks else padding_of(mask)):
        yield bare(model) if large and not learning else model


def reads_first(model: nn.Module) -> bool:
    """Whether its head, or one of its heads, looks at the first place of a text."""
    pooled = getattr(model.base_model, "pooler", None) is not None
    return model.base_model is not model and (pooled or not model.token_heads)


@contextmanager
def packed_heads(model: nn.Module, real: Tensor | None) -> Iterator[None]:
    """While a model is called with that padding, from the first to the last of its `token_heads` all is packed."""
    if not model.token_heads or real is None:
        yield
        return
    caller = threading.get_ident()  # another thread's calls of the same model have a batch of their own
    packings = []

    def enter(module, args):
        if threading.get_ident() == caller:
            packings.append(Packing(real.expand(len(args[0]), -1)))
            return packings[-1].pack(args[0])

    def leave(module, args, output):
        return packings.pop().unpack(output) if threading.get_ident() == caller else None

    first, *_, last = (model.get_submodule(path) for path in (*model.token_heads[:1], *model.token_heads))
    # Whoever listens besides sees what comes in before it is packed, and what goes out when it is unpacked.
    handles = first.register_forward_pre_hook(enter), last.register_forward_hook(leave, prepend=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
