"""What a language model's head gives: a loss, and logits over the vocabulary.

In training with labels nobody reads the logits, as a rule, and they are the largest tensor of all. So there the head
looks at the labelled tokens only (of a masked text, one in seven), the loss is computed in chunks, and the logits come
as a function, to be called by whoever reads them. Otherwise, and where somebody listens to the head or has put another
in its place (a hook, an adapter), all logits are computed, and the loss from them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minihf.nn.bare import is_opaque
from minihf.nn.chunked_loss import chunked_cross_entropy
from minihf.nn.linear import Linear
from minihf.nn.losses import check_labels, counted, cross_entropy


def predict_words(
    head: Callable[[Tensor], Tensor] | list[Callable[[Tensor], Tensor]] | tuple[Callable[[Tensor], Tensor], ...],
    x: Tensor,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    *,
    bias: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | Callable[[], Tensor]]:
    """The loss (None without labels), and the logits (..., V) or, in training with labels, a function that gives them.

    Args:
        head: what makes logits of a hidden state, in one module or in several, one after the other. The last is linear,
            or has a linear `decoder` and a `transform` before it.
        x: hidden states (..., C).
        labels: (...), the word of each place (see `next_tokens` where it is the next one's), or -100.
        num_items_in_batch: divide the sum of losses by this instead of by the number of labels.
        bias: is added to the logits, (1, V).
    """
    parts = list(head) if isinstance(head, (list, tuple)) else [head]

    def logits() -> Tensor:
        y = x
        for part in parts:
            y = part(y)
        return y if bias is None else y + bias

    if labels is None:
        return None, logits()
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    *before, last = parts
    if hasattr(last, "decoder"):
        before, last = [*before, last.transform], last.decoder
    if not last.training or type(last) not in (nn.Linear, Linear) or any(map(is_opaque, modules)):
        y = logits()
        return cross_entropy(y, labels, num_items_in_batch), y
    check_labels(x.shape[:-1], labels)
    labels = labels.to(x.device, torch.long).flatten()
    places = counted(labels)
    state = x.flatten(0, -2)[places]  # (..., C) -> (N, C)
    for part in before:
        state = part(state)
    biases = [b for b in (last.bias, bias if bias is None else bias.flatten()) if b is not None]
    loss = chunked_cross_entropy(
        state, last.weight, sum(biases) if biases else None, labels[places], num_items_in_batch
    )
    return loss, on_request(logits, [p for module in modules for p in module.parameters(recurse=False)])


def on_request(compute: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], Tensor]:
    """`compute` as if it were called now: gradients and autocast are as they are now, and so must the parameters be."""
    device = parameters[0].device.type
    learning, mixed = torch.is_grad_enabled(), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)
    versions = [version(p) for p in parameters]

    def later() -> Tensor:
        if versions != [version(p) for p in parameters]:
            raise RuntimeError(
                "in training, logits are computed when they are first read, and the head's weights have changed since "
                "the model was called: read outputs.logits before optimizer.step()"
            )
        with torch.set_grad_enabled(learning), torch.autocast(device, dtype, mixed):
            return compute()

    return later


def version(x: Tensor) -> int:
    """How often it was changed in place; PyTorch does not count that of tensors made in inference mode."""
    return 0 if x.is_inference() else x._version
