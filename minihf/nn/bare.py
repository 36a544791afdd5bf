"""A model without the machinery of `nn.Module`: the same forward code on the same tensors, in plain objects.

To call a module, PyTorch looks for hooks, and finds each parameter and submodule through `__getattr__`. In a small
model that reads one token at a time, this costs more than the mathematics. Here each module becomes an object whose
call *is* its class's forward, and whose parameters are plain attributes. Where nobody is listening, an activation may
overwrite what it is given. What is not ours to see through stays the module it is: one with a hook, with a forward put
in its place, or of somebody else's class (an adapter, say).

The plain model is the oracle: both give the same numbers, bit for bit.
"""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook  # private, and the only way to know

from minihf.nn.activations import in_place

# Of PyTorch's modules, those whose forward reads its attributes and nothing else.
TRANSPARENT = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Identity)
CONTAINERS = (nn.ModuleList, nn.ModuleDict)
MACHINERY = vars(nn.Module()).keys() - {"training"}
hooks_of = itemgetter(*(name for name in MACHINERY if name.endswith("_hooks") and "state_dict" not in name))


def bare(
    module: Any, swap: Callable[[nn.Module], Any] | None = None, classes: dict[type, type] | None = None
) -> Any:
    """The module as plain objects, lists and dicts; for inference, since it knows no dropout.

    It is a view of the module as it is now: tensors are shared, modules put in later are not seen. A module in training
    comes back as it is.

    Args:
        swap: gives what is to stand in a module's place, or None for its plain twin.
        classes: for the recursion.
    """
    classes = {} if classes is None else classes
    if type(module) is nn.ModuleList:
        return [bare(child, swap, classes) for child in module]
    if type(module) is nn.ModuleDict:
        return {name: bare(child, swap, classes) for name, child in module.items()}
    if not isinstance(module, nn.Module) or module.training or is_opaque(module):
        return module
    if swap is not None and (other := swap(module)) is not None:
        return other
    if isinstance(module, nn.Dropout):
        return nothing_dropped
    if hasattr(type(module), "stands_for"):  # an adapter's copy of a module
        return bare(module.stands_for(), swap, classes)
    if type(module) not in classes:
        classes[type(module)] = bare_class(type(module))
    twin = classes[type(module)]()
    own = {name: value for name, value in vars(module).items() if name not in MACHINERY}
    parts = {name: bare(child, swap, classes) for name, child in module._modules.items()}
    vars(twin).update(own | module._parameters | module._buffers | parts)
    # By this name goes what is applied to the output of a linear layer, which only a hook could keep. (An identity in
    # its place, somebody's experiment, gives what is not its own.)
    if "activation" in vars(twin):
        inside = [m for m in modules_of(module) if type(m) not in CONTAINERS]
        if not any(is_opaque(m) or type(m) is nn.Identity for m in inside):
            twin.activation = in_place(module.activation)
    return twin


def is_opaque(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith("minihf.") or type(module) in TRANSPARENT
    return not ours or is_heard(module)


def is_heard(module: nn.Module) -> bool:
    """Somebody hears of its calls, or changes what goes in or out."""
    return "forward" in vars(module) or any(hooks_of(vars(module))) or _has_any_global_hook()


def modules_of(module: nn.Module) -> list[nn.Module]:
    """As `modules()`, without the names that it makes on its way."""
    found, known = [module], {module}
    for each in found:
        new = [child for child in each._modules.values() if child is not None and child not in known]
        found += new
        known.update(new)
    return found


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for each in modules_of(module):
        yield from (x for x in (*each._parameters.values(), *each._buffers.values()) if x is not None)


def nothing_dropped(x):
    return x


def bare_class(cls: type[nn.Module]) -> type:
    """A class with the methods and properties of `cls`, without those of `nn.Module`, whose call is the forward."""
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base not in (object, nn.Module):
            members |= {name: value for name, value in vars(base).items() if not name.startswith("__")}
    return type(cls.__name__, (), {**members, "__call__": cls.forward})
