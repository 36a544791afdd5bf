"""Whether two answers are the same: type, keys and their order, text; numbers within float32's reach."""

from typing import Any

import numpy as np
import torch


def differences(ours: Any, theirs: Any, where: str = "answer", types: bool = True) -> list[str]:
    """What differs, in words; without `types` a stored answer, in which all numbers are Python's, is compared."""
    if types and type(ours) is not type(theirs):
        return [f"{where}: {type(ours).__name__} {ours!r}, expected {type(theirs).__name__} {theirs!r}"]
    if isinstance(theirs, dict):
        if list(ours) != list(theirs):
            return [f"{where}: keys {list(ours)}, expected {list(theirs)}"]
        return [d for key in theirs for d in differences(ours[key], theirs[key], f"{where}.{key}", types)]
    if isinstance(theirs, list | tuple):
        if not isinstance(ours, list | tuple) or len(ours) != len(theirs):
            return [f"{where}: {ours!r}, expected {theirs!r}"]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]", types)]
    if isinstance(theirs, torch.Tensor):
        same = ours.shape == theirs.shape and ours.dtype == theirs.dtype
        return [] if same and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5) else [f"{where}: another tensor"]
    if isinstance(theirs, float | np.floating):
        same = abs(ours - theirs) <= 1e-5 * max(1, abs(theirs))
        return [] if same else [f"{where}: {ours}, expected {theirs}"]
    return [] if ours == theirs else [f"{where}: {ours!r}, expected {theirs!r}"]
