"""What a row of the benchmark is, and what many of them do."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    floor: Callable[[], float] | None = None
    """Measures the seconds that one unit takes at least, as the machine's memory allows; while nobody else works."""


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
    peer: str | None = None
    """A third library that does the work, timed beside where it is installed."""
    floor_goal: float | None = None
    """Which part of the time, at least, is to be what the memory allows."""
    memory_goal: float | None = None
    """How much memory minihf's first run may add, as a multiple of the checkpoint's file."""


COMMANDS = {"minihf": "minihf.cli", "transformers": "transformers.cli.transformers"}


def fresh_python(library: str, folder: Path, code: str) -> Job:
    """The start of the interpreter is part of it, on both sides."""
    code = code.format(library=library, command=COMMANDS[library])
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    run = partial(subprocess.run, [sys.executable, "-c", code, "--help", str(folder)], check=True, **silent)
    return Job(run, lambda done: None, in_child=True)


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = work()
    spent = time.perf_counter() - start
    del result
    return spent
