"""The rows of `bench.py train`. The optimizer's reference is torch's own, in each of its ways."""

from functools import partial
from pathlib import Path

from bench_generate import gpt2
from bench_row import Job, Row

WAYS = {"default": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def rows(quick: bool) -> list[Row]:
    size = (2, 32, 2, 96) if quick else (12, 768, 12, 50257)
    return [
        Row(
            f"AdamW, GPT-2 small's parameters; torch's {way}",
            partial(adamw, size=size, way=way),
            unit="step",
            goal=0.5 if way == "default" else None,
        )
        for way in WAYS
    ] + [
        Row(
            "AdamW(fused=True), the same; torch's fused",
            partial(adamw, size=size, way="fused", ours={"fused": True}),
            unit="step",
        )
    ]


def adamw(library: str, folder: Path, size: tuple[int, ...], way: str, ours: dict[str, bool] | None = None) -> Job:
    """A step, its gradients being there."""
    import torch

    from minihf import AdamW

    torch.manual_seed(0)
    params = list(gpt2(*size).parameters())
    for p in params:
        p.grad = torch.randn_like(p)
    settings = {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2}
    if library == "minihf":
        optimizer = AdamW(params, **settings, **(ours or {}))
    else:
        optimizer = torch.optim.AdamW(params, **settings, **WAYS[way])
    before = [p.detach().flatten()[:99].clone() for p in params]

    def moved(_: None) -> torch.Tensor:
        """In units of lr, of some numbers of each parameter."""
        return torch.cat([(p.detach().flatten()[:99] - old) / 1e-3 for p, old in zip(params, before, strict=True)])

    return Job(optimizer.step, moved)
