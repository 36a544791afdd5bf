"""GreedyLR (arXiv 2512.14527): a rate that is tried higher while a metric improves, and lowered when it does not.

Arguments, arithmetic and `state_dict` are the reference's (release 5.23), so that either loads the other's.
"""

import math
from typing import Any

from torch.optim import Optimizer


class GreedyLR:
    """Sets the optimizer's rates by a metric, which each `step` is given.

    Args:
        optimizer: whose rates it sets.
        mode: "min", where less is better, or "max".
        factor: below 1. The rate is multiplied by it on a plateau, and divided by it after improvement.
        patience: how many steps in a row must have been better, or not better, before it acts on one more.
        threshold: how much better is better: by this much ("abs"), or by this part of the best ("rel").
        threshold_mode: "abs" or "rel".
        cooldown, warmup: steps that are not judged after the rate was lowered, and after it was raised.
        min_lr, max_lr: bounds of the rate, or a list of them, one for each group.
        eps: smaller changes are not made.
        verbose: must be False: read the rates by `get_last_lr()`.
        smooth: judge the mean of the last `window_size` metrics.
        window_size: for `smooth`.
        reset_start: after so many lowerings in vain, all rates being the least, everything begins anew.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | list[float] = 1e-3,
        max_lr: float | list[float] = 1.0,
        eps: float = 1e-8,
        verbose: bool = False,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ):
        if not factor < 1:
            raise ValueError(f"factor is {factor}, expected less than 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}, expected min or max")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode is {threshold_mode!r}, expected rel or abs")
        if verbose:
            raise ValueError("verbose=True prints, which this library does not; read the rates by get_last_lr()")
        self.optimizer = optimizer
        self.mode, self.factor, self.patience, self.eps, self.verbose = mode, factor, patience, eps, verbose
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.warmup = cooldown, warmup
        self.min_lrs, self.max_lrs = self.for_each_group("min_lr", min_lr), self.for_each_group("max_lr", max_lr)
        self.smooth, self.window_size, self.reset_start_original = smooth, window_size, reset_start
        self._init_lrs = self.rates()
        self._last_lr = self.rates()
        self.last_epoch = 0
        self.begin()

    def begin(self) -> None:
        """Nothing has been seen."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_bad_epochs = self.num_good_epochs = self.cooldown_counter = self.warmup_counter = 0
        self.reset_start = self.reset_start_original
        self.window: list[float] = []
        self.window_sum = 0.0

    def step(self, metrics: float, epoch: int | None = None) -> None:
        """Judge a metric, and set the rates. `epoch` is its number, where it is not simply the next."""
        current = self.smoothed(float(metrics)) if self.smooth else float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.cooldown_counter or self.warmup_counter:
            waiting = "cooldown_counter" if self.cooldown_counter else "warmup_counter"
            setattr(self, waiting, getattr(self, waiting) - 1)
            self.num_good_epochs = self.num_bad_epochs = 0
        elif self.is_better(current, self.best):
            self.best = current
            self.num_good_epochs, self.num_bad_epochs = self.num_good_epochs + 1, 0
        else:
            self.num_good_epochs, self.num_bad_epochs = 0, self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self.change(up=True)
            self.num_good_epochs, self.warmup_counter, self.reset_start = 0, self.warmup, self.reset_start_original
        elif self.num_bad_epochs > self.patience:
            self.change(up=False)
            if all(lr <= least for lr, least in zip(self.rates(), self.min_lrs, strict=True)):
                self.reset_start -= 1
                if self.reset_start <= 0:
                    self.begin()
                    self.set(self._init_lrs)
            self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown
        self._last_lr = self.rates()

    def is_better(self, current: float, best: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        bar = best + sign * self.threshold if self.threshold_mode == "abs" else best * (1 + sign * self.threshold)
        return current < bar if self.mode == "min" else current > bar

    def smoothed(self, metric: float) -> float:
        """The mean of the last `window_size` metrics, as a running sum."""
        self.window.append(metric)
        self.window_sum += metric
        if len(self.window) > self.window_size:
            self.window_sum -= self.window.pop(0)
        return self.window_sum / len(self.window)

    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def change(self, up: bool) -> None:
        """A step of each rate, within its bounds; a rate that is past a bound stays where it is."""
        for group, lr, least, most in zip(
            self.optimizer.param_groups, self.rates(), self.min_lrs, self.max_lrs, strict=True
        ):
            new = min(lr / self.factor, most) if up else max(lr * self.factor, least)
            if (new - lr if up else lr - new) > self.eps:
                group["lr"] = new

    def set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr

    def for_each_group(self, name: str, bound: float | list[float]) -> list[float]:
        groups = len(self.optimizer.param_groups)
        bounds = list(bound) if isinstance(bound, list | tuple) else [bound] * groups
        if len(bounds) != groups:
            raise ValueError(f"{name} has {len(bounds)} numbers, expected one for each of the {groups} groups")
        return bounds

    def get_last_lr(self) -> list[float]:
        """The rates that the last step set, one for each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, whose rates are in it all the same."""
        state = {name: value for name, value in vars(self).items() if name not in ("optimizer", "window", "window_sum")}
        if self.smooth:
            window = {"window_size": self.window_size, "values": list(self.window), "sum": self.window_sum}
            state["_streaming_avg"] = window
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the other was."""
        state = dict(state_dict)
        window = state.pop("_streaming_avg", {"values": [], "sum": 0.0})
        vars(self).update(state)
        self.window, self.window_sum = list(window["values"]), window["sum"]
        self.set(self._last_lr)
