"""Records that `Trainer` returns and metrics are computed from, and the arithmetic of gathering predictions."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minihf.nn.losses import IGNORED


class EvalPrediction:
    """What `compute_metrics` gets. It can be unpacked: `logits, labels = eval_pred`.

    Args:
        predictions: an array, or a tuple of them where the model has several outputs.
        label_ids: the labels; a tuple where there are several.
        inputs, losses: if asked for, by `include_for_metrics`.
    """

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None):
        self.predictions, self.label_ids, self.inputs, self.losses = predictions, label_ids, inputs, losses

    def to_tuple(self) -> tuple[Any, ...]:
        extra = (each for each in (self.inputs, self.losses) if each is not None)
        return self.predictions, self.label_ids, *extra

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __getitem__(self, index: int) -> Any:
        return self.to_tuple()[index]


class EvalLoopOutput(NamedTuple):
    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """Of `Trainer.predict`."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None


class TrainOutput(NamedTuple):
    """Of `Trainer.train`."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: float | None = None,
    num_steps: int | None = None,
    num_tokens: int | None = None,
) -> dict[str, float]:
    """Seconds since `start_time` (of `time.time()`), and how many samples, steps and tokens each of them had."""
    runtime = time.time() - start_time
    counts = {"samples": num_samples, "steps": num_steps, "tokens": num_tokens}
    speeds = {
        f"{split}_{what}_per_second": round(count / runtime, 3)
        for what, count in counts.items()
        if count is not None and runtime > 0
    }
    return {f"{split}_runtime": round(runtime, 4)} | speeds


# Outputs are tensors, and tuples, lists and dicts of them.


def nested(function: Any, *trees: Any) -> Any:
    """The function of each tensor or array; anything else, of the first tree, stays as it is."""
    first = trees[0]
    if isinstance(first, tuple | list):
        return type(first)(nested(function, *each) for each in zip(*trees, strict=True))
    if isinstance(first, Mapping):
        return {key: nested(function, *(tree[key] for tree in trees)) for key in first}
    return function(*trees) if isinstance(first, Tensor | np.ndarray) else first


def as_array(x: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(x, np.ndarray):
        return x
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


def joined(batches: list[Any]) -> Any:
    """Batches as one, filled up with -100 to the longest."""
    return nested(lambda *arrays: join(arrays), *batches) if batches else None


def join(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    arrays = [np.atleast_1d(each) for each in arrays]
    shape = np.max([each.shape for each in arrays], axis=0)[1:]
    if all(each.shape[1:] == tuple(shape) for each in arrays):
        return np.concatenate(arrays)
    whole = np.full((sum(map(len, arrays)), *shape), IGNORED, arrays[0].dtype)
    start = 0
    for each in arrays:
        whole[(slice(start, start + len(each)), *map(slice, each.shape[1:]))] = each
        start += len(each)
    return whole


def number(value: Any) -> Any:
    """A NumPy number, or a tensor of one, as Python's own."""
    if isinstance(value, Mapping):
        return {key: number(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(number, value))
    single = isinstance(value, np.generic)
    single = single or (isinstance(value, np.ndarray) and value.size == 1)
    single = single or (isinstance(value, Tensor) and value.numel() == 1)
    return value.item() if single else value
