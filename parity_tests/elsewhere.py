"""A device that no machine has: its tensors lie in the CPU's memory, and say that they lie elsewhere.

Two things that go wrong on a GPU can be seen without one. A tensor that was made on the CPU meets one of the GPU's:
here, too, that is an error. And Python asks for a value, for which the GPU must first finish all that was asked of it:
here, that is counted. The numbers are the CPU's own. What a GPU's kernels do with them is for `test_cuda.py`.

The device has a name in PyTorch ("privateuse1", for hardware that is not PyTorch's), and no kernels. Its tensors wrap
one of the CPU's, on which each operator runs.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if torch.cuda.is_available():
    raise ImportError("PyTorch knows one accelerator at a time, and this machine has a GPU")
if not hasattr(torch._C, "_acc"):
    raise ImportError(f"a device without C++ takes a newer PyTorch than {torch.__version__}")
torch.utils.rename_privateuse1_backend("elsewhere")
DEVICE = torch.device("elsewhere:0")
# What gives a value, or a shape that depends on values. (And whatever goes to the CPU: see `answer`.)
QUESTIONS = {"_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount"}
QUESTIONS |= {"_unique2", "unique_dim", "unique_consecutive"}
QUESTIONS |= {"repeat_interleave.Tensor", "repeat_interleave.self_Tensor"}


class Nowhere:
    """`torch.elsewhere`, for who asks whether the machine has such a device: it has not."""

    is_initialized = is_available = _is_in_bad_fork = staticmethod(lambda: False)
    device_count = current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


class Hooks(torch._C._acc.PrivateUse1Hooks):
    """The same, for who asks in C++."""

    def is_available(self) -> bool:
        return False

    def is_built(self) -> bool:
        return False

    def has_primary_context(self, index: int) -> bool:
        return True


class Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


class Elsewhere(Tensor):
    """`here`, as a tensor of the device: the same numbers, the same memory."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        with torch.inference_mode(here.is_inference()):
            layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
            self = Tensor._make_wrapper_subclass(cls, here.shape, **layout, device=DEVICE)
        self.here = here
        return self

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return answer(operator, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Elsewhere({self.here})"

    def tolist(self) -> Any:  # these two are not asked of operators
        Watch.asked("tolist")
        return self.here.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy: copy it to the CPU first")


class Watch(TorchDispatchMode):
    """Around code that makes tensors on the device. `questions` counts what was asked for there."""

    last: "Watch | None" = None

    def __enter__(self) -> "Watch":
        self.questions: Counter[str] = Counter()
        self.outer, Watch.last = Watch.last, self
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        Watch.last = self.outer
        return super().__exit__(*raised)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return answer(operator, args, kwargs or {})

    @staticmethod
    def asked(what: str) -> None:
        if Watch.last is not None:
            Watch.last.questions[what] += 1


def answer(operator: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run it on the CPU; what it makes is on the device if it was asked to be, or if what it takes is."""
    given = tree_leaves((args, kwargs))
    wrapped = {id(x.here): x for x in given if isinstance(x, Elsewhere)}
    asked = [torch.device(x) for x in given if isinstance(x, torch.device)]
    name = operator.overloadpacket.__name__
    copies = name in ("copy_", "_to_copy", "to")
    here = [x for x in given if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim() > 0]
    if wrapped and here and not copies:
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"expected all tensors to be on one device; {operator} got {shapes} on the CPU, others not")
    if asked:
        stays = asked[0].type == DEVICE.type
    else:
        stays = isinstance(args[0], Elsewhere) if name == "copy_" else bool(wrapped)
    by_mask = name.startswith("index") and any(isinstance(x, Elsewhere) and x.dtype == torch.bool for x in given[1:])
    if wrapped and (not stays or by_mask or QUESTIONS & {name, f"{name}.{operator._overloadname}"}):
        Watch.asked(name)

    def unwrapped(x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("cpu") if x.type == DEVICE.type else x
        return x.here if isinstance(x, Elsewhere) else x

    def again(x: Any) -> Any:
        if not stays or not isinstance(x, Tensor):
            return x
        return wrapped[id(x)] if id(x) in wrapped else Elsewhere(x)

    result = operator(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if name == "to" and stays != bool(wrapped):
        result = result.clone()  # between devices, there are two of it
    return tree_map(again, result)


def made(name: str) -> Any:
    """The operator of that name, for PyTorch's own code that runs below all modes, as `torch.tensor` does."""
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: answer(operator, args, kwargs)


# Once for the process, and before its first backward: it makes a thread for each device, and never another.
torch._register_device_module(DEVICE.type, Nowhere())
torch._C._acc.register_python_privateuseone_hook(Hooks())
torch._C._acc.register_python_privateuseone_device_guard(Guard())
KERNELS = torch.library.Library("aten", "IMPL")
for name in ("empty_strided", "empty.memory_format", "copy_"):
    KERNELS.impl(name, made(name), "PrivateUse1")
