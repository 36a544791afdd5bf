"""Learning rates over a run: each schedule is a factor of the optimizer's own rate, by the number of steps done.

Names, arguments and defaults are those of `transformers.optimization` (release 5.23), and so is every factor. They are
`LambdaLR`s, whose `state_dict` is the reference's too; all are picklable. Two schedules follow a metric instead
of the step, and their `step` takes it: reduce_lr_on_plateau and greedy.
"""

import difflib
import inspect
import math
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from minihf.training.greedy import GreedyLR

SHAPES = ("linear", "cosine", "1-sqrt")  # of the ways up and down in `get_wsd_schedule`


class SchedulerType(StrEnum):
    """The names of the schedules; the plain strings do as well."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"
    GREEDY = "greedy"

    @classmethod
    def _missing_(cls, value: object) -> None:
        near = difflib.get_close_matches(str(value), [kind.value for kind in cls], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kind.value for kind in cls)}"
        raise ValueError(f"no schedule is called {value!r}; {hint}")


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler | GreedyLR:
    """The schedule of that name; see the function of each for what it does.

    Args:
        name: one of `SchedulerType`.
        optimizer: whose rates it sets.
        num_warmup_steps: steps in which the rate rises; for the kinds that warm up.
        num_training_steps: steps of the whole run; for the kinds that end somewhere.
        scheduler_specific_kwargs: the other arguments of that kind's function. (The reference drops them, unsaid,
            for the two constant kinds; here they are an error.)

    Raises:
        ValueError: no schedule has the name, or an argument that it needs is missing.
        TypeError: an argument that its function does not have.
    """
    kind = SchedulerType(name)
    takes = inspect.signature(SCHEDULES[kind]).parameters
    counts = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    given = {name: count for name, count in counts.items() if name in takes and count is not None}
    given |= scheduler_specific_kwargs or {}
    required = [name for name, one in takes.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if missing := [name for name in required if name not in given and name != "optimizer"]:
        raise ValueError(f"the schedule {kind.value!r} needs {' and '.join(missing)}, please give a number of steps")
    return SCHEDULES[kind](optimizer, **given)


# Factors: of the steps after the warmup. They begin at 1.


def warmed_up(step: int, *, warmup: int, after: Callable[[int], float]) -> float:
    return step / max(1, warmup) if step < warmup else after(step - warmup)


def with_warmup(
    optimizer: Optimizer, warmup: int, last_epoch: int, after: Callable[..., float], **settings: Any
) -> LambdaLR:
    """From 0 in a straight line to the optimizer's rate, and on as `after` says."""
    return LambdaLR(optimizer, partial(warmed_up, warmup=warmup, after=partial(after, **settings)), last_epoch)


def constant(step: int) -> float:
    return 1.0


def linear(step: int, *, steps: int) -> float:
    return max(0.0, (steps - step) / max(1, steps))


def cosine(step: int, *, steps: int, cycles: float, least: float = 0.0) -> float:
    factor = 0.5 * (1 + math.cos(math.pi * cycles * 2 * (step / max(1, steps))))
    return max(0.0, factor * (1 - least) + least)


def cosine_with_restarts(step: int, *, steps: int, cycles: int) -> float:
    progress = step / max(1, steps)
    return 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1))) if progress < 1 else 0.0


def polynomial(step: int, *, steps: int, lr: float, lr_end: float, power: float) -> float:
    if step > steps:
        return lr_end / lr
    return ((lr - lr_end) * (1 - step / max(1, steps)) ** power + lr_end) / lr


def inverse_sqrt(step: int, *, timescale: int) -> float:
    return 1 / math.sqrt((step + timescale) / timescale)


# Schedules


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The optimizer's rate throughout."""
    return LambdaLR(optimizer, constant, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """From 0 to the optimizer's rate in `num_warmup_steps`, and there it stays."""
    return with_warmup(optimizer, num_warmup_steps, last_epoch, constant)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Up to the optimizer's rate in `num_warmup_steps`, and down to 0 at `num_training_steps`: BERT's."""
    return with_warmup(optimizer, num_warmup_steps, last_epoch, linear, steps=num_training_steps - num_warmup_steps)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaLR:
    """Up, and down along a cosine, of which the rest of the run is `num_cycles` waves: a half goes to 0 (GPT-3's)."""
    steps = num_training_steps - num_warmup_steps
    return with_warmup(optimizer, num_warmup_steps, last_epoch, cosine, steps=steps, cycles=num_cycles)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """Up, and `num_cycles` times down half a cosine to 0, each time from the top (SGDR, arXiv 1608.03983)."""
    steps = num_training_steps - num_warmup_steps
    return with_warmup(optimizer, num_warmup_steps, last_epoch, cosine_with_restarts, steps=steps, cycles=num_cycles)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Up, and down to the rate `lr_end` by a power of what is left. The optimizer's default rate is the top."""
    lr = optimizer.defaults["lr"]
    if not lr > lr_end:
        raise ValueError(f"lr_end is {lr_end}, which must be smaller than the optimizer's lr, {lr}")
    steps = num_training_steps - num_warmup_steps
    return with_warmup(
        optimizer, num_warmup_steps, last_epoch, polynomial, steps=steps, lr=lr, lr_end=lr_end, power=power
    )


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Up, and down as 1 / sqrt(1 + t / timescale). The timescale is the warmup's length, or 10000 without one."""
    timescale = timescale if timescale is not None else num_warmup_steps or 10_000
    return with_warmup(optimizer, num_warmup_steps, last_epoch, inverse_sqrt, timescale=timescale)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """As the cosine schedule, but down to the rate `min_lr`, or to `min_lr_rate` times the optimizer's."""
    least = least_factor(optimizer, min_lr, min_lr_rate)
    steps = num_training_steps - num_warmup_steps
    return with_warmup(optimizer, num_warmup_steps, last_epoch, cosine, steps=steps, cycles=num_cycles, least=least)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """The same, one step ahead, so that no step is spent at the rate 0.

    The warmup begins at `warmup_lr_rate` times the optimizer's rate; without one, at its first step.
    """
    least, steps = least_factor(optimizer, min_lr, min_lr_rate), num_training_steps - num_warmup_steps
    factor = partial(
        one_step_ahead,
        warmup=num_warmup_steps,
        first=warmup_lr_rate,
        after=partial(cosine, steps=steps, cycles=num_cycles, least=least),
    )
    return LambdaLR(optimizer, factor, last_epoch)


def one_step_ahead(step: int, *, warmup: int, first: float | None, after: Callable[[int], float]) -> float:
    if step >= warmup:
        return after(step - warmup + 1)
    if first is None:
        return (step + 1) / max(1, warmup)
    return first + (1 - first) * step / max(1, warmup - 1)


def least_factor(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(f"give one of min_lr and min_lr_rate; they are {min_lr} and {min_lr_rate}")
    return min_lr_rate if min_lr is None else min_lr / optimizer.defaults["lr"]


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warmup, a stable stretch, decay (arXiv 2404.06395), from and to `min_lr_ratio` times the optimizer's rate.

    Args:
        optimizer, last_epoch: as everywhere.
        num_warmup_steps, num_stable_steps, num_decay_steps: the length of each stretch.
        num_training_steps: in place of `num_stable_steps`, which then is what the others leave of it. Where both are
            given, `num_stable_steps` holds.
        warmup_type, decay_type: linear, cosine, or 1-sqrt: 1 - sqrt(1 - t) up and 1 - sqrt(t) down.
        min_lr_ratio: the least factor.
        num_cycles: waves of the cosine in the decay.
    """
    if num_training_steps is None and num_stable_steps is None:
        raise ValueError("give num_training_steps or num_stable_steps: it is not known when the decay begins")
    for name, shape in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if shape not in SHAPES:
            raise ValueError(f"{name} is {shape!r}, expected one of {', '.join(SHAPES)}")
    if num_stable_steps is None:
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    factor = partial(
        warmup_stable_decay,
        warmup=num_warmup_steps,
        stable=num_stable_steps,
        decay=num_decay_steps,
        up=warmup_type,
        down=decay_type,
        least=min_lr_ratio,
        cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def warmup_stable_decay(
    step: int, *, warmup: int, stable: int, decay: int, up: str, down: str, least: float, cycles: float
) -> float:
    if warmup <= step < warmup + stable:
        return 1.0
    if step >= warmup + stable + decay:
        return least
    if step < warmup:
        t = step / max(1, warmup)
        factor = {"linear": t, "cosine": 0.5 * (1 - math.cos(math.pi * t)), "1-sqrt": 1 - math.sqrt(1 - t)}[up]
    else:
        t = (step - warmup - stable) / max(1, decay)
        wave = 0.5 * (1 + math.cos(math.pi * cycles * 2 * t))
        factor = {"linear": 1 - t, "cosine": wave, "1-sqrt": 1 - math.sqrt(t)}[down]
    return max(0.0, factor * (1 - least) + least)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceLROnPlateau:
    """Torch's `ReduceLROnPlateau`, whose arguments these are: less when a metric no longer improves."""
    return ReduceLROnPlateau(optimizer, **kwargs)


def get_greedy_schedule(optimizer: Optimizer, **kwargs: Any) -> GreedyLR:
    """`GreedyLR`, whose arguments these are: more while a metric improves, less when it no longer does."""
    return GreedyLR(optimizer, **kwargs)


SCHEDULES: dict[SchedulerType, Callable[..., LRScheduler | GreedyLR]] = {
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: get_reduce_on_plateau_schedule,
    SchedulerType.COSINE_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    SchedulerType.WARMUP_STABLE_DECAY: get_wsd_schedule,
    SchedulerType.GREEDY: get_greedy_schedule,
}
