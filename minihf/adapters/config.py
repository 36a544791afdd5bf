"""What describes an adapter: `adapter_config.json`, with peft's names and defaults.

peft knows many relatives of LoRA, each with fields of its own. A file names them all; where such a field says that it
is not used, it is read over. Where it says something, the weights mean something else, and that is an error.
"""

import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from minihf.checkpoints.fields import annotations, check_types
from minihf.checkpoints.files import CheckpointError, read_json, write_json
from minihf.checkpoints.hub import Source
from minihf.checkpoints.publish import PushToHubMixin, pushes

CONFIG_NAME = "adapter_config.json"
BIASES = ("none", "all", "lora_only")
# First values that leave the model's own weights alone: adapters that were trained from them are like any other.
ELSEWHERE = ("eva", "mica", "orthogonal")
# Of peft's other fields, the values that change nothing, besides None, False and what is empty.
IDLE = {"megatron_core": "megatron.core", "qalora_group_size": 16}
NOTES = {"peft_version", "runtime_config", "auto_mapping", "eva_config"}  # how it was made, not what it is


class TaskType(StrEnum):
    """What a model is for; an adapter of a classifier trains the new head too."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


@dataclass(init=False)
class LoraConfig(PushToHubMixin):
    """An adapter of low rank. `LoraConfig(**fields)` takes keywords only.

    Names are those of modules, whole ("transformer.h.0.attn.c_attn") or from the right ("c_attn"); a text instead of a
    list is a regular expression that must match a whole name.

    Raises:
        ValueError: a value of a wrong type, or one that is not implemented, named.
        TypeError: a field that neither minihf nor peft has.
    """

    r: int = 8
    """The rank: A is (r, in), B is (out, r)."""
    target_modules: list[str] | str | None = None
    """Which modules; "all-linear": all linear layers but the output layer; None: queries and values."""
    exclude_modules: list[str] | str | None = None
    lora_alpha: int | float = 8
    """What is added is B A x, times lora_alpha / r."""
    lora_dropout: float = 0.0
    """Of what A reads, in training."""
    fan_in_fan_out: bool = False
    """A note for peft: the weights are Conv1D's, (in, out). minihf sees it."""
    bias: str = "none"
    """Which of the model's biases are trained too: "none", "all", or those of the target modules, "lora_only"."""
    use_rslora: bool = False
    """Divide by the root of r instead: ranks of any size then learn alike (Kalajdzievski, 2023)."""
    modules_to_save: list[str] | None = None
    """Modules that are trained whole and saved with the adapter, such as a new head."""
    init_lora_weights: bool | str = True
    """True: A random as a linear layer's, B zero. "gaussian": A normal, of deviation 1/r. False: both random, so that
    the adapter does something at once."""
    layers_to_transform: list[int] | int | None = None
    """Of the target modules, those in the layers of these numbers."""
    layers_pattern: list[str] | str | None = None
    """The name of the list of layers, where a model has several: "h"."""
    rank_pattern: dict = field(default_factory=dict)
    """Name, or regular expression that its end matches -> another r."""
    alpha_pattern: dict = field(default_factory=dict)
    """As `rank_pattern`, -> another lora_alpha."""
    task_type: str | None = None
    inference_mode: bool = False
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def __init__(self, **values: Any):
        own = annotations(type(self))
        others = {name: values.pop(name) for name in [*values] if name not in own}
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            setattr(self, item.name, values.get(item.name, default))
        for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"):
            value = getattr(self, name)
            if isinstance(value, set | frozenset | tuple | range):
                setattr(self, name, sorted(value))
        if isinstance(self.task_type, Enum):
            self.task_type = self.task_type.value
        check_types(self)
        self.check()
        refuse_relatives(others)

    def check(self) -> None:
        """Refuse what makes no adapter."""
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if type(r) is not int or r < 1:
                raise ValueError(f"a rank is a positive integer, not {name}={r!r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout} is no probability: expected 0 to 1, and less than 1")
        known = {"bias": BIASES, "init_lora_weights": (True, False, "gaussian", *ELSEWHERE)}
        known["task_type"] = (None, *(task.value for task in TaskType))
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not implemented; known are {', '.join(map(repr, choices))}"
                )
        if isinstance(self.target_modules, str) and (self.layers_to_transform is not None or self.layers_pattern):
            raise ValueError("layers_to_transform and layers_pattern choose among names: give target_modules as a list")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says where layers_to_transform counts: give both")
        for text in (self.target_modules, self.exclude_modules, *self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(text if isinstance(text, str) else "")
            except re.error as error:
                raise ValueError(f"{text!r} is no regular expression: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        return {"peft_type": "LORA", "auto_mapping": None, **asdict(self)}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **where: Any) -> "LoraConfig":
        """Read `adapter_config.json` of a folder or a hub name; `where` as in `AutoConfig.from_pretrained`.

        Raises:
            FileNotFoundError: there is no such file. CheckpointError: it is broken, or of another kind of adapter.
        """
        source, others = Source.split(name_or_path, where)
        if others:
            raise TypeError(f"LoraConfig.from_pretrained has no option {', '.join(others)}")
        return cls.from_file(source.get(CONFIG_NAME))

    @classmethod
    def from_file(cls, path: Path) -> "LoraConfig":
        values = read_json(path)
        kind = values.pop("peft_type", None)
        if kind != "LORA":
            raise CheckpointError(f"{path}: it describes an adapter of the kind {kind!r}; only LORA is implemented")
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    @pushes
    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `adapter_config.json` into a folder, which is made where there is none."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_json(Path(save_directory) / CONFIG_NAME, self.to_dict())


# peft 0.21's fields for relatives of LoRA, none of which is implemented
RELATIVES = {
    "alora_invocation_tokens", "arrow_config", "corda_config", "ensure_weight_tying", "kasa_config",
    "layer_replication", "loftq_config", "lora_bias", "lora_ga_config", "megatron_config", "megatron_core",
    "monteclora_config", "qalora_group_size", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora",
    "use_qalora", "velora_config",
}  # fmt: skip


def refuse_relatives(values: dict[str, Any]) -> None:
    """A field of another method than LoRA is an error, unless it is not used."""
    used = {name: v for name, v in values.items() if name not in NOTES and v and v != IDLE.get(name)}
    strange = [name for name in values if name not in NOTES | RELATIVES | {"peft_type"} and name in used]
    if strange:
        raise TypeError(f"LoraConfig has no field {', '.join(map(repr, strange))}")
    if used.pop("peft_type", "LORA") != "LORA":
        raise ValueError(f"peft_type={values['peft_type']!r} is not implemented; only LORA is")
    if used:
        told = ", ".join(f"{name}={value!r}" for name, value in used.items())
        raise ValueError(f"{told}: not implemented. minihf's adapters are plain LoRA, and rsLoRA")
