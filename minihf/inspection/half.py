"""Low precision is judged by the reference's own error: how far either side is from the reference in float32."""

import torch

from minihf.inspection.batches import MASKS, cast, make_batch, reference_batch
from minihf.inspection.compare import error, run
from minihf.inspection.pairs import Pair


def half_precision_errors(
    pair: Pair, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, tuple[float, float]]:
    """Output or parameter -> (our error, the reference's error) in a half-precision dtype, forward and backward.

    Each is the mean over all kinds of mask and several batches, with one rounding granted to the reference in each: a
    loss is one number, and one number may be right by luck.
    """
    errors: dict[str, tuple[float, float]] = {}
    samples = [(kind, seed) for kind in MASKS for seed in range(3)]
    for kind, seed in samples:
        batch = make_batch(pair.ours, pair.task, kind, seed)
        others = reference_batch(batch, pair.task, positions=pair.positions_from_mask)
        pair.to(torch.float32, device)
        exact = run(pair.theirs, cast(others, torch.float32, device))
        pair.to(dtype, device)
        ours = run(pair.ours, cast(batch, dtype, device))
        theirs = run(pair.theirs, cast(others, dtype, device))
        for part in ("outputs", "gradients"):
            mine, reference = getattr(ours, part), getattr(theirs, part)
            for name, truth in getattr(exact, part).items():
                so_far = errors.get(name, (0.0, 0.0))
                granted = max(error(reference[name], truth), torch.finfo(dtype).eps)
                errors[name] = so_far[0] + error(mine[name], truth), so_far[1] + granted
    return {name: (a / len(samples), b / len(samples)) for name, (a, b) in errors.items()}
