"""Gradient checkpointing: a layer forgets what it computed, and computes it again when the backward needs it.

Memory for activations then grows with one layer, not with all; time grows by about a third (Chen et al., arXiv
1604.06174). The layers are those whose inputs are the hidden states that a model can record.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minihf.models.recording import modules_at

if TYPE_CHECKING:
    from minihf.models.base import Model


@dataclass
class Recomputed:
    """Stands in the place of a layer's forward. An object, not a closure: it is copied with its layer."""

    layer: nn.Module
    forward: Callable
    settings: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.layer.training and torch.is_grad_enabled()):
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, **self.settings, **kwargs)


def recompute_layers(model: "Model", settings: dict[str, Any]) -> None:
    """Of a model's base, every layer, or with `every_n_layers` the first of so many.

    The other `settings` are those of `torch.utils.checkpoint.checkpoint`.
    """
    settings = {"every_n_layers": 1, "use_reentrant": False, **settings}
    step = settings.pop("every_n_layers")
    if type(step) is not int or step < 1:
        raise ValueError(f"every_n_layers={step!r}: expected a positive integer")
    if settings.pop("offload", False):
        raise ValueError("offload=True is not implemented: what is kept stays on the device")
    allowed = inspect.signature(checkpoint).parameters.keys() - {"function", "args", "kwargs"}
    if unknown := settings.keys() - allowed:
        raise TypeError(f"torch.utils.checkpoint has no {', '.join(unknown)}; it has {', '.join(sorted(allowed))}")
    keep_activations(model)
    for layer in layers(model)[::step]:
        layer.forward = Recomputed(layer, layer.forward, settings)


def keep_activations(model: "Model") -> None:
    """The layers' own forward again."""
    for layer in layers(model):
        if isinstance(vars(layer).get("forward"), Recomputed):
            del layer.forward


def layers(model: "Model") -> list[nn.Module]:
    base = model.base_model
    paths = [path for kind, path in base.recorded.items() if kind.endswith("hidden_states")]
    return [layer for path in paths for layer in modules_at(base, path)]


def is_recomputing(model: "Model") -> bool:
    return any(isinstance(vars(layer).get("forward"), Recomputed) for layer in layers(model))
