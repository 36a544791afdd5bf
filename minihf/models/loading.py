"""From a checkpoint to a model.

The model is made on the meta device, where tensors have shapes and no memory. The ledger finds a place for each tensor
of the file; only when everything fits are the tensors put there, mapped from the file: nothing is copied that need not
be, and there is never a half-loaded model.
"""

import copy
import difflib
import inspect
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minihf.checkpoints.experts import apart, as_in_file
from minihf.checkpoints.files import CheckpointError, Weights, read_json
from minihf.checkpoints.hub import Source
from minihf.checkpoints.ledger import Ledger, match
from minihf.generation.config import GenerationConfig
from minihf.models.config import FILE_NAME, Config, as_dtype

if TYPE_CHECKING:
    from minihf.models.base import Model

logger = logging.getLogger(__name__)


def load_pretrained(
    cls: type["Model"],
    name_or_path: str | Path,
    *,
    config: Config | None = None,
    dtype: torch.dtype | str | None = "auto",
    attn_implementation: str | None = None,
    device_map: str | torch.device | None = None,
    strict: bool = True,
    ignore_mismatched_sizes: bool = False,
    output_loading_info: bool = False,
    trust_remote_code: bool = False,
    use_safetensors: bool | None = True,
    torch_dtype: torch.dtype | str | None = None,
    low_cpu_mem_usage: bool | None = None,
    **options: Any,
) -> "Model | tuple[Model, dict]":
    """Load a model of class `cls` from a folder or a hub name, in eval mode.

    Args:
        name_or_path: a folder with `config.json` and safetensors files, or a name such as "bert-base-uncased".
        config: use this config rather than the checkpoint's.
        dtype: of the parameters: a dtype, its name, or "auto": the config's, else that of the file's first tensor. None
            is float32.
        attn_implementation: "sdpa" (the default), "eager" or, of an encoder, "packed" (see `minihf.fast.packed`).
        device_map: the device to load to: "cuda", "cuda:1", "cpu"; "auto" is the GPU where there is one. "meta" checks
            the file and makes the model, and reads no weight: tensors have shapes and no values.
        strict: False loads what fits, and initialises what is missing.
        ignore_mismatched_sizes: initialise parameters that have another shape in the file afresh.
        output_loading_info: return (model, ledger as a dict) instead of the model.
        trust_remote_code, use_safetensors: only False, and only True: minihf never runs what a file says.
        torch_dtype: the former name of `dtype`.
        low_cpu_mem_usage: accepted, as people give it: a file is mapped, and fills no memory of its own.
        options: where to look (`revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`),
            and any field of the config, changed while loading (`num_labels=3`).

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: a file is broken, or does not fit the model; it lists everything that is wrong.
        MemoryError: a file is too large to be mapped on this machine.
    """
    if trust_remote_code:
        raise ValueError("minihf runs no code that a checkpoint brings: leave trust_remote_code out")
    if use_safetensors is False:
        raise ValueError("minihf loads safetensors only: leave use_safetensors out")
    source, changes = Source.split(name_or_path, options)
    source, config = settle_config(cls, source, config, changes)
    if attn_implementation is not None:
        config.attn_implementation = attn_implementation
    device = pick_device(device_map)

    with Weights.open(source, meta=device.type == "meta") as weights:
        try:
            with torch.device("meta"), NoValuesOnMeta():
                model = cls(config)
        except (RuntimeError, MemoryError, OverflowError) as error:
            raise CheckpointError(f"{source}: the config's numbers make no model: {error}") from error
        expected = as_in_file(weights.tensors, model.state_dict(keep_vars=True))
        ledger = match(
            weights.tensors,
            {name: tensor.shape for name, (_, tensor) in expected.items()},
            prefix=cls.base_model_prefix,
            other_prefixes=cls.other_prefixes,
            is_base=model.base_model is model,
            heads=cls.heads,
            tied=model.ties(),
            aliases=cls.aliases,
        )
        ledger.check(source.name, strict=strict, ignore_mismatched_sizes=ignore_mismatched_sizes)
        dtype = pick_dtype(dtype if torch_dtype is None else torch_dtype, config, weights)
        fresh = [*ledger.new, *ledger.missing, *(key for key, _, _ in ledger.mismatched)]
        initialise(model, [*dict.fromkeys(expected[name][0] for name in fresh)], dtype, device)
        for name, key in ledger.loaded.items():
            parameter, target = expected[name]
            if isinstance(target, nn.Parameter) or name == parameter:  # a whole one, or a buffer; and no part
                place(model, parameter, weights.take(key).to(device=device, dtype=dtype_of(model, name, dtype)))
            else:
                fill(model, parameter, name, weights.take(key), dtype, device)

    reconcile_ties(model, ledger)
    model.name_or_path = source.name
    model.to(device)  # what no file holds: tables that a model computes
    model.config.dtype = str(dtype).removeprefix("torch.")
    generation = source.find("generation_config.json") if cls.can_generate else None
    if generation is not None:
        model.generation_config = GenerationConfig.from_file(generation)
    buffers = dict(model.named_buffers())
    untrained = [name for name in fresh if name not in buffers]  # a buffer is not learned
    if untrained and device.type != "meta":
        logger.warning(
            "%s: not in the checkpoint %s, and newly initialised: %s. Train the model before you use it.",
            cls.__name__,
            source.name,
            ", ".join(untrained),
        )
    model.eval()
    return (model, ledger.as_dict(buffers)) if output_loading_info else model


def settle_config(
    cls: type["Model"], source: Source, given: Config | None, changes: dict[str, Any]
) -> tuple[Source, Config]:
    """The config to build from, and the source of the weights that belong to it."""
    if given is not None:
        if not isinstance(given, Config):
            raise TypeError(
                f"config= takes a config, such as AutoConfig.from_pretrained(...), not a {type(given).__name__}"
            )
        if changes:
            raise TypeError(f"config= is given, so change {', '.join(changes)} in it, not while loading")
        return source, copy.deepcopy(given)  # a model may change its config; the caller's is the caller's
    path = source.get(FILE_NAME)
    check_known(cls, path, changes)
    return source.pinned(path), cls.config_class.from_file(path, **changes)


class NoValuesOnMeta(TorchFunctionMode):
    """A tensor on the meta device has no values to initialise; PyTorch would import its compiler to find that out.

    That import takes more time than everything else that loading does, and 70 MB.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init" or function in (Tensor.normal_, Tensor.uniform_):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*args, **(kwargs or {}))


def check_known(cls: type["Model"], path: Path, changes: dict[str, Any]) -> None:
    """A keyword that neither minihf nor the config has ever heard of is a slip of the pen."""
    if not changes:
        return
    config = cls.config_class
    properties = {name for name in dir(config) if isinstance(getattr(config, name), property)}  # num_labels, rope_theta
    known = {*vars(config()), *config.attribute_map, *properties, *read_json(path)}
    options = {*inspect.signature(load_pretrained).parameters, *(field.name for field in fields(Source))}
    for name in changes.keys() - known:
        near = difflib.get_close_matches(name, known | options, n=1)
        raise TypeError(
            f"{cls.__name__}.from_pretrained has no option {name!r}, and {cls.config_class.__name__} no such field"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )


def pick_dtype(dtype: torch.dtype | str | None, config: Config, weights: Weights) -> torch.dtype:
    if dtype == "auto":
        first = next((info.dtype for info in weights.tensors.values() if info.dtype.is_floating_point), torch.float32)
        dtype = config.dtype or first
    return torch.float32 if dtype is None else as_dtype(dtype)


def dtype_of(model: "Model", name: str, dtype: torch.dtype) -> torch.dtype:
    """Of one parameter of a model that is loaded as `dtype`: see `Model.kept_in_float32`."""
    kept = dtype == torch.float16 and f".{name}".split(".")[-2] in model.kept_in_float32
    return torch.float32 if kept else dtype


def pick_device(device_map: str | torch.device | None) -> torch.device:
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device_map, dict):
        raise ValueError(
            "device_map names one device here: 'cuda', 'cpu' or 'auto'; minihf does not split a model over several"
        )
    return torch.device("cpu" if device_map is None else device_map)


def place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter, or the buffer, of that name."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, last, tensor if last in module._buffers else nn.Parameter(tensor))


def fill(model: nn.Module, name: str, part: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Copy a tensor to its part of the parameter of that name, which gets memory with its first part."""
    if model.get_parameter(name).is_meta:
        place(model, name, torch.empty_like(model.get_parameter(name), dtype=dtype, device=device))
    apart(name, model.get_parameter(name).data)[part].copy_(tensor)


def initialise(model: "Model", names: list[str], dtype: torch.dtype, device: torch.device) -> None:
    """First values for parameters that no file holds. The others are still on the meta device, out of reach."""
    state = model.state_dict()
    for name in names:
        place(model, name, torch.zeros(state[name].shape, dtype=dtype_of(model, name, dtype), device=device))
    with NoValuesOnMeta():
        for module in model.modules():
            if hasattr(module, "init_own_weights"):  # the model, and a model inside it
                module.init_own_weights()


def reconcile_ties(model: "Model", ledger: Ledger) -> None:
    """Tie what the file held once. A file that holds both, with different numbers, means it: they stay two."""
    for target, source in model.ties().items():
        if ledger.tied.get(source) == target:  # the file has only the other name of it
            place(model, source, model.get_parameter(target).data)
        elif target in ledger.loaded and differ(model.get_parameter(target), model.get_parameter(source)):
            model.untied.add(target)
            logger.warning("%s and %s differ in the checkpoint, so they are not tied", target, source)
    model.tie_weights()


def differ(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have different values. On the meta device none have any, and the config's word counts."""
    return not a.is_meta and not torch.equal(a, b)
