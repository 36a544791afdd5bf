"""The training loop: a generator that takes one step of the optimizer each time it is asked for one.

    for step in train_steps(model, batches, optimizer, scheduler):
        print(step.loss)

`Trainer` is the course's class over it. Everything that may be another's business is handed in: how a batch becomes a
gradient, how its labels are counted, and who wants to hear what happens when.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minihf.nn.losses import IGNORED
from minihf.training.parallel import clip_grad_norm, without_exchange


@dataclass
class Step:
    """What a step of the optimizer was like."""

    loss: Tensor  # of all its batches
    grad_norm: Tensor  # before clipping
    learning_rate: float  # of the first group, in this step
    batches: list[Any]  # those that its gradient was computed from


def train_steps(
    model: nn.Module,
    batches: Iterable[Any],
    optimizer: Optimizer,
    scheduler: Any = None,
    *,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float | None = 1.0,
    backward: Callable[[nn.Module, Any, Tensor | None, int], Tensor] | None = None,
    count: Callable[[list[Any]], Tensor | None] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Step]:
    """Train on the batches, and yield after each step of the optimizer.

    Args:
        model: gives a loss, `model(**batch).loss`; alone, in DDP or sharded.
        batches: dicts of tensors, on the model's device.
        optimizer, scheduler: take a step each time; a schedule that follows a metric is the caller's.
        gradient_accumulation_steps: batches for one step; the last step has what is left.
        max_grad_norm: gradients are scaled down to this norm; None, 0 or less: they stay as they are.
        backward: (model, batch, num_items, number of batches in this step) -> the loss, its gradient added to the
            parameters'; None: see `plain_backward`.
        count: the labels that count in the batches of a step, which each of their losses is divided by.
        scaler: of the loss, in float16. Where it finds a gradient too large, the step and the schedule stand still.
        tell: is told "on_step_begin", "on_substep_end", "on_pre_optimizer_step" and "on_optimizer_step".
    """
    backward = plain_backward if backward is None else backward
    tell = (lambda event: None) if tell is None else tell
    scaler = torch.amp.GradScaler(enabled=False) if scaler is None else scaler
    batches = iter(batches)
    while some := [*islice(batches, gradient_accumulation_steps)]:
        num_items = None if count is None else count(some)
        tell("on_step_begin")
        losses = []
        for batch in some:
            if losses:
                tell("on_substep_end")
            with without_exchange(model, last=len(losses) == len(some) - 1):
                losses.append(backward(model, batch, num_items, len(some)))
        scaler.unscale_(optimizer)
        norm = clip_grad_norm(model, max_grad_norm if max_grad_norm and max_grad_norm > 0 else float("inf"))
        tell("on_pre_optimizer_step")
        scale, learning_rate = scaler.get_scale(), optimizer.param_groups[0]["lr"]
        scaler.step(optimizer)
        scaler.update()
        tell("on_optimizer_step")
        if scheduler is not None and scaler.get_scale() >= scale:
            scheduler.step()
        model.zero_grad()
        yield Step(torch.stack(losses).sum(), norm, learning_rate, some)


def plain_backward(model: nn.Module, batch: Any, num_items: Tensor | None, batches: int) -> Tensor:
    """The mean loss of a batch, as a part of the mean over the step's batches."""
    loss = model(**batch).loss / batches
    loss.backward()
    return loss.detach()


def count_labels(batches: list[Any], *, shifted: bool) -> Tensor | None:
    """How many labels count in all of these batches; None where they have none, or no tensors.

    shifted: each predicts the next token, so that a row's first label is predicted by nothing.
    """
    labels = [batch.get("labels") for batch in batches]
    if not all(isinstance(each, Tensor) for each in labels):
        return None
    return sum((each[..., 1:] if shifted else each).ne(IGNORED).sum() for each in labels)
