"""A model and its adapters: made, trained, switched, merged, saved and loaded, as with peft's `PeftModel`.

The wrapped model is changed in place: a layer that gets an adapter becomes a `LoraLayer` over itself. All of its own
parameters stop learning, and `unload` gives it back as it was.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minihf.adapters.config import CONFIG_NAME, ELSEWHERE, LoraConfig
from minihf.adapters.files import (
    get_peft_model_state_dict,
    load_adapter,
    save_adapter,
    set_peft_model_state_dict,
)
from minihf.adapters.lora import LoraLayer, SavedModule
from minihf.adapters.targets import HEADS, adapted, candidates, near, pattern_value, settle
from minihf.checkpoints.hub import Source
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.models.base import Model

logger = logging.getLogger(__name__)


def get_peft_model(
    model: nn.Module,
    peft_config: LoraConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
) -> "PeftModel":
    """Put an adapter on a model, which is changed in place: only the adapter's parameters learn.

    Args:
        model: one of minihf's, or any module with linear layers.
        peft_config: the adapter; the model keeps a copy, in which what was left open is filled in.
        adapter_name: by which it can be told from others.
        autocast_adapter_dtype: over a half-precision model, the adapter's parameters are float32 all the same.
        revision: of the base model, a note in the file.

    Raises:
        ValueError: a name matches no module, or a module of a kind that takes no adapter; all are listed.
    """
    if not isinstance(peft_config, LoraConfig):
        raise TypeError(f"get_peft_model takes a LoraConfig, not a {type(peft_config).__name__}")
    if any(isinstance(module, LoraLayer | SavedModule) for module in model.modules()):
        raise ValueError("the model has an adapter already: unload() it, or add_adapter() to what get_peft_model gave")
    wrapped = PeftModel(model, peft_config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)
    if revision is not None:
        wrapped.peft_config[adapter_name].revision = revision
    return wrapped


class PeftModel(PushToHubMixin, nn.Module):
    """A model with adapters. What it does not have itself (`config`, `device`, …) is the wrapped model's."""

    def __init__(
        self,
        model: nn.Module,
        peft_config: LoraConfig,
        adapter_name: str = "default",
        *,
        autocast_adapter_dtype: bool = True,
        strict: bool = True,
    ):
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})  # a level in peft's names
        self.peft_config: dict[str, LoraConfig] = {}
        self.targets: dict[str, list[str]] = {}  # adapter -> the names of its modules
        self._active: list[str] = []
        self._insert(adapter_name, peft_config, autocast=autocast_adapter_dtype, strict=strict)
        self.set_adapter(adapter_name, inference_mode=self.peft_config[adapter_name].inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_base_model()(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.get_base_model().generate(*args, **kwargs)

    def get_base_model(self) -> nn.Module:
        """The wrapped model, adapters and all."""
        return self.base_model["model"]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # not there yet
                raise
            return getattr(self.get_base_model(), name)

    # Adapters

    @property
    def active_adapter(self) -> str | list[str]:
        return self._active[0] if len(self._active) == 1 else [*self._active]

    @property
    def active_adapters(self) -> list[str]:
        return [*self._active]

    def add_adapter(
        self, adapter_name: str, peft_config: LoraConfig, *, autocast_adapter_dtype: bool = True
    ) -> None:
        """Another adapter beside those that are there; `set_adapter` makes it the active one."""
        self._insert(adapter_name, peft_config, autocast=autocast_adapter_dtype, strict=True)
        self._train(self._active)

    def _insert(self, name: str, config: LoraConfig, *, autocast: bool, strict: bool) -> None:
        check_newcomer(name, config, self.peft_config, strict=strict)
        model, config = self.get_base_model(), copy.deepcopy(config)
        heads = HEADS.get(config.task_type, [])
        given = config.modules_to_save or []
        config.modules_to_save = [*dict.fromkeys([*given, *heads])] or config.modules_to_save
        chosen = settle(model, config, strict=strict)
        modules = candidates(model)
        saved = [path for path in modules if path.endswith(tuple(config.modules_to_save or []))]
        check_saved(modules, given, saved, strict=strict)
        if heads and not any(path.endswith(tuple(heads)) for path in saved):
            logger.warning(
                "task_type=%s trains a head named %s; %s has none: if its head is new, name it in modules_to_save",
                config.task_type,
                " or ".join(heads),
                type(model).__name__,
            )

        if not self.peft_config:
            model.requires_grad_(False)
        for path in chosen:
            layer = modules[path]
            if not isinstance(layer, LoraLayer):
                layer = adapted(layer)
                model.set_submodule(path, layer)
            half = autocast and layer.weight.dtype.itemsize < 4
            r = pattern_value(config.rank_pattern, path, config.r)
            alpha = pattern_value(config.alpha_pattern, path, config.lora_alpha)
            layer.add(name, config, r, alpha, torch.float32 if half else layer.weight.dtype)
            layer.train(model.training)
        for path in saved:
            module = modules[path]
            if not isinstance(module, SavedModule):
                module = SavedModule(module)
                model.set_submodule(path, module)
            module.add(name)
        config.base_model_name_or_path = getattr(model, "name_or_path", None) or config.base_model_name_or_path
        self.peft_config[name], self.targets[name] = config, chosen

    def set_adapter(self, adapter_name: str | list[str], *, inference_mode: bool = False) -> None:
        """Make one adapter active, or several, which then add up. Only active ones learn, unless `inference_mode`."""
        names = [adapter_name] if isinstance(adapter_name, str) else [*adapter_name]
        self.require(*names)
        for path, module in self.get_base_model().named_modules():
            if isinstance(module, SavedModule) and len({*names} & {*module.names()}) > 1:
                raise ValueError(f"{path} is trained whole by several of {', '.join(names)}: only one can be active")
        self._active = names
        self._train([] if inference_mode else names)

    def _train(self, learning: list[str]) -> None:
        """Let the active adapters count, and these of them learn."""
        for module in self.layers():
            own = module.names()
            module.active = [name for name in self._active if name in own]
            for name in own:
                for part in module.parts(name).values():
                    if part.is_floating_point():
                        part.requires_grad_(name in learning)
        for name in learning:
            for parameter in self.biases(name):
                parameter.requires_grad_(True)

    def biases(self, name: str) -> list[nn.Parameter]:
        """The biases of the model that an adapter trains."""
        kind, model = self.peft_config[name].bias, self.get_base_model()
        if kind == "lora_only":
            layers = [module for module in self.layers() if isinstance(module, LoraLayer)]
            return [layer.bias for layer in layers if getattr(layer, "bias", None) is not None]
        inside = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, SavedModule))
        named = model.named_parameters() if kind == "all" else []
        return [x for key, x in named if key.endswith(".bias") and not (inside and key.startswith(inside))]

    def layers(self) -> list[LoraLayer | SavedModule]:
        return [module for module in self.get_base_model().modules() if isinstance(module, LoraLayer | SavedModule)]

    def require(self, *names: str) -> None:
        for name in names:
            if name not in self.peft_config:
                raise ValueError(f"there is no adapter {name!r}; there are {', '.join(self.peft_config) or 'none'}")

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter away. If it was active alone, the first of the others is active next."""
        self.require(adapter_name)
        for module in self.layers():
            module.remove(adapter_name)
        del self.peft_config[adapter_name], self.targets[adapter_name]
        if adapter_name in self._active:
            rest = [name for name in self._active if name != adapter_name] or [*self.peft_config][:1]
            logger.warning("the adapter %r was active, and is deleted; active is now %s", adapter_name, rest or "none")
            self.set_adapter(rest)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside, the model is as without adapters; biases that one trained stay trained."""
        before = [(module, module.active, [*getattr(module, "merged", [])]) for module in self.layers()]
        biased = [name for name in self._active if self.peft_config[name].bias != "none"]
        if biased:
            logger.warning("the adapter %r trained biases of the model, which stay as they are", biased[0])
        try:
            for module, _, merged in before:
                module.active = []
                if merged:
                    module.unmerge()
            yield
        finally:
            for module, active, merged in before:
                module.active = active
                if merged:
                    module.merge(merged)

    # Merging

    def merge_adapter(self, adapter_names: list[str] | None = None) -> None:
        """Add the products of the active adapters (or of these) to the weights: the same outputs, in less time."""
        self.require(*(adapter_names or []))
        for module in self.layers():
            if isinstance(module, LoraLayer):
                module.merge(self._active if adapter_names is None else adapter_names)

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`, exactly."""
        for module in self.layers():
            if isinstance(module, LoraLayer):
                module.unmerge()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = True, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """The model, with the active adapters (or these) in its weights, and free of them: a plain model again.

        `progressbar` and `safe_merge` are peft's: there is no bar, as it takes a moment, and weights that would not be
        finite are an error in any case.
        """
        self.merge_adapter(adapter_names)
        chosen = self._active if adapter_names is None else adapter_names
        for module in self.layers():
            if isinstance(module, SavedModule):
                module.active = [name for name in chosen if name in module.names()]
        return self._plain(lambda module: module.stands_for())

    def unload(self) -> nn.Module:
        """The model as it was before any adapter. Biases that one trained stay trained."""
        self.unmerge_adapter()
        return self._plain(lambda module: module.original_module)

    def _plain(self, chosen) -> nn.Module:
        model = self.get_base_model()
        for path, module in [*model.named_modules()]:
            if isinstance(module, LoraLayer):
                model.set_submodule(path, module.base_layer)
            elif isinstance(module, SavedModule):
                model.set_submodule(path, chosen(module))
        for part in model.modules():  # what an adapter has set apart, no later call may tie again
            if isinstance(part, Model):
                ties = part.ties().items()
                part.untied |= {t for t, source in ties if part.get_parameter(t) is not part.get_parameter(source)}
        return model

    # Numbers

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(how many numbers learn, how many there are)"""
        counts = [(x.numel(), x.requires_grad) for x in self.parameters()]
        return sum(n for n, learns in counts if learns), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Print how many numbers learn, in peft's words."""
        learn, total = self.get_nb_trainable_parameters()
        # The library never prints, save where nothing else is asked for.
        print(f"trainable params: {learn:,d} || all params: {total:,d} || trainable%: {100 * learn / total:.4f}")  # noqa: T201

    # Files

    @pushes
    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        save_embedding_layers: bool | str = "auto",
        is_main_process: bool = True,
        save_function: Any = None,
    ) -> None:
        """Write each adapter (or these) as peft does: "default" into the folder, any other into a folder of its name.

        `save_embedding_layers` is `get_peft_model_state_dict`'s; the others are `Model.save_pretrained`'s.
        """
        if not safe_serialization:
            raise ValueError("minihf writes safetensors only: leave safe_serialization out")
        if not is_main_process:
            return
        names = [*self.peft_config] if selected_adapters is None else selected_adapters
        self.require(*names)
        for name in names:
            folder = Path(save_directory) if name == "default" else Path(save_directory, name)
            save_adapter(folder, get_peft_model_state_dict(self, name, save_embedding_layers))
            config = copy.copy(self.peft_config[name])
            config.inference_mode = True
            config.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        model_id: str | Path,
        adapter_name: str = "default",
        *,
        is_trainable: bool = False,
        config: LoraConfig | None = None,
        autocast_adapter_dtype: bool = True,
        **where: Any,
    ) -> "PeftModel":
        """Put a saved adapter on the model that it was made for.

        Args:
            model: the base model, changed in place.
            model_id: a folder, or a name on the hub.
            adapter_name: what to call it.
            is_trainable: it goes on learning; else it is for inference, and the model is set to eval mode.
            config: use this one rather than the file's.
            autocast_adapter_dtype: as in `get_peft_model`.
            where: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            FileNotFoundError: there is no such adapter.
            CheckpointError: a file is broken, or does not fit the model; it lists everything that is wrong.
        """
        config, tensors = read(model_id, config, where, is_trainable)
        wrapped = cls(model, config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype, strict=False)
        try:
            wrapped._fill(tensors, config, adapter_name)
        except Exception:
            wrapped.unload()
            raise
        return wrapped if is_trainable else wrapped.eval()

    def load_adapter(
        self,
        model_id: str | Path,
        adapter_name: str,
        *,
        is_trainable: bool = False,
        autocast_adapter_dtype: bool = True,
        **where: Any,
    ) -> None:
        """Another saved adapter, beside those that are there: `from_pretrained`'s arguments. Not active before
        `set_adapter`."""
        config, tensors = read(model_id, None, where, is_trainable)
        self._insert(adapter_name, config, autocast=autocast_adapter_dtype, strict=False)
        self._train(self._active)
        try:
            self._fill(tensors, config, adapter_name)
        except Exception:
            self.delete_adapter(adapter_name)
            raise
        if not is_trainable:
            self.eval()

    def _fill(self, tensors: dict[str, torch.Tensor], config: LoraConfig, name: str) -> None:
        made_for, ours = config.base_model_name_or_path, getattr(self.get_base_model(), "name_or_path", "")
        self.peft_config[name].base_model_name_or_path = made_for or ours or None
        set_peft_model_state_dict(self, tensors, name)
        if made_for and ours and Path(made_for).name != Path(ours).name:
            logger.warning("the adapter %r was made for %s, and the model is %s", name, made_for, ours)


def read(
    model_id: str | Path, config: LoraConfig | None, where: dict[str, Any], is_trainable: bool
) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """A saved adapter: its config and its tensors."""
    source, others = Source.split(model_id, where)
    if others:
        raise TypeError(f"loading an adapter has no option {', '.join(others)}")
    if config is None:
        path = source.get(CONFIG_NAME)
        source, config = source.pinned(path), LoraConfig.from_file(path)
    config = copy.deepcopy(config)
    config.inference_mode = not is_trainable
    return config, load_adapter(source)


def check_newcomer(name: str, config: LoraConfig, others: dict[str, LoraConfig], *, strict: bool) -> None:
    """That an adapter has a name of its own, goes together with the others, and can be made; not yet of its modules."""
    if name in others:
        raise ValueError(f"there is an adapter {name!r} already; there are {', '.join(others)}")
    if not name or "." in name:
        raise ValueError(f"{name!r} is no name of an adapter: it becomes a part of parameters' names, without dots")
    biased = [other for other, known in others.items() if known.bias != "none"]
    if config.bias != "none" and biased:
        raise ValueError(f"{biased[0]!r} trains biases of the model, which are there once: set bias='none'")
    if strict and config.init_lora_weights in ELSEWHERE:
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} is known of adapters that are loaded, and not "
            'implemented for new ones: choose True, False or "gaussian"'
        )


def check_saved(modules: dict[str, nn.Module], given: list[str], saved: list[str], *, strict: bool) -> None:
    """That each of the modules to train whole is there, and free of other adapters."""
    problems = []
    for name in given if strict else []:
        if not any(path.endswith(name) for path in modules):
            problems.append(f"modules_to_save: {name!r} is no module{near(name, modules)}")
    for path in saved:
        if any(isinstance(part, LoraLayer) for part in modules[path].modules()):
            problems.append(f"modules_to_save: another adapter is on or inside {path!r}")
        if any(path != other and path.startswith(other + ".") for other in saved):
            problems.append(f"modules_to_save: {path!r} is inside another one of them")
    if problems:
        raise ValueError("the adapter does not fit the model:\n  " + "\n  ".join(problems))
