"""Low precision is judged by the reference's own error: how far either side is from the reference in float32."""

import torch

from minihf.inspection.batches import MASKS, cast, make_batch, reference_batch
from minihf.inspection.compare import error, larger, run
from minihf.inspection.pairs import Pair


def half_precision_errors(
    pair: Pair, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, tuple[float, float]]:
    """Output or parameter -> (our error, the reference's error) in a half-precision dtype, forward and backward.

    Each is the largest over all kinds of mask: a loss is one number, and one number may be right by luck. One rounding
    is granted to the reference for the same reason.
    """
    errors: dict[str, tuple[float, float]] = {}
    for kind in MASKS:
        batch = make_batch(pair.ours, pair.task, kind)
        others = reference_batch(batch, pair.task, positions=pair.positions_from_mask)
        pair.to(torch.float32, device)
        exact = run(pair.theirs, cast(others, torch.float32, device))
        pair.to(dtype, device)
        ours = run(pair.ours, cast(batch, dtype, device))
        theirs = run(pair.theirs, cast(others, dtype, device))
        for part in ("outputs", "gradients"):
            mine, reference = getattr(ours, part), getattr(theirs, part)
            for name, truth in getattr(exact, part).items():
                mine_so_far, reference_so_far = errors.get(name, (0.0, torch.finfo(dtype).eps))
                errors[name] = (
                    larger(mine_so_far, error(mine[name], truth)),
                    larger(reference_so_far, error(reference[name], truth)),
                )
    worst = max(errors[name][1] for name in exact.outputs)
    return {name: (ours, worst if name.endswith("loss") else theirs) for name, (ours, theirs) in errors.items()}
