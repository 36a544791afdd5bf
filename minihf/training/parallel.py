"""A model among several processes: a copy in each, whose gradients are averaged (DDP), or a part in each (FSDP2)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.nn.output import Output
from minihf.training.arguments import TrainingArguments
from minihf.training.distributed import is_main, world_size


def in_parallel(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """The model as a run has it: itself, in DDP, or sharded as the arguments say."""
    if is_sharded(model):
        return model
    if args.fsdp:
        config = args.fsdp_config
        options: dict[str, Any] = {"reshard_after_forward": config["reshard_after_forward"]}
        if config["cpu_offload"] and args.device.type != "cpu":
            from torch.distributed.fsdp import CPUOffloadPolicy

            options["offload_policy"] = CPUOffloadPolicy()
        return shard(model, **options)
    if world_size() == 1:
        return model
    unused = args.ddp_find_unused_parameters
    options = {
        "find_unused_parameters": not args.gradient_checkpointing if unused is None else unused,
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
        "static_graph": args.ddp_static_graph,
    }
    return replicate(model, **{name: value for name, value in options.items() if value is not None})


def replicate(model: nn.Module, **options: Any) -> nn.Module:
    """The model in DDP, whose options these are: each process has a copy, and gradients are averaged in `backward`."""
    from torch.nn.parallel import DistributedDataParallel

    device = next(model.parameters()).device
    model = DistributedDataParallel(Hidden(model), device_ids=[device] if device.type == "cuda" else None, **options)
    model.register_forward_hook(show)
    return model


def shard(model: nn.Module, **options: Any) -> nn.Module:
    """Cut each parameter into parts, one for each process, in place: FSDP2. Make the optimizer afterwards.

    All begin with what the main process has. A layer's parameters are put together when it is their turn, and let go.
    The layers are the modules whose hidden states the model records; the embeddings, the last norm and the head are one
    more part, as is any other module.

    Args:
        options: `torch.distributed.fsdp.fully_shard`'s: `mp_policy`, `offload_policy`, `reshard_after_forward`, …

    Raises:
        ValueError: the model has adapters: what learns is small, so give each process a copy (`replicate`).
    """
    if hasattr(model, "peft_config"):
        raise ValueError("adapters are not sharded: there is little that learns. Use DDP (fsdp left out)")
    from torch.distributed.fsdp import fully_shard

    if "mesh" not in options:
        device = next(model.parameters()).device.type
        options["mesh"] = dist.device_mesh.init_device_mesh(device, (world_size(),))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, src=0)
    name = type(model).__name__
    for layer in model.recorded_layers() if isinstance(model, Model) else []:
        for table in [part for part in layer.modules() if isinstance(part, nn.Embedding)]:
            fully_shard(table, **options)  # of positions, in T5's first layer, and the others read it
        fully_shard(layer, **options)
    model.register_forward_hook(hide)
    fully_shard(model, **options | {"reshard_after_forward": False})  # the head may be read after the forward
    model.register_forward_hook(show)
    type(model).__name__ = name  # FSDP makes a class of its own; the config says what was trained
    return model


# DDP and FSDP look for tensors in what a model returns, and would make logits that are only made when they are read.


class Sealed:
    """An output that nobody looks into."""

    def __init__(self, output: Output):
        self.output = output


def hide(model: nn.Module, args: Any, output: Any) -> Any:
    """Of an output with a loss only what is there; of another one all, since that is what a loss will be made of."""
    if not isinstance(output, Output):
        return output
    found = vars(output) if "loss" in output else dict(output.items())
    return {name: x for name, x in found.items() if isinstance(x, Tensor)} | {"sealed": Sealed(output)}


def show(model: nn.Module, args: Any, output: Any) -> Any:
    if not (isinstance(output, dict) and "sealed" in output):
        return output
    sealed = output.pop("sealed").output
    for name, x in output.items():
        setattr(sealed, name, x)
    return sealed


class Hidden(nn.Module):
    """A model whose outputs are sealed."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return hide(self.module, args, self.module(*args, **kwargs))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of DDP and the compiler's wrapper."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model


def without_exchange(model: nn.Module, *, last: bool) -> AbstractContextManager:
    """For accumulated gradients: `backward` inside exchanges them only with the last of a step's batches."""
    if hasattr(model, "no_sync"):
        return nullcontext() if last else model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def clip_grad_norm(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their norm is at most `max_norm`; returns what it was, of whole gradients."""
    return whole(nn.utils.clip_grad_norm_(model.parameters(), max_norm))


def is_sharded(model: nn.Module) -> bool:
    return any(hasattr(p, "device_mesh") for p in model.parameters())


@contextmanager
def put_together(model: nn.Module, reshard_after_forward: bool) -> Iterator[None]:
    """Within it each process has the whole of a sharded model, and may call it as often as it likes: to write texts,
    which are not as long in each. Afterwards layers are let go again after their turn, or not."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(reshard_after_forward and part is not model, recurse=False)
            part.reshard()


# Whole states of sharded models: every process calls these, since each holds a part


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a sharded model with its whole tensors, on the CPU, for `save_checkpoint(weights=…)`. A tied
    parameter is one tensor under its two names. In processes that are not the main one it is empty."""
    parts, tensors = model.state_dict(keep_vars=True), {}
    for part in parts.values():
        if id(part) not in tensors:
            full = whole(part.detach())
            tensors[id(part)] = full.cpu() if is_main() else None
    return {name: tensors[id(part)] for name, part in parts.items()} if is_main() else {}


def full_state(state: Any) -> Any:
    """The same of an optimizer's `state_dict()`, for `save_checkpoint(optimizer=…)`: only the main one has tensors."""
    if isinstance(state, dict):
        return {name: full_state(one) for name, one in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(full_state(one) for one in state)
    if isinstance(state, Tensor):
        full = whole(state)
        return full.cpu() if is_main() else None
    return state
