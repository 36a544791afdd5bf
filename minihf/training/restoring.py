"""From a checkpoint back to a run: everything is read and compared first, and only when all of it fits is it put back.

So a model, an optimizer or a random state is never half restored, and one error lists all that is wrong. No pickle is
opened that could run code: the `.pt` files are read with `weights_only=True`.
"""

import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minihf.checkpoints.experts import as_in_file
from minihf.checkpoints.files import CheckpointError, Weights, read_json
from minihf.checkpoints.format import broken
from minihf.checkpoints.hub import Source

STATE, ARGUMENTS, RANDOM = "trainer_state.json", "training_args.json", "rng_state.pth"
OPTIMIZER, SCHEDULER, SCALER = "optimizer.pt", "scheduler.pt", "scaler.pt"
MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg"}  # as the parameter
# Settings of a group that one optimizer writes and another does without: they choose how a step is computed, not what.
OPTIONAL = {"foreach", "fused", "capturable", "differentiable", "maximize", "amsgrad", "correct_bias"}
OPTIONAL |= {"decoupled_weight_decay"}

logger = logging.getLogger(__name__)


def load_checkpoint(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    rng: bool = True,
    rank: int | None = None,
) -> dict[str, Any]:
    """Put a run back to where `save_checkpoint` left it, in place.

    Args:
        folder: the checkpoint, ours or the reference's.
        model: of the same architecture and sizes; on any device, and sharded by FSDP2 if need be.
        optimizer, scheduler, scaler: as they were made for the run. None leaves out what the checkpoint has of them.
        rng: the random states too, of Python, numpy, torch and the current CUDA device. Where the checkpoint is of
            another number of processes, a warning says that random numbers will differ.
        rank: of this process among several; None: there is one.

    Returns:
        `state`, as it was given to `save_checkpoint`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: files are missing, broken, or of another model, optimizer or scheduler. All of it is listed,
            and nothing was changed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {str(folder)!r}{others_beside(folder)}")
    problems: list[str] = []

    def read(name: str, reader: Callable[[Path], Any], purpose: str) -> Any:
        try:
            return reader(folder / name)
        except FileNotFoundError:
            problems.append(f"{name} is missing: it holds {purpose}")
        except CheckpointError as error:
            problems.append(str(error))

    state = read(STATE, read_json, "where the run is")
    problems += check_weights(folder, model)
    parts: list[tuple[Any, Any]] = []
    for part, name, check in (
        (optimizer, OPTIMIZER, check_optimizer),
        (scheduler, SCHEDULER, check_scheduler),
        (scaler, SCALER, check_nothing),
    ):
        if part is not None:
            saved = read(name, read_tensors, f"the state of the {name.partition('.')[0]}; leave it out to begin anew")
            if saved is not None:
                wrong = check(saved, part)
                problems += [f"{name}: {one}" for one in wrong]
                parts.append((part, saved))
    randoms = None
    if rng:
        name = random_file(rank)
        if not (folder / name).exists() and any(folder.glob("rng_state*.pth")):
            logger.warning("%s is of another number of processes: other random numbers will be drawn", folder)
        else:
            randoms = read(name, read_tensors, "the random states; rng=False goes on with others")
            if randoms is not None and not {"python", "numpy", "cpu"} <= randoms.keys():
                problems.append(f"{name} lacks random states: it holds {', '.join(map(str, randoms))}")
    if problems:
        raise broken(folder, problems)

    put_weights(folder, model)
    for part, saved in parts:
        if part is optimizer:
            share_out(saved, optimizer)
        part.load_state_dict(saved)
    if randoms is not None:
        set_process_random_state(randoms)
    return state


def others_beside(folder: Path) -> str:
    names = sorted(path.name for path in folder.parent.glob("checkpoint-*")) if folder.parent.is_dir() else []
    return f"; beside it are {', '.join(names)}" if names else ", nor any beside it"


# The model


def check_weights(folder: Path, model: nn.Module) -> list[str]:
    """What is wrong with the weights in a folder, as those of this model."""
    if hasattr(model, "peft_config"):
        return []  # `set_peft_model_state_dict` checks them all before it copies one
    try:
        with Weights.open(Source(str(folder)), meta=True) as weights:
            there = weights.tensors
    except (CheckpointError, FileNotFoundError) as error:
        return [str(error)]
    state = model.state_dict(keep_vars=True)
    # in no memory and in one piece, even where the model is sharded
    shapes = {name: torch.empty(x.shape, dtype=x.dtype, device="meta") for name, x in state.items()}
    here = as_in_file(there, shapes)
    names: dict[int, set[str]] = {}  # of each parameter; a tied one has several, of which the file may hold any
    for name, parameter in state.items():
        names.setdefault(id(parameter), set()).add(name)
    problems = [
        f"{key}: missing from the file"
        for key, (name, _) in here.items()
        if key not in there and not names[id(state[name])] & there.keys()
    ]
    for key, info in there.items():
        if key not in here:
            problems.append(f"{key}: in the file, unknown to the model")
        elif info.shape != tuple(here[key][1].shape):
            problems.append(f"{key}: shape {info.shape} in the file, {tuple(here[key][1].shape)} in the model")
        elif info.dtype != here[key][1].dtype:
            problems.append(f"{key}: {info.dtype} in the file, {here[key][1].dtype} in the model")
    return problems


def put_weights(folder: Path, model: nn.Module) -> None:
    if hasattr(model, "peft_config"):
        from minihf.adapters.files import load_adapter, set_peft_model_state_dict

        for name in model.peft_config:
            place = folder if name == "default" else folder / name
            set_peft_model_state_dict(model, load_adapter(Source(str(place))), name)
        return
    with Weights.open(Source(str(folder))) as weights, torch.no_grad():
        for name, parameter in model.state_dict(keep_vars=True).items():  # themselves: other states are copies in part
            target = parameter.detach()
            sharded = hasattr(target, "device_mesh")
            full = torch.empty(target.shape, dtype=target.dtype) if sharded else target
            for key, (_, place) in as_in_file(weights.tensors, {name: full}).items():
                if key in weights.tensors:
                    place.copy_(weights.take(key))
                else:  # a tied parameter, which the file holds once
                    sharded = False
            if sharded:
                target.copy_(shared_out(full, target))


# Optimizer and schedule


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU; CheckpointError where it is cut short, or more than tensors and numbers."""
    numpys = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]  # the reference's
    try:
        with torch.serialization.safe_globals(numpys):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # of many kinds: truncated, no archive, objects of other classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: truncated, or no file of tensors and numbers: {reason}") from error


def check_optimizer(saved: Any, optimizer: Optimizer) -> list[str]:
    """That a state has the optimizer's groups, and moments of its parameters' shapes."""
    if not (isinstance(saved, dict) and {"state", "param_groups"} <= saved.keys()):
        return ["it holds no optimizer's state"]
    groups, ours = saved["param_groups"], optimizer.param_groups
    sizes, our_sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in ours]
    if sizes != our_sizes:
        return [f"groups of {sizes} parameters, and the optimizer has groups of {our_sizes}"]
    needed = optimizer.defaults.keys() - OPTIONAL
    lacking = sorted({name for group in groups for name in needed - group.keys()})
    problems = [f"of another optimizer than {type(optimizer).__name__}: no {', '.join(lacking)}"] if lacking else []
    indices = [index for group in groups for index in group["params"]]
    params = [p for group in ours for p in group["params"]]
    for index, p in zip(indices, params, strict=True):
        for name, tensor in saved["state"].get(index, {}).items():
            if name in MOMENTS and tensor is not None and tensor.shape != p.shape:
                shapes = f"shape {tuple(tensor.shape)}, and the parameter has {tuple(p.shape)}"
                problems.append(f"{name} of parameter {index}: {shapes}")
    return problems


def check_scheduler(saved: Any, scheduler: Any) -> list[str]:
    """That a state has the fields of this kind of scheduler; torch itself would take over any."""

    def public(state: Mapping[str, Any]) -> set[str]:
        return {name for name in state if not name.startswith("_")} - {"verbose"}  # which torch 2.7 dropped

    if not isinstance(saved, dict) or public(saved) != public(scheduler.state_dict()):
        return [f"of another kind of scheduler than this {type(scheduler).__name__}"]
    rates = saved.get("base_lrs", [])
    here = scheduler.state_dict().get("base_lrs", [])
    return [] if len(rates) == len(here) else [f"rates of {len(rates)} groups, and the optimizer has {len(here)}"]


def check_nothing(saved: Any, part: Any) -> list[str]:
    return []


def share_out(saved: dict[str, Any], optimizer: Optimizer) -> None:
    """Where parameters are sharded, so are their moments: each process keeps its part of those in the file."""
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, p in zip(indices, params, strict=True):
        state = saved["state"].get(index, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                state[name] = shared_out(value, p)


def shared_out(tensor: Tensor, target: Tensor) -> Tensor:
    """A whole tensor as the target lies: this process's part of it, where the target is sharded."""
    if not hasattr(target, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # each process has read the same file: nothing need be sent
    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


# Random states


def random_file(rank: int | None) -> str:
    return RANDOM if rank is None else f"rng_state_{rank}.pth"


def process_random_state() -> dict[str, Any]:
    """The states of Python, numpy, torch and, where it is in use, the current CUDA device: a process's own."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_process_random_state(state: Mapping[str, Any]) -> None:
    """The reference's file of several processes holds a list of all CUDA devices' states."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        cuda = state["cuda"]
        torch.cuda.set_rng_state(cuda[torch.cuda.current_device()] if isinstance(cuda, list) else cuda)
