"""Where do two models first differ? Both have the same module paths, so the answer is a path.

Every module that both sides call is listened to, in the order of execution. The first whose output differs is where the
formula is wrong; where all outputs agree, the first on the way back whose gradient differs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minihf.inspection.compare import KeepDouble, Result, error, flatten, keep, objective, real_tokens


@dataclass
class Heard:
    """What one side's modules gave, by path, in order of execution."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]


def listen(model: nn.Module, batch: dict[str, Tensor], *, train: bool = False, seed: int = 7) -> Heard:
    """Run forward and backward, and keep the first output of each module, and the gradient that reached it."""
    heard = Heard({}, {})
    sides = [real for real in (real_tokens(batch), real_tokens(batch, "decoder_")) if real is not None]

    def hook(path: str) -> Callable:
        def hear(module, args, output):
            x = first_tensor(output)
            if x is None or path in heard.outputs:
                return
            # A copy: what comes after may change it in place.
            heard.outputs[path] = x.detach().clone()
            for real in sides:
                heard.outputs[path] = keep(heard.outputs[path], real)
            if x.requires_grad:
                x.register_hook(lambda gradient: heard.gradients.setdefault(path, gradient))

        return hear

    # A dropout that does nothing only passes on what another module gave.
    heeded = ((path, m) for path, m in model.named_modules() if path and (train or not isinstance(m, nn.Dropout)))
    handles = [module.register_forward_hook(hook(path)) for path, module in heeded]
    try:
        model.train(train)
        model.zero_grad()
        torch.manual_seed(seed)
        with KeepDouble():
            result = Result(flatten(model(**batch), batch))
            objective(result.outputs).backward()
    finally:
        for handle in handles:
            handle.remove()
    return heard


def first_tensor(output) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((x for x in output if isinstance(x, Tensor)), None)
    return None  # a whole model's output: its parts have been heard


def first_difference(ours: Heard, theirs: Heard, tolerance: float) -> str | None:
    """One sentence that names the path, or None where everything that both sides called agrees."""
    for kind, order in (("output", ours.outputs), ("gradient", ours.gradients)):
        mine, others = (getattr(side, kind + "s") for side in (ours, theirs))
        for path in order:
            if path in others and mine[path].shape == others[path].shape:
                difference = error(mine[path], others[path])
                if not difference <= tolerance:
                    return f"the {kind} of {path} is the first to differ, by {difference:.1e}"
    return None
