"""One token through a model as a tape: the operators of one step, called again without the Python that led to them.

To write a token, a GPT-2 of 4 layers calls a hundred of PyTorch's operators. Half of them only make views, and to come
from one to the next takes Python longer than most of them take. A CUDA graph would replay the kernels
(`minihf.fast.graphs`); here the calls are noted, once, with the tensors that they had. Over a `SteadyCache` nothing
moves, so that for the next token these are the same calls with the same tensors:

    q.transpose(1, 2)               a view of memory that stays: nothing is left to do
    keys.index_copy_(2, place, k)   writes where it is told to: again
    F.linear(x, weight, bias)       makes a tensor: again, and into the one that it made
    x.new_full((1, 1), 0.5)         takes nothing from other tensors: it is as it was

What Python decided while it was recorded is decided for good; so a step may be recorded only if it has nothing to
decide (`taped`). Where its weights lie is decided, too: they may be written to between two tokens of a stream, by an
optimizer or `load_state_dict` (if they are not packed: `minihf.fast.prepacked`), but others put in their place
(`p.data = ...`) are seen by the next tape at the earliest. The model itself is the oracle: both give the same numbers,
bit for bit. (One thing may come between: on AMD's processors, MKL sums in another order where a matrix begins elsewhere
in a cache line, and so does attention whose heads are no multiple of 16 wide.)
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # private, and PyTorch's own way to see each operator

from minihf.fast.graphs import is_ours, is_recordable

STEPS = 32  # of a text that repays the recording
# Called by these names, operators take half the time of `torch.ops.aten`, and the first ones write where they are told.
INTO = {
    name: getattr(torch, name)
    for name in (
        "add", "sub", "mul", "div", "neg", "pow", "sqrt", "rsqrt", "cos", "sin", "tanh", "sigmoid", "clamp", "softmax",
        "addcmul", "mm", "bmm", "matmul", "addmm", "baddbmm", "cat", "index_select",
    )
}  # fmt: skip
NAMED = INTO | {
    "linear": F.linear,
    "gelu": F.gelu,
    "layer_norm": torch.layer_norm,
    "embedding": torch.embedding,
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "copy_": Tensor.copy_,
    "index_copy_": Tensor.index_copy_,
    "mul_": Tensor.mul_,
    "rsqrt_": Tensor.rsqrt_,
    "silu_": partial(F.silu, inplace=True),
}


class Tape:
    """A function without arguments, from the third call on without its Python.

    The first call is the function's own: what a model makes at first use is not part of a step. The second is recorded.

    Args:
        once: reads and writes tensors that stay, and gives a tensor. Called twice, it does the same twice. Where it
            asks for a tensor's values (`x.item()`, `x[x > 0]`), it is not recorded, and called each time; but what
            `x.tolist()` and `x.numpy()` tell is heard by no operator.
    """

    def __init__(self, once: Callable[[], Tensor]):
        self.once: Callable[[], Tensor] | None = once
        self.calls: list[Callable[[], Any]] = []
        self.result: Tensor | None = None
        self.times = 0

    def __call__(self) -> Tensor:
        if self.once is not None:
            self.times += 1
            return self.recorded() if self.times == 2 else self.once()
        for call in self.calls:
            call()
        return self.result

    def recorded(self) -> Tensor:
        with Recording() as recording:
            result = self.once()
        if not any(asks(call) for call in recording.calls):
            self.calls, self.result, self.once = again(recording.calls), result, None
        return result


class Call(NamedTuple):
    operator: Any
    args: tuple
    kwargs: dict[str, Any]
    result: Any


class Recording(TorchDispatchMode):
    """While it is entered, notes each operator with what it was given and what it gave."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would load its compiler, to tell it to keep away: longer than to write a thousand tokens."""
        return False

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        self.calls.append(Call(operator, args, kwargs, result))
        return result


class Nature(NamedTuple):
    """Of an operator: whether it writes to what it is given, tells Python what that holds, or gives the same always."""

    name: str
    writes: bool
    tells: bool
    steady: bool


@cache
def nature_of(operator: Any) -> Nature:
    name = operator._schema.name.removeprefix("aten::")
    gives, takes = ([str(each.type) for each in x] for x in (operator._schema.returns, operator._schema.arguments))
    reads = any("Tensor" in each for each in takes)
    tells = torch.Tag.dynamic_output_shape in operator.tags or (reads and not all("Tensor" in each for each in gives))
    # `x.new_full` is given a tensor, and looks at its type alone.
    steady = (name.startswith("new_") or not reads) and torch.Tag.nondeterministic_seeded not in operator.tags
    return Nature(name, operator._schema.is_mutable, tells, steady)


def asks(call: Call) -> bool:
    """Whether what comes after it may be something else the next time."""
    nature = nature_of(call.operator)
    if nature.name == "index":  # x[True where ...] has as many rows as it finds; x[[2, 0]] has two
        return any(each.dtype == torch.bool for each in tensors(call.args))
    return nature.tells


def again(calls: list[Call]) -> list[Callable[[], Any]]:
    """What there is to do, when the same calls come again."""
    given = [memory([*call.args, *call.kwargs.values()]) for call in calls]
    written = set().union(*(own for call, own in zip(calls, given, strict=True) if nature_of(call.operator).writes))
    left: list[Callable[[], Any]] = []
    for (operator, args, kwargs, result), own in zip(calls, given, strict=True):
        nature, made = nature_of(operator), memory([result])
        call = partial(NAMED.get(nature.name, operator), *args, **kwargs)
        if nature.writes:
            left.append(call)
        elif made <= own or (nature.steady and not made & written):
            continue
        elif nature.name == "linear" and args[0].is_contiguous():
            left.append(product(*args, into=result))
        elif nature.name == "embedding" and args[1].is_contiguous():
            left.append(looked_up(*args[:2], into=result))
        elif nature.name == "roll" and len(args[1]) == len(args[2]) == 1:
            left += turned(*args, into=result)
        elif nature.name in INTO:
            left.append(partial(call, out=result))
        elif isinstance(result, Tensor):
            left.append(refilled(result, call))
        else:
            left.append(partial(refill_each, tensors([result]), call))
    return left


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, into: Tensor) -> Callable[[], Any]:
    """As `F.linear` comes to it: told where to write, that itself would add the bias later."""
    x, into = x.view(-1, x.size(-1)), into.view(-1, into.size(-1))  # (B, 1, C) -> (B, C)
    if bias is None:
        return partial(torch.mm, x, weight.t(), out=into)
    return partial(torch.addmm, bias, x, weight.t(), out=into)


def looked_up(table: Tensor, ids: Tensor, *, into: Tensor) -> Callable[[], Any]:
    """The rows, as `F.embedding` gives them, which cannot be told where to write."""
    return partial(torch.index_select, table, 0, ids.view(-1), out=into.view(-1, into.size(-1)))


def turned(x: Tensor, shifts: list[int], dims: list[int], into: Tensor) -> list[Callable[[], Any]]:
    """As `torch.roll` does it, the end before the beginning. Itself, it took a small Llama 0.06 of a token's time."""
    size, dim = x.size(dims[0]), dims[0]
    end = shifts[0] % size
    beginning, ending = x.split([size - end, end], dim)
    first, second = into.split([end, size - end], dim)
    return [partial(first.copy_, ending), partial(second.copy_, beginning)]


def refilled(old: Tensor, call: Callable[[], Tensor]) -> Callable[[], Any]:
    refill = old.copy_
    return lambda: refill(call())


def refill_each(old: list[Tensor], call: Callable[[], Any]) -> None:
    for x, new in zip(old, tensors([call()]), strict=True):
        x.copy_(new)


def tensors(values: list | tuple) -> list[Tensor]:
    """Also those of lists among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value)
    return found


def memory(values: list | tuple) -> set[int]:
    """The storages in which tensors lie. Packed weights have none that PyTorch knows of."""
    return {x.untyped_storage().data_ptr() for x in tensors(values) if x.layout == torch.strided}


def taped(model: nn.Module, device: torch.device, steps: int) -> bool:
    """Whether `generate` makes a tape of the step in which a token is read.

    On a CPU, of enough tokens to repay it, if it can be recorded (`is_recordable`), all modules are ours, and attention
    is one operator. A step is told its position, or asks the cache, as BART's does; but RoBERTa's counts the ids.
    """
    fit = device.type == "cpu" and steps >= STEPS and is_recordable(model, device) and is_ours(model)
    return fit and model.config.attn_implementation == "sdpa" and not model.first_position
