"""Several processes, one run: what `torchrun script.py` starts, each with a copy of the model (DDP) or a part (FSDP2).

Each process is told its place by the environment that torchrun sets; without it there is one process, and every
function here does what is right for one: nothing. Data parallel training is the single run's, cut along the batch: the
processes take turns with its batches, gradients are averaged, and what is measured is gathered in the data's order.

No process waits for another that has failed. What one does for all (`by_main`, `main_first`) fails in all; and when a
process ends, the next exchange with it is an error in the others at once with gloo, and with NCCL after the timeout.
torchrun then ends them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import cycle, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import BatchSampler, IterableDataset, Sampler

from minihf.models.base import Model
from minihf.nn.output import Output

T = TypeVar("T")


# Who is there


def join(backend: str | None = None, timeout: float = 1800, *, cpu: bool = False) -> torch.device:
    """Meet the other processes, and say which device is this one's: call it once, before anything else.

    Args:
        backend: None: NCCL on GPUs, gloo on the CPU.
        timeout: seconds that an exchange may take, which is as long as one process may be ahead of another.
        cpu: use no GPU.

    Raises:
        ValueError: there are more processes on this machine than GPUs.
    """
    gpus = 0 if cpu else torch.cuda.device_count()
    place = int(os.environ.get("LOCAL_RANK", 0))
    if gpus and place >= gpus:
        raise ValueError(f"process {place} of this machine has no GPU: there are {gpus}. Give --nproc-per-node={gpus}")
    device = torch.device("cuda", place) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        backend = backend or ("nccl" if gpus else "gloo")
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return device


def leave() -> None:
    """At the end of a run that went well. One that fails just ends, so that the others notice."""
    if together():
        dist.destroy_process_group()


def together() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if together() else 0


def world_size() -> int:
    return dist.get_world_size() if together() else 1


def is_main() -> bool:
    """This is the process that writes files and speaks to people."""
    return rank() == 0


# One for all


def by_main(work: Callable[[], T]) -> T:
    """Let the main process do something that must be done once, such as writing a file. All get what it returns.

    Raises:
        RuntimeError: it failed; in the main process the error itself.
    """
    result: list[Any] = [None, None]
    with main_first():
        if is_main():
            result[0] = work()
    if world_size() > 1:
        dist.broadcast_object_list(result, src=0)
    return result[0]


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block before the others, who find what it made: a cache, a download.

    Raises:
        RuntimeError: it failed there.
    """
    if world_size() == 1:
        yield
        return
    outcome: list[str | None] = [None]
    if not is_main():
        dist.broadcast_object_list(outcome, src=0)
        if outcome[0] is not None:
            raise RuntimeError(f"the main process failed: {outcome[0]}")
        yield
        return
    try:
        yield
    except BaseException as error:
        outcome = [f"{type(error).__name__}: {error}"]
        raise
    finally:
        dist.broadcast_object_list(outcome, src=0)


# Data


class RankBatches(Sampler[list[int]]):
    """A batch sampler's batches, dealt out: of each round this process takes one. All get as many, and full ones.

    Args:
        batches: of a whole run, as a single process would go through them; each process must make the same ones.
        rank, world_size: of this process.
        drop_last: leave out a last round that is not full, rather than fill it up from the beginning of the epoch.
    """

    def __init__(self, batches: BatchSampler, rank: int, world_size: int, *, drop_last: bool = False):
        self.batches, self.rank, self.world_size, self.drop_last = batches, rank, world_size, drop_last

    @property
    def sampler(self) -> Any:
        """Where `set_epoch` is looked for."""
        return self.batches.sampler

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        start: list[int] = []
        round_: list[list[int]] = []
        for number, batch in enumerate(self.batches):
            if number < self.world_size:
                start += batch
            round_.append(batch)
            if len(round_) == self.world_size and len(batch) == self.batch_size:
                yield round_[self.rank]
                round_ = []
        if round_ and not self.drop_last:
            indices = [index for batch in round_ for index in batch]
            full = [*indices, *islice(cycle(start), self.world_size * self.batch_size - len(indices))]
            yield full[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]

    def __len__(self) -> int:
        rounds, rest = divmod(len(self.batches), self.world_size)
        return rounds + bool(rest and not self.drop_last)


class EveryNth(IterableDataset):
    """This process's part of a stream: one example of `world_size`, turn by turn."""

    def __init__(self, stream: IterableDataset, rank: int, world_size: int):
        self.stream, self.rank, self.world_size = stream, rank, world_size

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.stream), self.rank, None, self.world_size)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def sharded(stream: IterableDataset) -> IterableDataset:
    """This process's part of a dataset that is only iterated over. One of `datasets` reads no other part, if it can.

    The parts may differ in length: go through the batches with `in_step`. (A dataset with a length needs none of it:
    `RankBatches` deals out its indices.)
    """
    if world_size() == 1:
        return stream
    if hasattr(stream, "n_shards") or hasattr(stream, "num_shards"):  # of the library `datasets`
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(stream, rank(), world_size())
    return EveryNth(stream, rank(), world_size())


def in_step(batches: Iterator[T], device: torch.device | str = "cpu") -> Iterator[T]:
    """Batches as long as every process has one: a step that one of them did not take would keep the others waiting."""
    batches = iter(batches)
    while True:
        batch = next(batches, batches)  # an iterator never yields itself
        if anywhere(batch is batches, device):
            return
        yield batch


# Numbers


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes: of tokens that count, and of losses."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def anywhere(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether it holds in any process: one that got SIGTERM stops them all, at the same step."""
    return bool(summed(torch.tensor(int(flag), device=device)))


def gather(value: Any, padding: float = -100) -> Any:
    """Predictions and labels of all processes, along the first axis and in the order of their ranks.

    Args:
        value: a tensor, or dicts, lists and tuples of them. Sizes of any axis may differ from process to process; a
            tensor without axes counts as one row.
        padding: fills the axes after the first up to the longest.
    """
    if isinstance(value, dict):
        return {name: gather(one, padding) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([gather(one, padding) for one in value])
    value = value.reshape(1) if value.ndim == 0 else value
    if world_size() == 1:
        return value
    here = torch.tensor(value.shape, device=value.device)
    shapes = [torch.empty_like(here) for _ in range(world_size())]
    dist.all_gather(shapes, here)
    largest = torch.stack(shapes).amax(0).tolist()
    padded = value.new_full(largest, padding if value.dtype != torch.bool else False)
    padded[tuple(slice(size) for size in value.shape)] = value
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)])


# Models


def replicate(model: nn.Module, **options: Any) -> nn.Module:
    """The model in DDP, whose options these are: each process has a copy, and gradients are averaged in `backward`."""
    from torch.nn.parallel import DistributedDataParallel

    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **options)


def shard(model: nn.Module, **options: Any) -> nn.Module:
    """Cut each parameter into parts, one for each process, in place: FSDP2. Make the optimizer afterwards.

    A layer's parameters are put together when it is their turn, and let go. The layers are the modules whose hidden
    states the model records; the embeddings, the last norm and the head are one more part, as is any other module.

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
    name = type(model).__name__
    for layer in model.recorded_layers() if isinstance(model, Model) else []:
        for table in [part for part in layer.modules() if isinstance(part, nn.Embedding)]:
            fully_shard(table, **options)  # of positions, in T5's first layer, and the others read it
        fully_shard(layer, **options)
    model.register_forward_hook(hide)
    fully_shard(model, **options)
    model.register_forward_hook(show)
    type(model).__name__ = name  # FSDP makes a class of its own; the config says what was trained
    return model


class Sealed:
    """An output that nobody looks into."""

    def __init__(self, output: Output):
        self.output = output


def hide(model: nn.Module, args: Any, output: Any) -> Any:
    """FSDP looks for tensors in what a model returns, and would read logits that are only made when they are read."""
    if not isinstance(output, Output):
        return output
    return {name: x for name, x in vars(output).items() if isinstance(x, Tensor)} | {"sealed": Sealed(output)}


def show(model: nn.Module, args: Any, output: Any) -> Any:
    return output["sealed"].output if isinstance(output, dict) and "sealed" in output else output


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


def random_states(state: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The random states of all processes, for `save_checkpoint(rng=…)`: in the main process a list, elsewhere None."""
    if world_size() == 1:
        return [state]
    states = [None] * world_size() if is_main() else None
    dist.gather_object(state, states)
    return states
