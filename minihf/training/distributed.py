"""Several processes, one run: what `torchrun script.py` starts, and how its processes speak with each other.

Each process is told its place by the environment that torchrun sets; without it there is one process, and every
function here does what is right for one: nothing. Data parallel training is the single run's, cut along the batch: the
processes take turns with its batches (`dealing`), gradients are averaged (`parallel`), and what is measured is gathered
in the data's order.

No process waits for another that has failed. What one does for all (`by_main`, `main_first`) fails in all; and when a
process ends, the next exchange with it is an error in the others at once with gloo, and with NCCL after the timeout.
torchrun then ends them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


# Who is there


def join(backend: str | None = None, timeout: float = 1800, *, cpu: bool = False) -> torch.device:
    """Meet the other processes, and say which device is this one's: call it once, before anything else.

    Args:
        backend: of exchanges between GPUs; None: NCCL. What is on the CPU goes by gloo.
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
    if launched() and not dist.is_initialized():
        backend = f"cpu:gloo,cuda:{backend or 'nccl'}" if gpus else backend or "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return device


def launched() -> bool:
    """The environment says that there are others, or that a launcher made a group of one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 or {"WORLD_SIZE", "RANK"} <= os.environ.keys()


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


def local_rank() -> int:
    """The place on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if together() else 0


def is_main() -> bool:
    """This is the process that writes files and speaks to people."""
    return rank() == 0


# One for all


def by_main(work: Callable[[], T]) -> T:
    """Let the main process do something that must be done once, such as writing a file. All get what it returns.

    Raises:
        RuntimeError: it failed; in the main process the error itself.
    """
    result = None
    with main_first():
        if is_main():
            result = work()
    return shared(result)


def shared(value: T) -> T:
    """What the main process has, in all."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def everyone(value: T) -> list[T]:
    """What each process has, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def main_first(*, local: bool = False) -> Iterator[None]:
    """The main process goes through the block before the others, who find what it made: a cache, a download.

    local: on each machine its own main process does.

    Raises:
        RuntimeError: it failed there.
    """
    if world_size() == 1:
        yield
        return
    if (local_rank() if local else rank()) != 0:
        if failed := [each for each in everyone(None) if each is not None]:
            raise RuntimeError(f"the main process failed: {failed[0]}")
        yield
        return
    outcome = None
    try:
        yield
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        everyone(outcome)


# Numbers and records


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes: of tokens that count, and of losses."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def averaged(tensor: Tensor) -> Tensor:
    return summed(tensor) / world_size()


def totals(numbers: list[float]) -> list[float]:
    """The sum of each number over all processes."""
    return summed(torch.tensor(numbers, dtype=torch.float64)).tolist() if world_size() > 1 else numbers


def anywhere(flag: bool) -> bool:
    """Whether it holds in any process: one that got SIGTERM stops them all, at the same step."""
    return bool(totals([bool(flag)])[0])


def gather(value: Any, padding: float = -100) -> Any:
    """Predictions and labels of all processes, along the first axis and in the order of their ranks.

    Args:
        value: a tensor, or dicts, lists and tuples of them. Sizes of any axis may differ from process to process; a
            tensor without axes counts as one row. What is no tensor stays as it is.
        padding: fills the axes after the first up to the longest.
    """
    if isinstance(value, dict):
        return {name: gather(one, padding) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([gather(one, padding) for one in value])
    if not isinstance(value, Tensor):
        return value
    value = value.reshape(1) if value.ndim == 0 else value.contiguous()
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


def random_states(state: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The random states of all processes, for `save_checkpoint(rng=…)`: in the main process a list, elsewhere None."""
    if world_size() == 1:
        return [state]
    states = [None] * world_size() if is_main() else None
    dist.gather_object(state, states)
    return states
