"""AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101): Adam's step, and the decay of the weights apart from it.

`update` is the paper's algorithm 2, and all the arithmetic there is. It is given a whole tensor or a part of one: no
number depends on its neighbours. On the CPU `step` goes through each parameter in blocks that stay in the cache while
`update` reads them seven times over; tensor by tensor, each of those times would be a journey to memory and back.
Blocks change no bit of the results.

The moments are those of `torch.optim.AdamW(foreach=False)` to the last bit. The parameters differ from torch's by
rounding: it divides the root of the second moment by that of 1 - beta2^t, and `update` multiplies by the inverse, which
saves a kernel.
"""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

# Numbers of each tensor, for each thread. Five tensors' blocks, in float32, are 1.3 MB: about a core's own cache.
BLOCK = 2**16
FUSED = ("cpu", "cuda", "mps", "xpu")  # where torch has a fused kernel
ABSENT = {"correct_bias": True, "amsgrad": False, "maximize": False, "fused": False}  # from torch's or older states


class AdamW(Optimizer):
    """Adam with decoupled weight decay. Name, arguments and defaults are those of old releases of `transformers`.

    With equal settings a step is `torch.optim.AdamW`'s, whose defaults are others: `eps=1e-8, weight_decay=1e-2`.
    `state_dict()` is exchangeable with torch's, in both directions (torch does not know `correct_bias=False`).
    The old class (4.51 has it no more) added `eps` before the bias was corrected, so that it weighed more in the first
    steps, as eps / sqrt(1 - beta2^t) does here; and the weights decayed after the step instead of before it.

    Args:
        params: parameters, or groups of them: dicts with "params" and settings that differ (see `parameter_groups`).
        lr: the learning rate.
        betas: how much of the two running averages is kept at each step.
        eps: is added to the denominator, after the bias is corrected.
        weight_decay: the part of each weight, times lr, that is taken off at each step.
        correct_bias: divide the averages by what they lack, as they begin at zero. False, as in BERT's own code.
        no_deprecation_warning: accepted, as the old class did; there is no warning.
        amsgrad: the largest second moment so far stands in for the last one (Reddi et al., 2018).
        maximize: go up instead of down.
        fused: torch's fused kernel does the step where there is one, if the bias is corrected. Equal up to rounding.
            On a GPU ask for it: the plain step starts seven kernels for each tensor.

    Raises:
        TypeError, ValueError: a setting is no number, or out of range.
        RuntimeError: a gradient is sparse or complex.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        no_deprecation_warning: bool = False,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        fused: bool = False,
    ):
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
            | {"amsgrad": amsgrad, "maximize": maximize, "fused": fused},
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Also what each group of the constructor goes through."""
        check_settings(self.defaults | param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for every parameter that has a gradient. Returns what `closure` does, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state_of(p, group) for p in params]
            beta1, beta2 = group["betas"]
            settings = {name: group[name] for name in ("eps", "weight_decay", "maximize")}
            settings |= {"lr": float(group["lr"]), "beta1": beta1, "beta2": beta2}
            moments = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
            tensors = [
                tuple(map(own_part, (p, p.grad, *(state[name] for name in moments))))
                for p, state in zip(params, states, strict=True)
            ]
            if params and group["fused"] and group["correct_bias"] and all(map(has_kernel, tensors)):
                lists = [*map(list, zip(*tensors, strict=True)), *([[]] if len(moments) == 2 else [])]
                steps = [state["step"] for state in states]
                adamw(*lists, steps, fused=True, amsgrad=group["amsgrad"], **settings)
                continue
            settings["eps"] = torch.tensor(group["eps"], dtype=torch.float64, device="cpu")
            for one, state in zip(tensors, states, strict=True):
                state["step"] += 1
                t = state["step"].item()
                c1, c2 = (1 - beta1**t, 1 - beta2**t) if group["correct_bias"] else (1.0, 1.0)
                for block in blocks(*one):
                    update(*block, c1=c1, c2=c2, **settings)
        return loss

    def state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of a parameter, begun with its first gradient; `step` lies where torch keeps it."""
        if p.grad.layout != torch.strided or p.is_complex():
            kind = f"{p.dtype} and {p.grad.layout}"
            raise RuntimeError(f"AdamW needs real and dense gradients, got {kind}; for sparse ones: SparseAdam")
        state = self.state[p]
        if not state:
            double = torch.get_default_dtype() == torch.float64 and not group["fused"]
            state["step"] = torch.zeros(
                (), dtype=torch.float64 if double else torch.float32, device=p.device if group["fused"] else "cpu"
            )
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(p)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also where a loaded state comes in: torch's, which lacks names, or the old class's, which counts in ints."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in ABSENT.items():
                group.setdefault(name, value)
        for one in self.state.values():
            if "step" in one and not isinstance(one["step"], Tensor):
                one["step"] = torch.tensor(float(one["step"]), device="cpu")


def update(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    largest_v: Tensor | None = None,
    *,
    c1: float,
    c2: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: Tensor,
    weight_decay: float,
    maximize: bool,
) -> None:
    """A step of the parameters p, whose gradient is g, in place. c1 and c2 are 1 - beta^t, which correct the bias."""
    g = -g if maximize else g
    m.lerp_(g, 1 - beta1)  # m = beta1 m + (1 - beta1) g
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)  # v = beta2 v + (1 - beta2) g²
    if largest_v is not None:
        v = torch.maximum(largest_v, v, out=largest_v)
    root = v.sqrt()
    # A sum takes a factor for what it adds: so eps, a tensor of one number, comes first.
    denominator = torch.add(eps, root, alpha=c2**-0.5, out=root)
    if weight_decay:
        p.mul_(1 - lr * weight_decay)
    p.addcdiv_(m, denominator, value=-lr / c1)  # p -= lr (m / c1) / (sqrt(v / c2) + eps)


def own_part(tensor: Tensor) -> Tensor:
    """Of a tensor that is sharded over processes, this one's part, in place: a step needs no other."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def blocks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Tensors of one shape, in parts that belong together; in one part where they do not lie in memory in one row."""
    if tensors[0].device.type != "cpu" or not all(x.is_contiguous() for x in tensors):
        return [tensors]
    return zip(*(x.view(-1).split(BLOCK * torch.get_num_threads()) for x in tensors), strict=True)


def has_kernel(tensors: tuple[Tensor, ...]) -> bool:
    """Torch's fused kernel for the CPU goes by the order in memory: a gradient that lies otherwise, it misreads."""
    return tensors[0].device.type in FUSED and len({x.stride() for x in tensors}) == 1


def check_settings(group: dict[str, Any]) -> None:
    """Settings that would not fail but quietly train nothing, or diverge."""
    for name in ("lr", "eps", "weight_decay"):
        if not isinstance(group[name], Real | Tensor):  # YAML reads 5e-5 as a text
            raise TypeError(f"{name} is {group[name]!r}, expected a number")
        if not group[name] >= 0:
            raise ValueError(f"{name} is {group[name]}, expected a number that is not negative")
    betas = group["betas"]
    if isinstance(betas, Real) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas is {betas}, expected two numbers from 0 up to, but not including, 1")
