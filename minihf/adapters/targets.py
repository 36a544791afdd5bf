"""Which modules of a model an adapter goes to: peft's rules, and an error for each name that leads nowhere."""

import difflib
import logging
import re
from collections.abc import Iterable

from torch import nn

from minihf.adapters.config import LoraConfig
from minihf.adapters.lora import LoraEmbedding, LoraLayer, LoraLinear, SavedModule
from minihf.models.base import Model
from minihf.nn.conv1d import Conv1D

logger = logging.getLogger(__name__)

# Queries and values, as in the paper's experiments. peft has the first three lines, and else asks for names.
DEFAULTS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("query", "value")),
    **dict.fromkeys(("bart", "llama", "mistral", "mixtral"), ("q_proj", "v_proj")),
    "t5": ("q", "v"), "mt5": ("q", "v"), "gpt2": ("c_attn",),
    **dict.fromkeys(("albert", "camembert"), ("query", "value")),
    **dict.fromkeys(("mbart", "marian", "pegasus"), ("q_proj", "v_proj")),
    "distilbert": ("q_lin", "v_lin"), "openai-gpt": ("c_attn",), "ctrl": ("Wq", "Wv"),
}
# The new heads that adapters of a task train whole, under the names that most architectures have for them.
HEADS = {
    "SEQ_CLS": ["classifier", "score"],
    "TOKEN_CLS": ["classifier", "score"],
    "QUESTION_ANS": ["qa_outputs"],
}


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module, of the model as it was before any adapter: an adapter's layer is one module, with none inside."""
    found: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        if name:
            found[name] = module
        if not isinstance(module, LoraLayer | SavedModule):
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", model)
    return found


def base_of(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, LoraLayer) else module


def is_linear(module: nn.Module) -> bool:
    return isinstance(base_of(module), nn.Linear | Conv1D)


def adapted(module: nn.Module) -> LoraLayer | None:
    """A layer for adapters over this module, if there is one for its kind."""
    if is_linear(module):
        return LoraLinear(module)
    looked_up = type(module).forward is nn.Embedding.forward or hasattr(module, "scale")  # and no table of positions
    return LoraEmbedding(module) if isinstance(module, nn.Embedding) and looked_up else None


def settle(model: nn.Module, config: LoraConfig, *, strict: bool) -> list[str]:
    """Fill in what the config leaves to the model, and give the names of the modules that it chooses.

    Raises:
        ValueError: a name that matches nothing (with `strict`), or a module of another kind; all are listed.
    """
    modules = candidates(model)
    if config.target_modules is None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if model_type not in DEFAULTS:
            raise ValueError(f"there are no usual target_modules for {model_type!r}: name some in the config")
        config.target_modules = [*DEFAULTS[model_type]]
    if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        head = model.get_output_embeddings() if isinstance(model, Model) else None
        routers = {f"{name}.gate" for name, module in modules.items() if hasattr(module, "experts")}
        linear = [name for name, module in modules.items() if is_linear(module) and module is not head]
        config.target_modules = [name for name in linear if name not in routers and not excluded(config, name)]
        strict = False
    chosen = [name for name in modules if name and is_target(config, name)]
    problems = [*unmatched(modules, config, chosen)] if strict or not chosen else []
    for name in chosen:
        if not isinstance(modules[name], LoraLayer) and adapted(modules[name]) is None:
            problems.append(unsuitable(name, modules[name]))
    if problems:
        raise ValueError("the adapter does not fit the model:\n  " + "\n  ".join(problems))
    wide = any(isinstance(base_of(modules[name]), Conv1D) for name in chosen)
    if wide != config.fan_in_fan_out:
        logger.warning("fan_in_fan_out is set to %s, as the target modules are", wide)
        config.fan_in_fan_out = wide
    return chosen


def is_target(config: LoraConfig, name: str) -> bool:
    if excluded(config, name) or not matches(config.target_modules, name):
        return False
    layers = config.layers_to_transform
    if isinstance(config.target_modules, str) or layers is None or layers == [] or name in config.target_modules:
        return True
    return layer_of(config, name) in ([layers] if isinstance(layers, int) else layers)


def excluded(config: LoraConfig, name: str) -> bool:
    saved = config.modules_to_save or []
    inside = any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in saved)
    return inside or name.endswith(tuple(saved)) or matches(config.exclude_modules or [], name)


def matches(wanted: list[str] | str, name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == ending or name.endswith(f".{ending}") for ending in wanted)


def layer_of(config: LoraConfig, name: str) -> int | None:
    """The number of the layer that a module is in: the first number of its name, or after `layers_pattern`."""
    patterns = config.layers_pattern or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    rules = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((match for rule in rules if (match := re.match(rule, name))), None)
    return int(found[1]) if found else None


def pattern_value(patterns: dict, name: str, otherwise: float) -> float:
    """Of `rank_pattern` or `alpha_pattern`, what the first key says that the end of the name matches."""
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def unmatched(modules: dict[str, nn.Module], config: LoraConfig, chosen: list[str]) -> Iterable[str]:
    """What each name that leads nowhere is, and what it may have meant."""
    targets = config.target_modules
    if isinstance(targets, str):
        if not chosen:
            leaves = sorted({name.split(".")[-1] for name, m in modules.items() if is_linear(m)})
            known = ", ".join(leaves)
            yield f"target_modules={targets!r} matches no whole name of a module; the linear layers are {known}"
    else:
        for target in targets or ["target_modules=[]"]:
            if not any(matches([target], name) for name in chosen):
                inside = [name for name in modules if matches([target], name)]
                yield explained(target, inside, config) if inside else f"{target!r} is no module{near(target, modules)}"
    rest = config.exclude_modules or []
    for name in [rest] if isinstance(rest, str) else rest:
        if not any(matches(rest if isinstance(rest, str) else [name], module) for module in modules):
            yield f"exclude_modules: {name!r} is no module{near(name, modules)}"
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, field):
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in chosen):
                yield f"{field}: {key!r} matches none of the target modules{near(key, dict.fromkeys(chosen))}"


def explained(target: str, inside: list[str], config: LoraConfig) -> str:
    if all(excluded(config, name) for name in inside):
        return f"{target!r} is excluded, by exclude_modules or because modules_to_save trains it whole"
    return f"{target!r} is in no layer of layers_to_transform={config.layers_to_transform}, such as {inside[0]!r}"


def near(name: str, modules: Iterable[str]) -> str:
    names = [module.split(".") for module in modules]
    known = {".".join(parts[-k:]) for parts in names for k in range(1, len(parts) + 1)}
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not found:
        found = sorted({parts[-1] for parts in names if not parts[-1].isdigit()})
        return "; there are " + ", ".join(found)
    return "; did you mean " + " or ".join(map(repr, found)) + "?"


def unsuitable(name: str, module: nn.Module) -> str:
    if isinstance(module, SavedModule):
        return f"{name!r} is trained whole by another adapter (modules_to_save): leave it out"
    parts = [part for part, child in module.named_modules() if part and is_linear(child)]
    inside = f"; inside it are {', '.join(parts[:6])}" if parts else ""
    return f"{name!r} is a {type(module).__name__}; adapters are for linear layers, Conv1D and embeddings{inside}"
