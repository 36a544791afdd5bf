"""Which parameters decay: matrices and embeddings do; biases and norms do not, as in the reference's Trainer (5.23)."""

import re
from typing import Any

from torch import nn

# A norm is known by its class where that is LayerNorm, and by its name otherwise: RMSNorm, T5's, and people's own.
EXEMPT = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decay_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay falls on; tied ones by each of their names, frozen ones too."""
    norms = tuple(
        f"{name}."
        for name, module in model.named_modules(remove_duplicate=False)
        if name and isinstance(module, nn.LayerNorm)
    )
    return [
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if not name.startswith(norms) and not EXEMPT.search(name.lower())
    ]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for the optimizer: what decays and what does not. Frozen parameters are in neither.

    Both are there even when empty, and in the reference's order, so that its optimizer states fit.
    """
    decaying = set(decay_parameters(model))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in trained if name in decaying], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if name not in decaying], "weight_decay": 0.0},
    ]
