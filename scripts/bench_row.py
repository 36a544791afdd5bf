"""What a row of the benchmark is, and the work that it does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a worker has prepared."""

    run: Callable[[], Any]
    """The work that is timed."""
    show: Callable[[Any], Any] = lambda result: result
    """From what `run` returns to a tensor that must be equal on both sides; None where there is nothing to compare."""
    before: Callable[[], Any] | None = None
    """A part of the work whose time is taken off: the reading of the prompt, where a token's time is asked for."""
    in_child: bool = False
    """The work happens in a process of its own, whose memory is the one to report."""


@dataclass(frozen=True)
class Row:
    name: str
    prepare: Callable[[str, Path], Job]
    """(library, folder of the checkpoint) -> what to time."""
    checkpoint: Callable[[], Any] | None = None
    """Makes the model, of minihf, that both sides load from the folder."""
    units: int = 1
    """How many of `unit` one run does; times are given for one."""
    unit: str = "run"
    goal: float | None = None
    """The ratio of times to reach."""
    memory_goal: float | None = None
    """How much memory minihf's first run may add, as a multiple of the checkpoint's file."""
