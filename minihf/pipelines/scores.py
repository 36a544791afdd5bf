"""A model's logits, as the tasks read them."""

import numpy as np
from torch import Tensor


def to_numpy(x: Tensor) -> np.ndarray:
    """On the CPU; of half precision, which NumPy has less of, in float32."""
    return (x.float() if x.dtype.itemsize < 4 else x).cpu().numpy()


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
