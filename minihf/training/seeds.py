"""Seeds, and the random states that a run must find again to go on as if it had never stopped."""

import base64
import os
import random
from typing import Any

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices.

    Args:
        deterministic: also refuse operations whose result is not the same each time.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed everything, and have torch use the same algorithms each time; slower on a GPU."""
    set_seed(seed)
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def cpu_random_state() -> tuple[Any, ...]:
    """What Python, NumPy and torch on the CPU would draw next: examples are read and collated with these."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_cpu_random_state(state: tuple[Any, ...]) -> None:
    python, numpy, cpu = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)


def packed_state(state: tuple[Any, ...]) -> list[Any]:
    """A random state as JSON has it."""
    (version, words, gauss), (kind, keys, *rest), cpu = state
    python = [version, text(np.array(words, np.uint32)), gauss]
    return [python, [kind, text(keys), *rest], text(cpu.numpy())]


def unpacked_state(packed: list[Any]) -> tuple[Any, ...]:
    (version, words, gauss), (kind, keys, *rest), cpu = packed
    words, keys, cpu = array(words, np.uint32), array(keys, np.uint32), array(cpu, np.uint8)
    return (version, tuple(words.tolist()), gauss), (kind, keys, *rest), torch.from_numpy(cpu)


def text(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def array(packed: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), dtype).copy()
