"""One token through a model as a CUDA graph, for the tokens that `generate` writes with a static cache.

To write a token, a Llama of 32 layers starts over a thousand kernels, and a CPU needs longer to start them than a GPU
to run them. A graph holds the kernels of one step with their addresses and starts them all at once. What it recorded is
all that happens: no Python runs again. So the step reads its ids from a tensor of its own, writes to a `StaticCache`,
and leaves its logits in one place; what is done to the logits, and which token is chosen, stays outside.

Elsewhere than on CUDA the same step runs as it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minihf.nn.bare import is_heard, modules_of, tensors_of
from minihf.nn.static_cache import StaticCache


def read_one(model: Callable[..., Any], cache: StaticCache, ids: Tensor, more: dict[str, Any]) -> Tensor:
    """What follows the token that is read now, ids (B, 1): float32 (B, V). Nothing moves on, however often it runs."""
    cache.open()
    given = {"attention_mask": cache.mask, "position_ids": cache.position_ids, "past_key_values": cache}
    return model(input_ids=ids, use_cache=True, **given, **more).logits[:, -1].float()


class Step:
    """Call it with the last id of each text, (B, 1), in turn: logits of what follows, float32 (B, V).

    Args:
        model: as `generate` calls it, `(input_ids, ...) -> .logits`.
        cache: filled, with a place for each token to come.
        ids: (B, 1), for their shape and device.
        more: further arguments of the model, the same at each step.
        compile_config: arguments of `torch.compile`, which fuses what is to be captured; None: do not.
        capture: from a function without arguments to one that replays it; None: run the function itself.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        cache: StaticCache,
        ids: Tensor,
        more: dict[str, Any],
        *,
        compile_config: dict[str, Any] | None = None,
        capture: Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None = None,
    ):
        # A graph keeps no tensor alive that it reads: the model and `more` are kept here, the buffers by the cache.
        self.model, self.more, self.ids, self.count = model, more, ids.clone(), cache.count
        read = read_one if compile_config is None else torch.compile(read_one, **compile_config)
        self.run: Callable[[], Tensor] = partial(read, model, cache, self.ids, more)
        if capture is not None:
            with torch.cuda.device_of(ids):
                self.run = capture(self.run)

    def __call__(self, ids: Tensor) -> Tensor:
        self.ids.copy_(ids)
        logits = self.run().clone()  # the next step writes over it
        self.count.add_(1)
        return logits


def capture(once: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`once`, recorded: a function that replays its kernels and gives its result, always the same tensor.

    It runs on a side stream first, as PyTorch asks: libraries take their workspaces, what is compiled is compiled.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go about their business
        result = once()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def capture_for(model: nn.Module, device: torch.device) -> Callable | None:
    """`capture`, on CUDA, if the step can be recorded."""
    return capture if device.type == "cuda" and is_recordable(model, device) else None


def is_recordable(model: nn.Module, device: torch.device) -> bool:
    """Whether a step may be: not of a model that is heard, in training, or not `capturable`; nor under autocast, whose
    copies of the weights go when it ends."""
    fit = getattr(model, "capturable", True) and not torch.is_autocast_enabled(device.type)
    return fit and not any(module.training or is_heard(module) for module in modules_of(model))


def is_ours(model: nn.Module) -> bool:
    """Whether all its classes and tensors do what minihf's and PyTorch's do, and no less than that is seen of them.

    What an adapter's layers add, or anybody else's, may change unseen; so may a forward put in the place of a class's,
    and what is behind a tensor of somebody's class.
    """
    plain = all(type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided for x in tensors_of(model))
    return plain and has_our_classes(model)


def has_our_classes(model: nn.Module) -> bool:
    """Whether all, and the forwards that they have, are minihf's or PyTorch's."""
    own = ("minihf.models.", "minihf.nn.", "torch.nn.modules.")
    kinds = {type(module) for module in modules_of(model)}
    return all(kind.__module__.startswith(own) and kind.forward.__module__.startswith(own) for kind in kinds)


def grounds(model: nn.Module) -> list[Any] | None:
    """What a step rests on beside its cache; where that is equal, the step can be used again. None: never.

    Tensors may be written to: they are read anew. Others in their place have other addresses.
    """
    if any(map(is_heard, modules_of(model))) or not is_ours(model):
        return None
    return [model, model.config.attn_implementation, *((x.data_ptr(), x.dtype) for x in tensors_of(model))]
