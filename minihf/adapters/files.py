"""An adapter as peft's two files: `adapter_config.json`, and `adapter_model.safetensors` with its few tensors.

A key is the name that the parameter has in the wrapped model, less the adapter's own name:
`base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight`. A module that was trained whole keeps its
own names (`base_model.model.classifier.weight`), and so do biases that were.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minihf.adapters.lora import LoraLayer, SavedModule
from minihf.checkpoints.files import CheckpointError
from minihf.checkpoints.format import as_tensor, map_file, write_file
from minihf.checkpoints.hub import Source
from minihf.models.base import Model

if TYPE_CHECKING:
    from minihf.adapters.model import PeftModel

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
TWICE = {"original_module", "modules_to_save"}  # in peft's files with bias="all", other names of biases of such modules
EMBEDDINGS = ("embed_tokens", "lm_head")  # with an adapter on one of these names, peft's files hold its table too


def adapter_tensors(model: "PeftModel", name: str) -> dict[str, Tensor]:
    """Key in the file -> parameter, of all that the adapter trains."""
    base, config = model.get_base_model(), model.peft_config[name]
    found: dict[str, Tensor] = {}
    saved = [path for path, module in base.named_modules() if isinstance(module, SavedModule)]
    for path, module in base.named_modules():
        if isinstance(module, LoraLayer | SavedModule) and name in module.names():
            found |= {f"{path}.{key}": part for key, part in module.parts(name).items()}
        if config.bias == "lora_only" and isinstance(module, LoraLayer) and getattr(module, "bias", None) is not None:
            found[f"{path}.base_layer.bias"] = module.bias
    if config.bias == "all":
        for key, parameter in base.named_parameters(remove_duplicate=False):
            if key.endswith(".bias") and not key.startswith(tuple(f"{path}." for path in saved)):
                found[key] = parameter
    return {PREFIX + key: tensor for key, tensor in found.items()}


def embedding_tensors(model: "PeftModel", *, adapted_only: bool = False) -> dict[str, Tensor]:
    """Key in the file -> parameter, of the model's own embeddings and output layer."""
    base = model.get_base_model()
    if not isinstance(base, Model):
        return {}
    tables = [layer for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    found = {}
    for path, module in base.named_modules():
        if any(module is layer for layer in tables) and not isinstance(module, SavedModule):
            inside = f"{PREFIX}{path}.base_layer" if isinstance(module, LoraLayer) else PREFIX + path
            if isinstance(module, LoraLayer) or not adapted_only:
                own = getattr(module, "base_layer", module)
                found |= {f"{inside}.{key}": parameter for key, parameter in own.named_parameters()}
    return found


def get_peft_model_state_dict(
    model: "PeftModel", adapter_name: str = "default", save_embedding_layers: bool | str = "auto"
) -> dict[str, Tensor]:
    """The tensors of an adapter, under the keys of its file.

    Args:
        model: what `get_peft_model` gave.
        adapter_name: which of its adapters.
        save_embedding_layers: the model's own embeddings and output layer, too. "auto": where the adapter is over one
            named "embed_tokens" or "lm_head", or the vocabulary was resized, without which nobody could load it.
    """
    model.require(adapter_name)
    targets = model.peft_config[adapter_name].target_modules
    named = [name for name in model.targets[adapter_name] if name.split(".")[-1] in EMBEDDINGS]
    adapted = bool(named) if isinstance(targets, str) else any(name in targets for name in EMBEDDINGS)
    resized = getattr(model.get_base_model(), "vocabulary_changed", False)
    tensors = adapter_tensors(model, adapter_name)
    if save_embedding_layers is True or (save_embedding_layers == "auto" and (adapted or resized)):
        tensors |= embedding_tensors(model, adapted_only=adapted)
    return {key: tensor.detach() for key, tensor in tensors.items()}


def set_peft_model_state_dict(
    model: "PeftModel", peft_model_state_dict: Mapping[str, Tensor], adapter_name: str = "default"
) -> None:
    """Copy tensors under the keys of a file into an adapter that is already there.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape; all are listed, and nothing is copied.
    """
    model.require(adapter_name)
    needed = adapter_tensors(model, adapter_name)
    known = needed | {key: tensor for key, tensor in embedding_tensors(model).items() if key not in needed}
    file = {key: x for key, x in peft_model_state_dict.items() if not {*key.split(".")} & TWICE}
    problems = [f"{key}: missing from the file" for key in needed if key not in file]
    problems += [f"{key}: in the file, unknown to the model" for key in file if key not in known]
    for key in file.keys() & known.keys():
        there, here = tuple(file[key].shape), tuple(known[key].shape)
        problems += [f"{key}: shape {there} in the file, {here} in the model"] if there != here else []
    if problems:
        raise CheckpointError(mismatch(model, adapter_name) + "\n  ".join(["", *problems]))
    with torch.no_grad():
        for key, tensor in file.items():
            known[key].copy_(tensor)


def mismatch(model: "PeftModel", adapter_name: str) -> str:
    config, base = model.peft_config[adapter_name], model.get_base_model()
    made_for = f"was made for {config.base_model_name_or_path!r} and " if config.base_model_name_or_path else ""
    ours = f"{type(base).__name__} {getattr(base, 'name_or_path', '') or '(not from a file)'}"
    return f"the adapter {adapter_name!r} {made_for}does not fit {ours}:"


def save_adapter(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `adapter_model.safetensors`; a file that was there stays whole until the new one is."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as aside:
        write_file(Path(aside, WEIGHTS_NAME), tensors)
        os.replace(Path(aside, WEIGHTS_NAME), folder / WEIGHTS_NAME)


def load_adapter(source: Source) -> dict[str, Tensor]:
    """The tensors of a source's `adapter_model.safetensors`.

    Raises:
        FileNotFoundError: there is none. CheckpointError: it is broken, or there is a pickle instead.
    """
    if source.find(WEIGHTS_NAME) is None and source.find("adapter_model.bin") is not None:
        raise CheckpointError(
            f"{source} has its adapter in a pickle, adapter_model.bin. Only safetensors are loaded, because opening a "
            "pickle can run any code: load it with peft, and save it again"
        )
    mapped = map_file(source.get(WEIGHTS_NAME))
    return {name: as_tensor(info, mapped.storages[name]) for name, info in mapped.tensors.items()}
